"""Isolation of tests: no network, no user settings, no files left behind."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from peftkit.plugins import Registry
    from peftkit.recipe import Recipe

# A shell starts background jobs with SIGINT ignored, which every process of a test would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Set on import, before any library reads them. Each worker has a folder of its own.
_SCRATCH = tempfile.TemporaryDirectory(prefix="peftkit-tests-")
os.environ.pop("PEFTKIT_PLUGINS", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not speed up tiny models
os.environ.update(
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    HF_HOME=f"{_SCRATCH.name}/huggingface",
    WANDB_DIR=_SCRATCH.name,
    WANDB_CACHE_DIR=f"{_SCRATCH.name}/wandb-cache",
    WANDB_CONFIG_DIR=f"{_SCRATCH.name}/wandb-config",
    WANDB_DATA_DIR=f"{_SCRATCH.name}/wandb-data",
    MPLBACKEND="agg",
    HYPOTHESIS_STORAGE_DIRECTORY=f"{_SCRATCH.name}/hypothesis",
)
if "PYTEST_XDIST_WORKER" not in os.environ:  # shared by all workers
    os.environ["TORCH_EXTENSIONS_DIR"] = f"{_SCRATCH.name}/torch-extensions"  # compiling a kernel takes a minute
    os.environ["PEFTKIT_CACHE"] = f"{_SCRATCH.name}/peftkit"  # tokenized rows, counts, and the options of peft

ONE_LINE = (
    "api/test_comparisons.py",
    "api/test_component_views.py",
    "compare",
    "components/test_components.py",
    "components/test_search_space.py",
    "data_files",
    "metrics/test_base.py",
    "metrics/test_classification.py",
    "metrics/test_distractors.py",
    "metrics/test_registered.py",
    "metrics/test_text.py",
    "plugins/test_class_checks.py",
    "recipe",
    "repository/test_docstrings.py",
    "repository/test_layout.py",
    "repository/test_wheel.py",
    "repository/test_terminology.py",
    "scripts/test_calibrate_statistics.py",
    "scripts/test_dev.py",
    "scripts/test_learning_rates.py",
    "scripts/test_pocket.py",
    "scripts/test_results.py",
    "scripts/test_slurm.py",
    "sweep",
    "tasks/test_columns.py",
    "tasks/test_prompt_templates.py",
    "repository/test_changelog.py",
    "test_errors.py",
    "test_hookspecs.py",
    "run_directory",
    "test_standard_streams.py",
)
"""Tests that run with one version of transformers only, as they do not import transformers, tokenizers or
huggingface_hub; ``tests/repository/test_transformers_lines.py`` checks that."""
AROUND = (
    "analysis",
    "answer_texts",
    "api",
    "cli",
    "components/test_method_suggestions.py",
    "data/test_dataloader.py",
    "data/test_evaluation_sets.py",
    "data/test_input_digests.py",
    "data/test_pipeline.py",
    "data/test_row_subsets.py",
    "data/test_token_cache.py",
    "distributed/test_environment_variables.py",
    "distributed/test_parsed_variables.py",
    "evaluate/test_base_measurement.py",
    "evaluate/test_baselines.py",
    "inference/test_harness_evaluation.py",
    "inference/test_predict.py",
    "inference/test_serving_benchmark.py",
    "integration/test_cached_layers.py",
    "integration/test_failures.py",
    "integration/test_objective_plugin.py",
    "integration/test_runs_without_data.py",
    "integration/test_sampled_texts.py",
    "integration/test_split_batches.py",
    "integration/test_steps_of_tokens.py",
    "macs",
    "meters/test_registered.py",
    "monitor/test_process_state.py",
    "monitor/test_trackers.py",
    "repository/test_code_blocks.py",
    "repository/test_notebook.py",
    "repository/test_transformers_lines.py",
    "scripts/test_commonsense_fixture.py",
    "scripts/test_plugin_reference.py",
    "sweep/test_work_estimate.py",
    "tasks/hub_suites",
    "tasks/sources",
    "tasks/test_data_check.py",
    "tasks/test_dataset_task.py",
    "tasks/test_labels.py",
    "tasks/test_multiple_choice.py",
    "tasks/test_registered.py",
    "tasks/test_wordnet.py",
    "test_cache_folder.py",
    "testing/test_objective_checks.py",
    "testing/test_pytest_suite.py",
    "testing/test_registries.py",
    "train/steps",
    "train/test_budget.py",
    "train/test_build_mac_counter.py",
    "train/test_callbacks.py",
    "train/test_checkpoint_selection.py",
    "train/test_early_stopping.py",
    "train/test_evaluation.py",
    "train/test_resume.py",
    "train/test_trainer.py",
    "train/test_wall_clock.py",
    "verify",
)
"""More tests that run with one version: they need a model, but the tested module imports none of these packages, or
measures and starts runs that other tests make with both versions.
Single tests of other files have the mark ``one_line``, and slow ones get it, except those of methods: most of them
repeat for further methods what others test. The other tests of runs, the conformance suite, the recipe matrix, the
plugins' tests and fuzzing run with both versions."""

