"""A process that holds models, an Accelerator and settings of its own finds them as they were."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import psutil
import pytest
import torch
import transformers
import wandb
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

import peftkit
from peftkit.errors import InputError, RunInterrupted
from peftkit.monitor import process_state
from peftkit.monitor.process_state import isolated_process_state
from peftkit.recipe import Recipe
from peftkit.train.trainer import Trainer
from tests.tiny_runs import ONE_EVALUATION, small_task

tqdm: Any = sys.modules["tqdm"]  # of datasets
Make = Callable[..., Recipe]
PARTS = (
    process_state._environment_variables,
    process_state._signal_handlers,
    process_state._exit_hooks,
    process_state._wandb_session,
    process_state._random_numbers,
    process_state._torch_settings,
    process_state._accelerate,
    process_state._loggers,
    process_state._progress_bars,
    warnings.catch_warnings,
)
LOGGERS = ("accelerate", "transformers", "datasets", "peft", "torch", "DeepSpeed", "mine")


def on_term(number: int, frame: Any) -> None:
    raise AssertionError


class Caller:
    """The state of the calling process: unlike the libraries' defaults wherever that is possible."""

    def __init__(self) -> None:
        random.seed(5)
        np.random.seed(6)
        torch.manual_seed(7)
        self.model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).double().train()
        self.accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=3)
        self.prepared, self.optimizer = self.accelerator.prepare(
            nn.Linear(4, 2), torch.optim.SGD(self.model.parameters(), lr=0.1)
        )
        os.environ.update(ACCELERATE_GRADIENT_ACCUMULATION_STEPS="7", WANDB_MODE="disabled", MINE="1")
        os.environ.pop("TOKENIZERS_PARALLELISM", None)
        signal.signal(signal.SIGTERM, on_term)
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.DEBUG)
        datasets.enable_progress_bars()
        transformers.utils.logging.enable_progress_bar()
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("cpu")
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = True
        torch.set_grad_enabled(False)

    def snapshot(self) -> dict[str, Any]:
        """Everything that a run could change."""
        numpy_state: Any = np.random.get_state()
        return {
            "random": random.getstate(),
            "numpy": [each.tolist() if isinstance(each, np.ndarray) else each for each in numpy_state],
            "torch": torch.get_rng_state().tolist(),
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "hooks": (sys.excepthook, sys.exit),
            "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
            "loggers": {
                name: (each.level, [*each.handlers], [*each.filters], each.propagate, each.disabled)
                for name in ("", *LOGGERS)
                for each in [logging.getLogger(name)]
            },
            "warnings": [*warnings.filters],
            "bars": (
                datasets.are_progress_bars_disabled(),
                transformers.utils.logging.is_progress_bar_enabled(),
                huggingface_hub.utils.are_progress_bars_disabled(),
            ),
            "settings": (
                torch.get_default_dtype(),
                torch.get_default_device(),
                torch.get_float32_matmul_precision(),
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
                torch.backends.cudnn.benchmark,
                torch.backends.cudnn.deterministic,
                torch.backends.cudnn.allow_tf32,
                torch.get_num_threads(),
                torch.is_grad_enabled(),
                torch.is_inference_mode_enabled(),
            ),
            "accelerate": [
                {key: repr(value) for key, value in each._shared_state.items()}
                for each in (PartialState, AcceleratorState, GradientState)
            ],
            "accelerator": (
                self.accelerator.mixed_precision,
                self.accelerator.gradient_accumulation_steps,
                self.accelerator.sync_gradients,
                str(self.accelerator.device),
                len(self.accelerator._models),
            ),
            "model": {key: value.tolist() for key, value in self.model.state_dict().items()},
            "training": (self.model.training, [p.requires_grad for p in self.model.parameters()]),
            "hub": huggingface_hub.constants.HF_HUB_OFFLINE,
        }


@pytest.fixture
def caller() -> Iterator[Caller]:
    with ExitStack() as stack:  # its parts, because another thread would wait for the whole
        for part in PARTS:
            stack.enter_context(part())
        yield Caller()


def assert_unchanged(caller: Caller, before: dict[str, Any]) -> None:
    after = caller.snapshot()
    assert {key: (before[key], after[key]) for key in before if before[key] != after[key]} == {}
    with torch.enable_grad(), caller.accelerator.accumulate(caller.prepared):  # it still works
        caller.accelerator.backward(caller.prepared(torch.ones(1, 4, dtype=torch.float32)).sum())
    assert caller.prepared.weight.grad is not None


