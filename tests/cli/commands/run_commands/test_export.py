from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Peftkit


def test_export_copies_the_checkpoint_into_an_empty_folder(finished_run: Path, peftkit: Peftkit) -> None:
    assert peftkit("export", str(finished_run), "exported")[:2] == (0, "exported to exported\n")
    assert Path("exported/adapter_model.safetensors").is_file()
    code, _, err = peftkit("export", str(finished_run), "exported")
    assert code == 2
    assert "not an empty folder" in err