QUICK = ("full", "lora", "prefix_tuning", "vera", "parallel_adapters", "none")
"""Methods for which tests of all methods run with ``-m "not slow"``."""


def slow_unless_quick(method: str, *others: str) -> Any:
    """Test parameters that end with the method, marked slow unless the method is in QUICK."""
    return pytest.param(*others, method, marks=() if method in QUICK else pytest.mark.slow)


def exhaustive_unless_quick(method: str) -> Any:
    """A method as a test parameter, marked exhaustive unless it is in QUICK."""
    return pytest.param(method, marks=() if method in QUICK else (pytest.mark.slow, pytest.mark.exhaustive))


# CI also runs `pytest --hypothesis-profile=many -m fuzz`.
# All but "random" are deterministic: whether CI passes must not depend on luck.
settings.register_profile("fewest", deadline=None, database=None, max_examples=40, derandomize=True)
settings.register_profile("few", deadline=None, database=None, max_examples=150, derandomize=True)
settings.register_profile("many", deadline=None, database=None, max_examples=800, derandomize=True)
settings.register_profile("random", deadline=None, database=None, max_examples=5000)
settings.load_profile("few")


# Fixtures of tiny models and recipes import tests.tiny_runs, and so torch, where a test asks for them.


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests import tiny_runs

    return tiny_runs.save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def registry() -> Registry:
    from tests import tiny_runs

    return tiny_runs.registry_with_test_components()


@pytest.fixture
def make(models: dict[str, Path], registry: Registry, tmp_path: Path) -> Callable[..., Recipe]:
    from tests import tiny_runs

    return tiny_runs.recipe_maker(models, registry, tmp_path)


@pytest.fixture(scope="session")
def plain(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import tiny_runs

    return tiny_runs.save_without_dropout(models, tmp_path_factory.mktemp("plain") / "t5")


@pytest.fixture
def built_in(make: Callable[..., Recipe], plain: Path, tmp_path: Path) -> Callable[..., Recipe]:
    from tests import tiny_runs

    return tiny_runs.built_in_maker(make, plain, tmp_path)


@pytest.fixture
def written(built_in: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Path]:
    from tests import tiny_runs

    return tiny_runs.built_in_writer(built_in, tmp_path)


@pytest.fixture(autouse=True)
def hub_is_not_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resets whether the hub is reachable."""
    monkeypatch.setattr("peftkit.hub_commits._unreachable", [])


def pytest_configure(config: pytest.Config) -> None:
    """Draws fewer examples in the quick loop."""
    if config.option.markexpr == "not slow":
        settings.load_profile("fewest")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that run with one version of transformers only."""
    here = Path(__file__).parent
    chosen = {here / name for name in (*ONE_LINE, *AROUND)}
    folders = {path: {path, *path.parents} for path in {item.path for item in items}}  # comparing paths is slow
    for item in items:
        around = folders[item.path]
        repeats = item.get_closest_marker("slow") is not None and here / "methods" not in around
        if here in around and (repeats or not chosen.isdisjoint(around)):
            item.add_marker(pytest.mark.one_line)


def _seed_present_devices_only() -> None:
    """Without a GPU, ``torch.manual_seed`` formats the stack for each kind of device, which takes most of its time."""
    for name in ("cuda", "xpu", "mtia"):
        device = sys.modules.get(f"torch.{name}")
        if device is not None and not device.is_available():
            for module in (device, sys.modules.get(f"torch.{name}.random")):
                if hasattr(module, "_lazy_call"):
                    module._lazy_call = lambda *_, **__: None


class Imports:
    """Excludes imported objects from garbage collection, which otherwise takes half of each run's time."""

    modules = 0
    """The number of modules whose objects are excluded."""

    @classmethod
    def freeze(cls) -> None:
        """Exclude what lives, if many modules were imported since."""
        if len(sys.modules) > cls.modules + 20:
            _seed_present_devices_only()
            gc.collect()
            gc.freeze()
            cls.modules = len(sys.modules)


def pytest_collection_finish(session: pytest.Session) -> None:
    Imports.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    Imports.freeze()  # many libraries are imported by the first test that uses them


def pytest_unconfigure(config: pytest.Config) -> None:
    _SCRATCH.cleanup()


@pytest.fixture
def regression_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install ``tests/regression_plugin.py`` as a distribution; returns the folder to put on a child's path."""
    site = write_distribution(tmp_path / "site", "regression", "tests.regression_plugin")
    monkeypatch.syspath_prepend(site)
    return site


def write_distribution(site: Path, plugin: str, module: str) -> Path:
    """Write the metadata of a distribution with one plugin; returns the folder, which is to be put on the path."""
    info = site / f"peftkit_{plugin}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: peftkit-{plugin}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[peftkit]\n{plugin} = {module}\n", encoding="utf-8")
    return site
