"""Sweeps: grids of recipes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.api.comparisons import RunComparison, compare_runs
from peftkit.api.run_collections import Runs, load_runs
from peftkit.api.text_output import html_facts
from peftkit.errors import RunInterrupted
from peftkit.plugins import load_registry

if TYPE_CHECKING:
    from peftkit.sweep.grid import RejectedStudy
    from peftkit.sweep.scheduler import Failure


@dataclass(frozen=True, repr=False)
class SweepResult:
    """A sweep that has been run.

    Attributes:
        path: The sweep's folder.
        total: The number of its runs, trials included.
        reused: The number of runs that were finished before.
        failures: The runs that failed, and the studies that could not be tuned.
        at_edge: By study, the keys whose best value is at the edge of the searched range.
        incompatible: The combinations that were skipped, with the reasons.
    """

    path: Path
    total: int
    reused: int
    failures: tuple[Failure, ...]
    at_edge: Mapping[str, tuple[str, ...]]
    incompatible: tuple[RejectedStudy, ...]

    @property
    def runs(self) -> Runs:
        """The runs of the sweep, without the trials of its tuning.

        Raises:
            InputError: There is none.
        """
        return load_runs(self.path)

    def compare(self, **options: Any) -> RunComparison:
        """Compare the runs.

        Args:
            options: Keyword arguments of ``compare_runs``.

        Returns:
            The comparison.

        Raises:
            InputError: There are no finished runs, they are not comparable, or an argument is invalid.
        """
        return compare_runs(self.path, **options)

    def _facts(self) -> dict[str, str]:
        facts = {"runs": f"{self.total:,}, {self.reused:,} of them reused, {len(self.failures):,} failed"}
        facts |= {f"failed: {each.label}": each.log for each in self.failures}
        facts |= {f"at the edge: {label}": ", ".join(edges) for label, edges in self.at_edge.items()}
        return facts | {f"incompatible: {each.label}": each.reason for each in self.incompatible}

    def __repr__(self) -> str:
        return "\n".join([f"sweep {self.path}", *(f"  {key}: {text}" for key, text in self._facts().items())])

    def _repr_html_(self) -> str:
        return html_facts(f"sweep {self.path}", self._facts())


def run_sweep(
    path: str | Path,
    overrides: Iterable[str] = (),
    *,
    only: Iterable[str] = (),
    jobs: int | None = None,
    within: str | None = None,
    quiet: bool = False,
) -> SweepResult:
    """Tune and run a grid of recipes, each in a process of its own; finished runs are reused.

    Args:
        path: The sweep's file.
        overrides: ``key.path=value`` texts for all recipes.
        only: ``axis=value`` texts that restrict these axes to these values.
        jobs: Runs at a time; None for one per GPU, or one.
        within: The time for all of it, such as ``"20min"``: trials, seeds and budget are chosen so that it is done by
            then, the same for all methods. None for all that the file asks for.
        quiet: Whether to print no progress.

    Returns:
        The result, which lists the runs that failed.

    Raises:
        InputError: The file or a recipe is invalid, another process runs this sweep, or the time is not enough.
        RunInterrupted: A signal was received; call it again to resume.
    """
    from peftkit.monitor.process_state import isolated_process_state

    started = time.monotonic()
    overrides, only = [*overrides], [*only]
    registry = load_registry()
    with isolated_process_state():
        from peftkit.sweep.process_executor import Workers
        from peftkit.sweep.scheduler import Sweep
        from peftkit.sweep.tuning.tuning_stages import load_grid
        from peftkit.sweep.within.duration_text import parse_duration
        from peftkit.sweep.within.time_plan import TimePlan, check_unplanned
        from peftkit.sweep.within.timed_sweep import TimedSweep

        def say(text: str) -> None:
            if not quiet:
                print(text, flush=True)

        grid = load_grid(Path(path), registry, overrides, only)
        local = grid.config.local
        workers = Workers(jobs or local.jobs, local.launch or _interpreter(), warm=local.warm)
        try:
            if within is None:
                check_unplanned(grid.folder)
                sweep = Sweep(grid, registry, workers, say, overrides)
            else:
                plan = TimePlan(grid, registry, overrides, only, within=parse_duration(within), started=started)
                plan.measure(workers, say)
                sweep = TimedSweep(plan, workers, say)
            say(f"{grid.config.name}: {sweep.progress.total} runs in {grid.folder}, {workers.jobs} at a time")
            failures = sweep.run()
        except RunInterrupted as interrupted:
            text = f"the sweep was interrupted; call run_sweep({str(path)!r}) again to resume"
            raise RunInterrupted(text, interrupted.exit_code - 128) from interrupted
        progress = sweep.progress
        return SweepResult(
            grid.folder, progress.total, progress.reused, tuple(failures), dict(sweep.at_edge), tuple(grid.rejected)
        )


def _interpreter() -> tuple[str, ...]:
    """The launcher of the runs: none for processes that are forked from a server.

    These would import the main module again, and so run a script that has no ``if __name__ == "__main__"``.
    """
    return (sys.executable,) if hasattr(sys.modules["__main__"], "__file__") else ()
