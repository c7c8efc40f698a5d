from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Peftkit


def test_merge_writes_a_model(finished_run: Path, peftkit: Peftkit) -> None:
    code, out, _ = peftkit("merge", str(finished_run), "merged")
    assert code == 0
    assert out.startswith("merged into merged; the logits differ by at most ")
    assert Path("merged/model.safetensors").is_file()
    code, _, err = peftkit("merge", str(finished_run), "merged")
    assert code == 2
    assert "not an empty folder" in err
