"""Processes that each run one recipe: what one does to itself, no other run feels."""

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

from peftkit.errors import Interrupted

LINES = 6
"""Of the log of a failed run that are told."""
PATIENCE = 120.0
"""Seconds that runs have to save what they have, when the sweep is ended."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    code: int
    seconds: float
    last_lines: tuple[str, ...]


class Workers:
    """Runs recipes, so many at a time, each on a GPU of its own where there are any; used as a context manager.

    Processes are forked from one that has imported torch and transformers already, where the system can do so, so
    that a run of seconds is not mostly imports. With a launcher each is a new one.
    """

    def __init__(self, jobs: int | None, launch: Sequence[str] = ()) -> None:
        self.gpus = gpus()
        self.jobs = jobs or max(1, len(self.gpus))
        self.launch = list(launch)
        self.stopped = 0
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(self.jobs):
            self._slots.put(slot)
        self._live: set[Any] = set()
        self._guard = threading.Lock()
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        os.environ.setdefault("OMP_NUM_THREADS", threads)  # before the first process: it is read when torch is loaded
        # To ask the driver whether there is a GPU would begin CUDA in the process that is forked from, and no fork of
        # it could use one any more; NVML can be asked without.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            self._context.set_forkserver_preload(["peftkit.sweep.child"])

    def run(self, recipe: Path, resume: Path | None, log: Path) -> Outcome:
        """Runs a recipe's file to its end, or goes on in a run directory.

        Raises:
            Interrupted: the sweep has been told to stop.
        """
        slot = self._slots.get()
        try:
            if self.stopped:
                raise Interrupted("the sweep was stopped", self.stopped)
            start = time.monotonic()
            log.parent.mkdir(parents=True, exist_ok=True)
            device = {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus and self.jobs > 1 else {}
            code = (self._launched if self.launch else self._forked)(recipe, resume, log, device)
            if self.stopped:
                raise Interrupted("the sweep was stopped", self.stopped)
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            told = [line.rstrip() for line in lines if line.strip()]
            if code and not told:
                told = [f"it was ended by signal {-code}" if code < 0 else f"exit code {code}"]
            return Outcome(code, time.monotonic() - start, tuple(told[-LINES:]))
        finally:
            self._slots.put(slot)

    @contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """Hands SIGINT and SIGTERM on to the runs, which save what they have and end; a second one ends at once."""
        before: dict[int, Any] = {}

        def note(number: int, frame: FrameType | None) -> None:
            if self.stopped:
                raise KeyboardInterrupt
            self.stopped = number
            self._end_all()

        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._live:
                self._end_all()

    def _end_all(self) -> None:
        for process in [*self._live]:
            with suppress(OSError, ValueError):
                process.terminate()

    def _forked(self, recipe: Path, resume: Path | None, log: Path, device: dict[str, str]) -> int:
        from peftkit.sweep.child import work

        process = self._context.Process(target=work, args=(str(recipe), resume and str(resume), str(log), device))
        with self._guard:
            process.start()
            self._live.add(process)
        try:
            while process.is_alive():
                process.join(1.0)
        finally:
            self._live.discard(process)
        return int(process.exitcode or 0)

    def _launched(self, recipe: Path, resume: Path | None, log: Path, device: dict[str, str]) -> int:
        words = [*self.launch, "-m", "peftkit", "run", str(recipe), *(["--resume", str(resume)] if resume else [])]
        with log.open("w") as output:
            process = subprocess.Popen(
                words, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env={**os.environ, **device}
            )
            self._live.add(process)
            try:
                return process.wait()
            finally:
                self._live.discard(process)


def gpus() -> list[str]:
    """The GPUs that may be used, as ``CUDA_VISIBLE_DEVICES`` has them; torch is not asked, which would occupy them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [word.strip() for word in visible.split(",") if word.strip() not in ("", "-1")]
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)  # noqa: S607
        if told.returncode == 0:
            return [
                str(i) for i, line in enumerate(line for line in told.stdout.splitlines() if line.startswith("GPU"))
            ]
    return []