def in_thread(function: Callable[[], Any]) -> Any:
    """Calls a function in another thread, and raises its error here."""
    result: list[Any] = []

    def work() -> None:
        try:
            result.append(function())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def here(function: Callable[[], Any]) -> Any:
    return function()


CALLS = pytest.mark.parametrize("call", [here, in_thread])


@CALLS
def test_runs_leave_the_process_as_it_was_and_give_the_numbers_of_a_process_of_their_own(
    call: Callable[..., Any], make: Make, request: pytest.FixtureRequest
) -> None:
    recipe = make("encoder", "train.budget.steps=2", *ONE_EVALUATION)
    alone = peftkit.run(recipe, quiet=True).summary["selected"]
    caller: Caller = request.getfixturevalue("caller")
    before = caller.snapshot()
    runs = [call(lambda: peftkit.run(recipe, quiet=True)) for _ in range(2)]
    assert_unchanged(caller, before)
    assert [run.summary["selected"] for run in runs] == [alone, alone]


@CALLS
def test_a_failed_run_leaves_the_process_as_it_was(
    call: Callable[..., Any], make: Make, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(Trainer, "train", fail)
    before = caller.snapshot()
    with pytest.raises(RuntimeError, match="boom"):
        call(lambda: peftkit.run(make("encoder"), quiet=True))
    assert_unchanged(caller, before)


@pytest.mark.slow
def test_an_interrupted_run_leaves_the_process_as_it_was_and_resumes(
    built_in: Callable[..., Recipe], caller: Caller, tmp_path: Path
) -> None:
    task = small_task(tmp_path / "rows")
    recipe = built_in("runs", task, "train.budget.steps=30", 'evaluate.every="15 steps"', "evaluate.train_examples=0")
    ended = threading.Event()

    def interrupt() -> None:
        while not [*tmp_path.glob("runs/*/evaluations.jsonl")] and not ended.is_set():
            time.sleep(0.01)
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    before = caller.snapshot()
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(RunInterrupted, match="interrupted by SIGINT, saved after step"):
            peftkit.run(recipe, quiet=True)
    finally:
        ended.set()
        thread.join()
    assert_unchanged(caller, before)
    (run,) = peftkit.load_runs(tmp_path / "runs")
    assert run.status == "interrupted"
    before = caller.snapshot()
    assert peftkit.run(recipe, resume=run, quiet=True) == run
    assert run.status == "done"
    assert_unchanged(caller, before)


@pytest.mark.slow
def test_predictions_models_and_estimates_leave_the_process_as_it_was(
    built_in: Callable[..., Recipe], caller: Caller, tmp_path: Path
) -> None:
    recipe = built_in("x", small_task(tmp_path / "rows"), "train.budget.steps=1", *ONE_EVALUATION)
    before = caller.snapshot()
    run = peftkit.run(recipe, quiet=True)
    assert [row["source"] for row in run.predict(["a bird", "a tree"])] != []
    model, tokenizer = peftkit.load_model(run)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert tokenizer is not None
    assert peftkit.estimate(run.recipe).trainable_parameters > 0
    assert_unchanged(caller, before)


def wandb_processes() -> set[int]:
    return {child.pid for child in psutil.Process().children() if "wandb" in " ".join(child.cmdline())}


def running_threads() -> set[threading.Thread]:
    """All threads without the timers of other libraries, which start one after the other."""
    return {thread for thread in threading.enumerate() if not isinstance(thread, threading.Timer)}


@pytest.mark.parametrize("with_session", [False, True])
def test_the_callers_session_of_wandb_is_the_only_one_that_is_left(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_session: bool
) -> None:
    wandb.teardown()
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(sys, "exit", sys.exit)
    mine: Any = wandb.init(mode="offline", dir=tmp_path, project="mine") if with_session else None
    before = (sys.excepthook, sys.exit, wandb.run, running_threads(), wandb_processes())
    run = peftkit.run(make("decoder", "track.to=['wandb']", "train.budget.steps=1"), quiet=True)
    assert [*run.path.glob("wandb/offline-run-*/*.wandb")]
    assert (sys.excepthook, sys.exit, wandb.run, running_threads(), wandb_processes()) == before
    if with_session:
        assert "method/name" not in dict(mine.config)
        mine.log({"x": 1})
        assert mine.summary["x"] == 1
        mine.finish()
        wandb.teardown()


CHANGES: dict[str, Callable[[], Any]] = {
    "random": lambda: random.seed(1),
    "numpy": lambda: np.random.seed(1),
    "torch": lambda: torch.manual_seed(1),
    "dtype": lambda: torch.set_default_dtype(torch.float16),
    "device": lambda: torch.set_default_device("meta"),
    "precision": lambda: torch.set_float32_matmul_precision("high"),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "grad": lambda: torch.set_grad_enabled(False),
    "threads": lambda: torch.set_num_threads(2),
    "flash": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "cudnn": lambda: setattr(torch.backends.cudnn, "deterministic", True),
    "new variable": lambda: os.environ.update(NEW="1"),
    "changed variable": lambda: os.environ.update(MINE="2"),
    "removed variable": lambda: os.environ.pop("MINE"),
    "folder": lambda: os.chdir("/"),
    "signal": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "hook": lambda: setattr(sys, "excepthook", print),
    "exit": lambda: setattr(sys, "exit", os._exit),
    "logger": lambda: logging.getLogger("mine").setLevel(logging.ERROR),
    "handler": lambda: logging.getLogger().addHandler(logging.NullHandler()),
    "filter": lambda: logging.getLogger("DeepSpeed").addFilter(lambda record: True),
    "disabled": lambda: logging.disable(logging.CRITICAL),
    "warnings": lambda: warnings.simplefilter("ignore"),
    "bars": transformers.utils.logging.disable_progress_bar,
    "bars of datasets": datasets.disable_progress_bars,
    "accelerator": lambda: Accelerator(cpu=True),
    "accelerate": lambda: AcceleratorState._reset_state(reset_partial_state=True),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_change_is_undone(change: str, error: type[BaseException] | None, caller: Caller) -> None:
    before = caller.snapshot()
    with suppress(KeyboardInterrupt), isolated_process_state():
        CHANGES[change]()
        if error:
            raise error
    assert_unchanged(caller, before)


def test_state_starts_from_the_defaults(caller: Caller) -> None:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), isolated_process_state():
        assert torch.get_default_dtype() == torch.float32
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == (True, False)
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.is_autocast_enabled("cpu")
        assert AcceleratorState._shared_state == {}
        assert (nn.Linear(2, 2)(torch.ones(1, 2)).dtype, torch.ones(1).is_inference()) == (torch.float32, False)


def test_the_threads_that_watch_progress_bars_end_unless_a_bar_is_shown() -> None:
    monitors = [thread for thread in threading.enumerate() if isinstance(thread, tqdm.TMonitor)]
    for monitor in monitors:
        monitor.exit()  # of other tests
    with process_state._progress_bars():
        list(tqdm.tqdm(range(2)))
        assert any(isinstance(thread, tqdm.TMonitor) for thread in threading.enumerate())
    assert not any(isinstance(thread, tqdm.TMonitor) for thread in threading.enumerate())
    with process_state._progress_bars():
        shown = tqdm.tqdm(range(2))
    assert any(isinstance(thread, tqdm.TMonitor) for thread in threading.enumerate())
    shown.close()


def test_another_thread_waits() -> None:
    order: list[str] = []

    def enter() -> None:
        with isolated_process_state():
            order.append("second")

    with isolated_process_state():
        thread = threading.Thread(target=enter)
        thread.start()
        time.sleep(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.slow
def test_the_first_call_of_a_process_restores_the_generators_that_imports_use() -> None:
    code = """
import random, numpy
from peftkit.monitor.process_state import isolated_process_state
random.seed(5), numpy.random.seed(5)
before = random.getstate(), numpy.random.get_state()[1].tolist()
with isolated_process_state():
    import transformers.modeling_utils
assert (random.getstate(), numpy.random.get_state()[1].tolist()) == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_group_of_the_caller_is_not_destroyed(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with pytest.raises(InputError, match="a run would destroy its process group"), isolated_process_state():
            raise AssertionError
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()


def test_one_of_several_launched_processes_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match=r"peftkit\.run trains in one process"):
        peftkit.run(make("encoder"))
