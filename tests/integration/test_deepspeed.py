"""DeepSpeed: sharded runs equal unsharded ones, and launches without sharding are errors."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
from safetensors.torch import load_file

from peftkit.errors import RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory
from peftkit.testing.processes import fork_all, free_port
from peftkit.train.run import run
from tests.integration.test_launch import COLOURS, CPU_WORLD, LAUNCH, SHORT
from tests.tiny_runs import Make, small_task
from tests.train.test_trainer import assert_close


def run_sharded(recipe: Recipe, registry: Registry, resume: str | None = None) -> None:
    """Run a recipe in two forked processes, with the environment variables of a launch.

    Reductions go through gloo: DeepSpeed's kernel takes a minute to compile, and is used in the launch test at night.
    """
    backend = import_module("deepspeed.comm.torch")
    import_module("deepspeed.runtime.zero.muon.original_muon")  # imports torch's compiler once, before the fork
    port = free_port()

    def run_rank(rank: int) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.environ.pop("ACCELERATE_USE_CPU", None)
        os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        vars(backend).update(build_shm_op=lambda: None)
        run(recipe, registry, resume=resume)

    assert fork_all([partial(run_rank, rank) for rank in range(2)]) == [0, 0]


def only(folder: Path) -> Path:
    [path] = folder.iterdir()
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "method"), [(2, "lora"), (3, "full")])
def test_a_sharded_run_equals_an_unsharded_one_and_resumes(
    stage: int, method: str, built_in: Callable[..., Recipe], registry: Registry, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    options = (
        *SHORT,
        COLOURS,
        f"method.name={method}",
        "train.max_grad_norm=0.1",
        "train.gradient_accumulation_steps=2",
    )
    options += ("train.checkpoint.every=1 steps", "train.checkpoint.keep=9", "evaluate.train_examples=4")
    options += ("evaluate.dev_examples=4", "evaluate.test_examples=5")
    whole = run(built_in("one", *options, "train.batch_size=8"), registry)
    assert whole is not None
    recipe = built_in("two", *options, "train.batch_size=4", f"train.deepspeed.stage={stage}")
    run_sharded(recipe, registry)
    sharded = only(tmp_path / "two")
    assert_close(whole, sharded, 1e-5)
    one, two = RunDirectory(whole).summary(), RunDirectory(sharded).summary()
    assert two["processes"] == 2
    assert two["parameters"] == one["parameters"]
    file = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    expected, saved = load_file(whole / "model" / file), load_file(sharded / "model" / file)
    assert expected.keys() == saved.keys()
    for name, tensor in expected.items():
        assert tensor.shape == saved[name].shape
        assert (tensor - saved[name]).abs().max() < 1e-5

    # As if it had been killed after step 2.
    before = (sharded / "evaluations.jsonl").read_text()
    (sharded / "summary.json").unlink()
    for later in sorted((sharded / "checkpoints").iterdir())[2:]:
        shutil.rmtree(later)
    run_sharded(recipe, registry, resume=str(sharded))
    assert RunDirectory(sharded).summary()["resumed_after_steps"] == [2]
    assert [timeless(line) for line in before.splitlines()] == [
        timeless(line) for line in (sharded / "evaluations.jsonl").read_text().splitlines()
    ]
    for name, tensor in load_file(sharded / "model" / file).items():
        assert tensor.equal(saved[name])


@pytest.mark.slow
@pytest.mark.exhaustive  # compiles DeepSpeed's kernel, which takes a minute
def test_the_documented_launch_shards(written: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    recipe = written("two", *SHORT, small_task(tmp_path / "rows"), "train.batch_size=4", "train.deepspeed.stage=2")
    command = [*LAUNCH, *CPU_WORLD, "--main_process_port", "0", "--num_processes", "2", "-m", "peftkit", str(recipe)]
    environment = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"} | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            _, errors = process.communicate(timeout=400)
        finally:
            with suppress(ProcessLookupError):  # also the launcher's children if it hangs
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors[-4000:]
    assert RunDirectory(only(tmp_path / "two")).summary()["processes"] == 2


def timeless(line: str) -> dict[str, object]:
    row = json.loads(line)
    del row["evaluation_seconds"]
    row["cost"] = {key: row["cost"][key] for key in ("gmacs", "gflops", "padding_tokens", "trainable_parameters")}
    return dict(row)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "DeepSpeed needs a launcher, even for one process; .*accelerate launch"),
        ({"RANK": "0", "ACCELERATE_USE_CPU": "true"}, "ACCELERATE_USE_CPU=true turns DeepSpeed off"),
    ],
    ids=["no launcher", "turned off"],
)
def test_a_launch_without_sharding_is_an_error(
    variables: dict[str, str], words: str, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=words):
        run(make("decoder", "train.deepspeed.stage=2"), registry)


@pytest.mark.parametrize(("age", "refused"), [(3600, True), (60, False)])
def test_an_abandoned_build_lock_is_an_error(
    age: int, refused: bool, make: Make, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "extensions" / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (time.time() - age, time.time() - age))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr("peftkit.distributed.accelerator.is_deepspeed_available", lambda: True)
    monkeypatch.setattr("peftkit.distributed.accelerator.DeepSpeedPlugin", reached)
    words = "60 minutes old.*delete that file" if refused else "^the plugin is created$"
    with pytest.raises(RunError, match=words):
        run(make("decoder", "train.deepspeed.stage=2"), registry)


def reached(**_: object) -> None:
    raise RunError("the plugin is created")


def test_a_missing_extra_is_an_error_with_the_install_command(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peftkit.distributed.accelerator.is_deepspeed_available", lambda: False)
    with pytest.raises(RunError, match=r"pip install 'peftkit\[deepspeed\]'"):
        run(make("decoder", "train.deepspeed.stage=2"), registry)


def test_a_launch_with_deepspeed_needs_a_recipe_with_deepspeed(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peftkit.distributed.accelerator.is_deepspeed_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(RunError, match=r"the recipe does not; set train\.deepspeed\.stage"):
        run(make("decoder"), registry)
