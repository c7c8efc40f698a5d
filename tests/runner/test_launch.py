"""The launches that the README prints, as processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from peftkit.errors import RunError
from peftkit.plugins import Registry, load_registry
from peftkit.recipe import Recipe, dump_recipe
from peftkit.runner import run
from peftkit.runs import RunDirectory
from tests.runner.conftest import Make
from tests.runner.test_training import assert_close

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
CPU_WORLD = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


def start(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def plain(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without dropout, which no two divisions of a batch draw alike."""
    folder = tmp_path_factory.mktemp("plain") / "t5"
    shutil.copytree(models["encoder-decoder"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.0}))
    return folder


@pytest.fixture
def built_in(make: Make, plain: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Makes recipes of built-in components, which other processes know too, with run directories by name."""

    def made(name: str, *overrides: str) -> Recipe:
        own = ("task.name=wordnet_topic", f"model.name={plain}", f"run.output={tmp_path / name}")
        return make("encoder-decoder", *own, *overrides)

    return made


@pytest.fixture
def written(built_in: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Path]:
    """Writes such a recipe into a file."""

    def made(name: str, *overrides: str) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(dump_recipe(built_in(name, *overrides)), encoding="utf-8")
        return path

    return made


METHODS = sorted(load_registry().of("method"))
SHORT = (
    "train.optimizer=SGD",
    "train.learning_rate=0.05",
    "train.budget.steps=3",
    "evaluate.every=1 steps",
    "evaluate.dev_examples=9",
    "evaluate.test_examples=10",
)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_of_four_rows_equal_one_of_eight(
    method: str, built_in: Callable[..., Recipe], written: Callable[..., Path], tmp_path: Path, registry: Registry
) -> None:
    options = (*SHORT, f"method.name={method}")
    run(built_in("one", *options, "train.batch_size=8"), registry)
    two = written("two", *options, "train.batch_size=4")
    port = ["--main_process_port", "0"]
    launched = start(
        [*LAUNCH, *CPU_WORLD, *port, "--num_processes", "2", "-m", "peftkit", str(two)], ACCELERATE_USE_CPU="true"
    )
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("trainable") == 1  # the other process is quiet
    (first,), (second,) = (tmp_path / "one").iterdir(), (tmp_path / "two").iterdir()
    assert_close(first, second, 1e-5)
    assert RunDirectory(second).summary()["processes"] == 2


@pytest.mark.slow
def test_processes_that_would_train_each_alone_are_refused(written: Callable[..., Path], tmp_path: Path) -> None:
    recipe = written("alone", *SHORT)
    # What a launch for GPUs without one leaves behind: a world in the environment, and no process group.
    launched = start([sys.executable, "-m", "peftkit", str(recipe)], WORLD_SIZE="2", RANK="0")
    assert launched.returncode == 1
    assert "each trains alone" in launched.stderr
    assert "ACCELERATE_USE_CPU=true" in launched.stderr
    assert "Traceback" not in launched.stderr
    assert not (tmp_path / "alone").exists()


@pytest.mark.slow
@pytest.mark.parametrize("option", [["--num_processes", "2"], ["--num_processes=2"]])
def test_a_launch_that_silently_starts_one_process_is_refused(option: list[str], written: Callable[..., Path]) -> None:
    file = written("one", *SHORT)
    done = start([*LAUNCH, "--cpu", *option, "-m", "peftkit", str(file)])
    assert done.returncode == 1
    assert "`accelerate launch` was asked for 2 processes and started one; on a CPU launch with: " in done.stderr


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("DEEPSPEED", "DeepSpeed, which is not installed|DEEPSPEED, and something turned it off"),
        ("FSDP", "FSDP, and something turned it off"),
    ],
    ids=["deepspeed", "fsdp"],
)
def test_what_the_launch_asks_for_must_be_there(
    name: str, problem: str, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(RunError, match=f"the launch asks for ({problem})"):
        run(make("decoder"), registry)
