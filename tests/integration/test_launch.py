"""Launches as printed in the README, in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from peftkit import Method
from peftkit.cli import main
from peftkit.plugins import Registry, load_registry
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory
from peftkit.testing import run_spec
from peftkit.testing.processes import command, run_processes
from peftkit.train.run import run
from tests.tiny_runs import small_task
from tests.train.test_trainer import assert_close

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
CPU_WORLD = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


def start(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


SHORT = (
    "train.optimizer=SGD",
    "train.learning_rate=0.05",
    "train.budget.steps=3",
    "evaluate.every=100%",
    "evaluate.train_examples=9",
    "evaluate.dev_examples=9",
    "evaluate.test_examples=10",
    "evaluate.full_splits=false",
)


COLOURS = "task.name=colours"
"""A small task for forked processes; the built-in ones have ten thousand rows to tokenize."""
FAMILIES = ("vera", "prefix_tuning", "prompt_tuning", "adalora", "boft")
"""A method of each kind in addition to full fine-tuning and LoRA; `scripts/support_matrix.py` runs all."""
AT_NIGHT = ("p_tuning", "ia3", "ln_tuning")
"""More of them, whose parameters are replicated as those of the others are."""


def others() -> list[str]:
    """Full fine-tuning, LoRA, and methods of other distributions that support T5."""
    entries = [
        entry for entry in load_registry().all("method", presets=False).values() if entry.distribution != "peftkit"
    ]
    methods = [e.component.model_validate(dict(getattr(e.component, "tiny_options", {}))) for e in entries]
    return [
        "full",
        "lora",
        *(m.name for m in methods if isinstance(m, Method) and not m.incompatible_with(run_spec("t5"))),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        *others(),
        *(pytest.param(name, marks=pytest.mark.one_line) for name in FAMILIES),
        *(pytest.param(name, marks=(pytest.mark.one_line, pytest.mark.exhaustive)) for name in AT_NIGHT),
    ],
)
def test_two_processes_of_four_rows_equal_one_of_eight(
    method: str, built_in: Callable[..., Recipe], tmp_path: Path, registry: Registry
) -> None:
    component: Any = registry.all("method")[method].component
    trial = {"method": component.model_validate(dict(component.tiny_options))}
    run(built_in("one", *SHORT, COLOURS, "train.batch_size=8").model_copy(update=trial), registry)
    run_processes(built_in("two", *SHORT, COLOURS, "train.batch_size=4").model_copy(update=trial), registry, 2)
    (first,), (second,) = (tmp_path / "one").iterdir(), (tmp_path / "two").iterdir()
    assert_close(first, second, 1e-5)
    assert RunDirectory(second).summary()["processes"] == 2


@pytest.mark.slow
def test_the_documented_launch_starts_two_processes_and_prints_once(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    command = [*LAUNCH, *CPU_WORLD, "--main_process_port", "0", "--num_processes", "2", "-m", "peftkit"]
    recipe = written("two", *SHORT, small_task(tmp_path / "rows"))
    launched = start([*command, str(recipe)], ACCELERATE_USE_CPU="true")
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("trainable") == 1


@pytest.mark.slow
def test_processes_without_a_process_group_are_an_error(written: Callable[..., Path], tmp_path: Path) -> None:
    recipe = written("alone", *SHORT)
    # A GPU launch without GPUs sets WORLD_SIZE but creates no process group.
    launched = command(partial(main, [str(recipe)]), WORLD_SIZE="2", RANK="0")
    assert launched.returncode == 1
    assert "do not form one process group" in launched.stderr
    assert "ACCELERATE_USE_CPU=true" in launched.stderr
    assert "Traceback" not in launched.stderr
    assert not (tmp_path / "alone").exists()


@pytest.mark.slow
def test_a_launch_that_silently_starts_one_process_is_an_error(written: Callable[..., Path]) -> None:
    file = written("one", *SHORT)
    done = start([*LAUNCH, "--cpu", "--num_processes=2", "-m", "peftkit", str(file)])
    assert done.returncode == 1
    assert "`accelerate launch` was configured for 2 processes but started one; on a CPU launch with: " in done.stderr
