"""Isolates what peftkit does from the process that calls it, such as a notebook with models of its own.

The command line does not need this: its process ends with the command.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from peftkit.distributed.parsed_variables import check_parsed_variables
from peftkit.errors import InputError
from peftkit.hub_commits import hub_is_unreachable, set_offline

log = logging.getLogger(__name__)
_lock = threading.RLock()


@contextmanager
def isolated_process_state() -> Iterator[None]:
    """Start from the defaults of the libraries, and restore the caller's state at the end, also after an error.

    This is the state of the random number generators, Accelerate, torch's settings, environment variables, signal
    handlers, loggers, warnings, progress bars, the Hub's offline mode, and the hooks and the session of wandb. Other
    threads wait until it is restored.

    Raises:
        InputError: The process is in a process group of ``torch.distributed``, which a run would destroy, or a library
            cannot parse an environment variable.
    """
    with _lock, ExitStack() as stack:
        for part in (_environment_variables, _signal_handlers, _exit_hooks, _random_numbers):  # imports change them
            stack.enter_context(part())
        check_parsed_variables()
        _import_libraries()
        _check_process_group()
        for part in (_random_numbers, _torch_settings, _accelerate, _loggers, _progress_bars, _hub, _wandb_session):
            stack.enter_context(part())
        stack.enter_context(warnings.catch_warnings())
        yield


@contextmanager
def _environment_variables() -> Iterator[None]:
    before, folder = dict(os.environ), os.getcwd()
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})
        if os.getcwd() != folder:
            os.chdir(folder)


@contextmanager
def _signal_handlers() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # other threads cannot set handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:  # None: not set from Python
                signal.signal(number, handler)


@contextmanager
def _exit_hooks() -> Iterator[None]:
    """Restore ``sys.excepthook`` and ``sys.exit``, which wandb replaces."""
    before = {name: getattr(sys, name) for name in ("excepthook", "exit")}
    try:
        yield
    finally:
        for name, hook in before.items():
            setattr(sys, name, hook)


@contextmanager
def _wandb_session() -> Iterator[None]:
    """End the session of wandb, which has a process and threads, unless the caller had one."""
    is_callers = _has_wandb_session()
    try:
        yield
    finally:
        if not is_callers and _has_wandb_session():
            import wandb

            from peftkit.monitor.trackers import with_timeout

            if problem := with_timeout(wandb.teardown):
                log.warning("the session of wandb did not end: %s", problem)


def _has_wandb_session() -> bool:
    """Whether wandb has a session; it has no public way to ask."""
    setup = sys.modules.get("wandb.sdk.wandb_setup")
    return getattr(setup, "_singleton", None) is not None


def _import_libraries() -> None:
    """Import the libraries whose state is saved, so that their imports do not count as changes."""
    import accelerate
    import datasets
    import numpy
    import transformers

    libraries = (accelerate, datasets, numpy, transformers)
    for library in libraries:
        logging.getLogger(library.__name__)
    logging.getLogger("DeepSpeed")
    logging.getLogger("peft")


def _check_process_group() -> None:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise InputError(
            "torch.distributed is initialized in this process, and a run would destroy its process group; use a "
            "process of its own (peftkit run)"
        )


@contextmanager
def _random_numbers() -> Iterator[None]:
    """Restore the generators of the libraries that are imported."""
    states: list[tuple[Callable[[Any], Any], Any]] = [(random.setstate, random.getstate())]
    if "numpy" in sys.modules:
        import numpy as np

        states.append((np.random.set_state, np.random.get_state()))
    if "torch" in sys.modules:
        import torch

        states.append((torch.set_rng_state, torch.get_rng_state()))
        if torch.cuda.is_available():
            states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
        if torch.backends.mps.is_available():
            states.append((torch.mps.set_rng_state, torch.mps.get_rng_state()))
    try:
        yield
    finally:
        for restore, state in states:
            restore(state)


@contextmanager
def _torch_settings() -> Iterator[None]:
    import torch

    cuda: Any = torch.backends.cuda
    cudnn: Any = torch.backends.cudnn
    fill: Any = torch.utils.deterministic
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    restore: list[Callable[[], Any]] = [lambda: torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)]

    def save(value: Any, setter: Callable[[Any], Any]) -> None:
        restore.append(lambda: setter(value))

    save(torch.get_num_threads(), torch.set_num_threads)
    save(torch.get_default_dtype(), torch.set_default_dtype)
    if context := getattr(getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None):
        save(context.device, torch.set_default_device)
    save(cuda.flash_sdp_enabled(), cuda.enable_flash_sdp)
    save(cuda.mem_efficient_sdp_enabled(), cuda.enable_mem_efficient_sdp)
    save(cuda.math_sdp_enabled(), cuda.enable_math_sdp)
    save(cuda.cudnn_sdp_enabled(), cuda.enable_cudnn_sdp)
    for name in ("enabled", "benchmark", "deterministic"):
        save(getattr(cudnn, name), partial(setattr, cudnn, name))
    save(fill.fill_uninitialized_memory, partial(setattr, fill, "fill_uninitialized_memory"))
    precision = _matmul_precision()
    try:
        # The same numbers as in a process of its own with as many threads.
        torch.set_default_dtype(torch.float32)
        if context:
            torch.set_default_device(None)
        torch.use_deterministic_algorithms(False)
        cudnn.benchmark = cudnn.deterministic = False
        if precision not in ("", "highest"):
            torch.set_float32_matmul_precision("highest")
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            yield
    finally:
        for setter in restore:
            setter()
        if precision != _matmul_precision():
            torch.set_float32_matmul_precision(precision)


def _matmul_precision() -> str:
    """The precision of float32 matrix products; empty if it was set for one backend only, which torch cannot mix."""
    import torch

    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return ""


@contextmanager
def _accelerate() -> Iterator[None]:
    """Replace Accelerate's shared states, not their contents: the caller's Accelerator keeps its own."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    classes: tuple[Any, ...] = (PartialState, AcceleratorState, GradientState)
    before = [vars(each)["_shared_state"] for each in classes]
    try:
        for each in classes:
            each._shared_state = {}
        yield
    finally:
        for each, state in zip(classes, before, strict=True):
            each._shared_state = state


