from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Peftkit


def test_compare_prints_the_table_or_writes_a_file(peftkit: Peftkit, runs: Path, tmp_path: Path) -> None:
    code, out, err = peftkit("compare", str(runs), "--share", "0.5", "--share", "0.9", "--budget", "1.5", "--wide")
    assert (code, err) == (0, "")
    assert "to 0.5 of full" in out
    assert "to 0.9 of full" in out
    assert "within 1.5 GMACs: lora (0.8" in out
    assert out.splitlines()[2].startswith("Use lora: accuracy 0.8"), "the verdict comes first"
    narrow = peftkit("compare", str(runs))[1]
    assert max(map(len, narrow.splitlines())) <= 80
    [comparison] = json.loads(peftkit("compare", str(runs), "--margin", "0.5", "--format", "json")[1])["comparisons"]
    assert (comparison["margin"], comparison["verdict"]["margin"]) == (0.5, 0.5)
    file = tmp_path / "table.parquet"
    assert peftkit("compare", str(runs), "--format", "parquet", "-o", str(file))[:2] == (0, "")
    assert file.read_bytes()[:4] == b"PAR1"
    code, _, err = peftkit("compare", str(runs), "--format", "parquet")
    assert code == 2
    assert "name a file with --output" in err
    code, _, err = peftkit("compare", str(runs), "-o", str(tmp_path / "none" / "x"))
    assert code == 1
    assert "cannot be written" in err
    for words, message in ((("--share", "1.5"), "at most 1"), (("--budget", "x"), "must be a number above 0")):
        code, _, err = peftkit("compare", str(runs), *words)
        assert code == 2
        assert message in err
