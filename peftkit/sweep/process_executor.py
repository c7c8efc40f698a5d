"""Run each recipe in a process of its own, so that runs cannot affect each other."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from peftkit.errors import RunInterrupted
from peftkit.sweep.warm_worker import Request, WarmWorker

LOG_LINES = 6
"""Final log lines of a failed run that are reported."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    code: int
    seconds: float
    last_lines: tuple[str, ...]


class Workers:
    """Run up to ``jobs`` recipes at a time, each on its own GPU if there are several.

    Processes are forked from one that has loaded model and data of the run before, if the system supports it, so that
    short runs do not spend most of their time on their start. With a launcher each is a new process.

    Args:
        jobs: Runs at a time; None for one per GPU, or one.
        launch: The command of a launcher.
        warm: Whether runs of the same model and task share what they load (see ``WarmWorker``). Otherwise each run is
            forked from a process that has imported the libraries only.
    """

    def __init__(self, jobs: int | None, launch: Sequence[str] = (), *, warm: bool = True) -> None:
        self.gpus = visible_gpus()
        self.jobs = jobs or max(1, len(self.gpus))
        self.launch = list(launch)
        self.stopped = 0
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(self.jobs):
            self._slots.put(slot)
        self._processes: set[Any] = set()
        self._lock = threading.Lock()
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        os.environ.setdefault("OMP_NUM_THREADS", threads)  # before the first process: torch reads it at import
        # Asking the driver for GPUs would initialize CUDA in the server process, and its forks could not use a GPU any
        # more; asking NVML does not.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        self._can_fork = can_fork = "forkserver" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if can_fork else "spawn")
        if can_fork:
            self._context.set_forkserver_preload(["peftkit.sweep.worker_main", "peftkit.sweep.warm_worker"])
        # A fork cannot use a GPU if the process that it is forked from has used one.
        self.warm = warm and can_fork and not self.gpus
        self._idle: list[WarmWorker] = []

    def prepare(self) -> None:
        """Wait for the process that runs are forked from: it imports the libraries, which takes seconds."""
        if self._can_fork and not self.launch:
            process = self._context.Process(target=int)
            process.start()
            process.join()

    @property
    def shares_inputs(self) -> bool:
        """Whether a run finds what an earlier one of the same model and task has loaded."""
        return self.warm and not self.launch

    def run(self, recipe: Path, resume: Path | None, log: Path) -> Outcome:
        """Run a recipe's file to its end, or resume a run directory.

        Args:
            recipe: The file.
            resume: The run directory to resume; None for a new run.
            log: The file for the output of the process.

        Returns:
            How the process ended.

        Raises:
            RunInterrupted: The sweep was stopped.
        """
        slot = self._slots.get()
        try:
            if self.stopped:
                raise RunInterrupted("the sweep was stopped", self.stopped)
            start = time.monotonic()
            log.parent.mkdir(parents=True, exist_ok=True)
            device = {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus and self.jobs > 1 else {}
            run = self._run_launched if self.launch else self._run_warm if self.warm else self._run_forked
            code = run(recipe, resume, log, device)
            if self.stopped:
                raise RunInterrupted("the sweep was stopped", self.stopped)
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            output = [line.rstrip() for line in lines if line.strip()]
            if code and not output:
                output = [f"killed by signal {-code}" if code < 0 else f"exit code {code}"]
            return Outcome(code, time.monotonic() - start, tuple(output[-LOG_LINES:]))
        finally:
            self._slots.put(slot)

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Forward SIGINT and SIGTERM to the runs, which save their state and exit; a second signal stops at once."""
        previous_handlers: dict[int, Any] = {}

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self.stopped:
                raise KeyboardInterrupt
            self.stopped = number
            self._terminate_all()

        if threading.current_thread() is threading.main_thread():
            previous_handlers = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous_handlers.items():
                signal.signal(number, handler)
            if self._processes:
                self._terminate_all()
            while self._idle:
                self._idle.pop().close()

    def _terminate_all(self) -> None:
        for process in [*self._processes]:
            with suppress(OSError, ValueError):
                process.terminate()

    def _run_warm(self, recipe: Path, resume: Path | None, log: Path, device: dict[str, str]) -> int:
        """Run in a fork of a process that has the inputs of the run; it gets them if it is the first."""
        request = Request(str(recipe), None if resume is None else str(resume), str(log), device)
        while self._idle and not self.stopped:
            with suppress(IndexError):  # another thread took it
                worker = self._idle.pop()
                if (code := self._run_in(worker, request)) is not None:
                    return code
        with self._lock:
            worker = WarmWorker(self._context)
        if (code := self._run_in(worker, request)) is not None:
            return code
        return self._run_forked(recipe, resume, log, device)  # it reports what cannot be loaded

    def _run_in(self, worker: WarmWorker, request: Request) -> int | None:
        self._processes.add(worker)
        try:
            code = worker.run(request)
        finally:
            self._processes.discard(worker)
        if worker.is_alive:
            self._idle.append(worker)
        return code

    def _run_forked(self, recipe: Path, resume: Path | None, log: Path, device: dict[str, str]) -> int:
        from peftkit.sweep.worker_main import run_recipe

        process = self._context.Process(target=run_recipe, args=(str(recipe), resume and str(resume), str(log), device))
        with self._lock:
            process.start()
            self._processes.add(process)
        try:
            while process.is_alive():
                process.join(1.0)
        finally:
            self._processes.discard(process)
        return int(process.exitcode or 0)

    def _run_launched(self, recipe: Path, resume: Path | None, log: Path, device: dict[str, str]) -> int:
        command = [*self.launch, "-m", "peftkit", "run", str(recipe), *(["--resume", str(resume)] if resume else [])]
        with log.open("w") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env={**os.environ, **device}
            )
            self._processes.add(process)
            try:
                return process.wait()
            finally:
                self._processes.discard(process)


def visible_gpus() -> list[str]:
    """List the available GPUs in the form of ``CUDA_VISIBLE_DEVICES``, without torch, which would occupy them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [word.strip() for word in visible.split(",") if word.strip() not in ("", "-1")]
    with suppress(OSError, subprocess.SubprocessError):
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)  # noqa: S607
        if listing.returncode == 0:
            return [str(i) for i, _ in enumerate(x for x in listing.stdout.splitlines() if x.startswith("GPU"))]
    return []
