from __future__ import annotations

import logging
import sys

import pytest

from peftkit.monitor.verbosity import quiet_libraries


@pytest.mark.parametrize(("level", "shown"), [("warning", False), ("info", True)])
def test_logs_of_libraries_are_redirected_to_stderr(
    level: str, shown: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed adds a handler on standard output whenever it is imported."""
    logger = logging.getLogger("DeepSpeed")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "filters", [])
    quiet_libraries(level)
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.warning("Setting accelerator to CPU")
    logger.error("broken")
    out, err = capsys.readouterr()
    assert out == ""
    assert "broken" in err
    assert ("Setting accelerator to CPU" in err) == shown
