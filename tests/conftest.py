"""What every test relies on: no network, nobody's settings, and nothing left behind."""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import settings

# Set on import, before any library reads them. Each worker has a folder of its own.
_SCRATCH = tempfile.TemporaryDirectory(prefix="peftkit-tests-")
os.environ.pop("PEFTKIT_PLUGINS", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models are so small that threads would mostly wait for each other
os.environ.update(
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    PEFTKIT_CACHE=f"{_SCRATCH.name}/peftkit",
    HF_HOME=f"{_SCRATCH.name}/huggingface",
    WANDB_DIR=_SCRATCH.name,
    WANDB_CACHE_DIR=f"{_SCRATCH.name}/wandb-cache",
    WANDB_CONFIG_DIR=f"{_SCRATCH.name}/wandb-config",
    WANDB_DATA_DIR=f"{_SCRATCH.name}/wandb-data",
    MPLBACKEND="agg",
    HYPOTHESIS_STORAGE_DIRECTORY=f"{_SCRATCH.name}/hypothesis",
)
if "PYTEST_XDIST_WORKER" not in os.environ:  # one for all workers: a kernel takes a minute to compile
    os.environ["TORCH_EXTENSIONS_DIR"] = f"{_SCRATCH.name}/torch-extensions"

# `pytest --hypothesis-profile=many -m fuzz` is what CI runs besides.
# The same examples each time: what lands must not depend on luck. Other ones are drawn by "many".
settings.register_profile("few", deadline=None, database=None, max_examples=150, derandomize=True)
settings.register_profile("many", deadline=None, database=None, max_examples=5000)
settings.load_profile("few")


@pytest.fixture(autouse=True)
def hub_is_not_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test makes of the hub ends with it."""
    monkeypatch.setattr("peftkit.commits._away", [])


def pytest_unconfigure(config: pytest.Config) -> None:
    _SCRATCH.cleanup()
