"""A sweep's studies as jobs of a cluster, through submitit: an array with one job for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftkit.errors import InputError, RunError
from peftkit.sweep.grid import Grid, Study
from peftkit.sweep.running import Failure, mark


def submit(grid: Grid, overrides: Sequence[str] = (), *, cluster: str = "slurm") -> list[Any]:
    """Submits every study that is not finished; each tunes its method first, and then runs its seeds.

    Args:
        grid: the sweep; the file's ``slurm`` table has submitit's parameters.
        overrides: as the sweep's own.
        cluster: ``slurm``, or ``local`` for processes of this machine.

    Returns:
        submitit's jobs.

    Raises:
        InputError: a parameter is none that submitit takes.
        RunError: submitit is not installed, or there is no such cluster here.
    """
    executor = executor_of(grid, cluster)
    mark(grid)
    words = str(grid.path.resolve()), list(overrides)
    with executor.batch():
        return [executor.submit(run_study, *words, study.label) for study in grid.studies]


def executor_of(grid: Grid, cluster: str = "slurm") -> Any:
    """submitit's executor with the sweep's parameters.

    Raises:
        InputError: a parameter is none that submitit takes.
        RunError: submitit is not installed, or there is no such cluster here.
    """
    try:
        import submitit
    except ImportError as error:
        raise RunError("a cluster needs submitit: pip install 'peftkit[sweep]'") from error
    kinds = {"slurm": submitit.SlurmExecutor, "local": submitit.LocalExecutor}
    try:
        executor = kinds[cluster](folder=grid.folder / "jobs" / "%j")
        parameters = dict(grid.table.slurm)
        if cluster == "local":
            parameters = {"timeout_min": parameters.get("time", 60)}
        else:
            parameters = {"job_name": grid.table.name, **parameters}
        executor.update_parameters(**parameters)
    except (TypeError, NotImplementedError, ValueError, AssertionError) as error:
        raise InputError(f"{grid.path}: slurm: {error}") from error
    except RuntimeError as error:
        raise RunError(f"this machine has no {cluster}: {error}") from error
    return executor


def run_study(path: str, overrides: Sequence[str], label: str) -> list[Failure]:
    """What a job does: one study, from its sweep's file; ``submitit`` keeps what it returns.

    Raises:
        RunError: the file has no such study any more, or a run failed.
    """
    from peftkit.plugins import load_registry
    from peftkit.sweep.grid import expand
    from peftkit.sweep.running import Sweep
    from peftkit.sweep.tables import read_sweep
    from peftkit.sweep.workers import Workers

    registry = load_registry()
    grid = expand(Path(path), read_sweep(Path(path)), registry, overrides)
    chosen = _named(grid.studies, label)
    workers = Workers(1, grid.table.local.launch)
    with workers.heeding_signals():
        failures = Sweep(grid, registry, workers, print, overrides).do(chosen)
    if failures:
        raise RunError("\n".join(f"{each.label}: {each.last_lines[-1:]}" for each in failures))
    return failures


def _named(studies: Sequence[Study], label: str) -> Study:
    for study in studies:
        if study.label == label:
            return study
    raise RunError(f"the sweep has no study {label!r} any more")
