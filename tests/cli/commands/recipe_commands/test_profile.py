from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Peftkit

SMALL = (
    "--set",
    "model.name=pocket-encoder",
    "--set",
    "task={name = 'wordnet_topic'}",
    "--set",
    "train.batch_size=4",
)


@pytest.mark.slow
def test_profile_is_printed_and_its_trace_written(
    peftkit: Peftkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peftkit.analysis import step_profile

    monkeypatch.setattr(step_profile, "STEPS", 2)
    monkeypatch.setattr(step_profile, "PEAK_SIZES", (256,))
    trace = tmp_path / "trace.json"
    code, out, _ = peftkit("profile", "x.toml", "--trace", str(trace), *SMALL)
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[2:7]] == ["data", "forward", "backward", "optimizer", "other"]
    assert "GMAC/s" in out
    assert lines[-1] == f"  events: {trace}"
    assert trace.stat().st_size > 1000


def test_an_unwritable_trace_is_an_error_before_any_step(peftkit: Peftkit, tmp_path: Path) -> None:
    code, out, err = peftkit("profile", "x.toml", "--trace", str(tmp_path / "none" / "trace.json"), *SMALL)
    assert (code, out) == (2, "")
    assert "--trace" in err
    assert "No such file or directory" in err
