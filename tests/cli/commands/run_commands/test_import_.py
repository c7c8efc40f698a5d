from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Peftkit


def test_import_prints_the_folders(peftkit: Peftkit, tmp_path: Path) -> None:
    rows = [
        {f"{split}_MulticlassAccuracy": 0.5 for split in ("dev", "test")}
        | {"dev_loss": 1.0, "test_loss": 1.0, "steps_done": 8, "epochs_done": 0, "time_in_train": 1.0, "GMACs": 2.0}
    ]
    file = tmp_path / "FT_ag_news.json"
    file.write_text(json.dumps(rows))
    code, out, _ = peftkit("import", "peft-by-time", str(file), "-o", str(tmp_path / "runs"))
    assert code == 0
    assert (Path(out.strip()) / "summary.json").is_file()
    code, _, err = peftkit("import", "peft-by-time", str(tmp_path / "x.json"))
    assert code == 2
    assert "cannot be read" in err