@contextmanager
def _loggers() -> Iterator[None]:
    manager = logging.root.manager
    loggers = [logging.root, *(each for each in manager.loggerDict.values() if isinstance(each, logging.Logger))]
    before = [
        (each, each.level, list(each.handlers), list(each.filters), each.propagate, each.disabled) for each in loggers
    ]
    disabled = manager.disable
    try:
        yield
    finally:
        for each, level, handlers, filters, propagate, is_disabled in before:
            each.handlers[:], each.filters[:] = handlers, filters
            each.propagate, each.disabled = propagate, is_disabled
            each.setLevel(level)
        logging.disable(disabled)


@contextmanager
def _progress_bars() -> Iterator[None]:
    import datasets
    import huggingface_hub
    import transformers.utils.logging as transformers

    hub: Any = huggingface_hub.utils
    of_datasets, of_hub = datasets.are_progress_bars_disabled(), hub.are_progress_bars_disabled()
    of_transformers = transformers.is_progress_bar_enabled()
    threads = set(threading.enumerate())
    try:
        yield
    finally:
        _stop_progress_threads(threads)
        if of_datasets != datasets.are_progress_bars_disabled():
            (datasets.disable_progress_bars if of_datasets else datasets.enable_progress_bars)()
        if of_transformers != transformers.is_progress_bar_enabled():
            (transformers.enable_progress_bar if of_transformers else transformers.disable_progress_bar)()
        if of_hub != hub.are_progress_bars_disabled():
            (hub.disable_progress_bars if of_hub else hub.enable_progress_bars)()


def _stop_progress_threads(others: Container[threading.Thread]) -> None:
    """Stop the threads with which tqdm watches bars, except those of bars that are shown."""
    monitor_class = getattr(sys.modules.get("tqdm"), "TMonitor", ())  # not imported: it is a library of libraries
    for thread in threading.enumerate():
        monitor: Any = thread
        if isinstance(thread, monitor_class) and thread not in others and not monitor.tqdm_cls._instances:
            monitor.exit()


@contextmanager
def _hub() -> Iterator[None]:
    unreachable = hub_is_unreachable()
    try:
        yield
    finally:
        if hub_is_unreachable() != unreachable:
            set_offline(unreachable)
