"""Run a sweep's studies as cluster jobs through submitit: an array with one job per study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftkit.errors import InputError, RunError
from peftkit.sweep.grid import Grid, Study
from peftkit.sweep.scheduler import Failure, write_marker


def submit(grid: Grid, overrides: Sequence[str] = (), *, cluster: str = "slurm") -> list[Any]:
    """Submit one job per study; each tunes the method first and then runs the seeds.

    Args:
        grid: The sweep; its ``slurm`` table has submitit's parameters.
        overrides: ``key.path=value`` texts, as the sweep was started with.
        cluster: ``slurm``, or ``local`` for processes on this machine.

    Returns:
        submitit's jobs.

    Raises:
        InputError: submitit does not accept a parameter.
        RunError: submitit is not installed, or the cluster is not available.
    """
    executor = make_executor(grid, cluster)
    write_marker(grid)
    arguments = str(grid.path.resolve()), list(overrides)
    with executor.batch():
        return [executor.submit(run_study, *arguments, study.label) for study in grid.studies]


def make_executor(grid: Grid, cluster: str = "slurm") -> Any:
    """Create submitit's executor with the sweep's parameters.

    Args:
        grid: The sweep.
        cluster: ``slurm``, or ``local`` for processes on this machine.

    Returns:
        The executor.

    Raises:
        InputError: submitit does not accept a parameter.
        RunError: submitit is not installed, or the cluster is not available.
    """
    try:
        import submitit
    except ImportError as error:
        raise RunError("cluster jobs need submitit; install it with: pip install 'peftkit[sweep]'") from error
    kinds = {"slurm": submitit.SlurmExecutor, "local": submitit.LocalExecutor}
    try:
        executor = kinds[cluster](folder=grid.folder / "jobs" / "%j")
        parameters = dict(grid.config.slurm)
        if cluster == "local":
            parameters = {"timeout_min": parameters.get("time", 60)}
        else:
            parameters = {"job_name": grid.config.name, **parameters}
        executor.update_parameters(**parameters)
    except (TypeError, NotImplementedError, ValueError, AssertionError) as error:
        raise InputError(f"{grid.path}: slurm: {error}") from error
    except RuntimeError as error:
        raise RunError(f"{cluster} is not available on this machine: {error}") from error
    return executor


def run_study(path: str, overrides: Sequence[str], label: str) -> list[Failure]:
    """Run one study of a sweep; this is the entry point of a job.

    Args:
        path: The sweep's file.
        overrides: ``key.path=value`` texts, as the sweep was started with.
        label: The label of the study.

    Returns:
        The failures, of which there are none; submitit stores it.

    Raises:
        RunError: The file no longer has the study, or a run failed.
    """
    from peftkit.plugins import load_registry
    from peftkit.sweep.grid import expand
    from peftkit.sweep.process_executor import Workers
    from peftkit.sweep.scheduler import Sweep
    from peftkit.sweep.sweep_file import read_sweep

    registry = load_registry()
    grid = expand(Path(path), read_sweep(Path(path)), registry, overrides)
    study = _find_study(grid.studies, label)
    workers = Workers(1, grid.config.local.launch, warm=grid.config.local.warm)
    with workers.handle_signals():
        failures = Sweep(grid, registry, workers, print, overrides).run_one(study)
    if failures:
        raise RunError("\n".join(f"{each.label}: {each.last_lines[-1:]}" for each in failures))
    return failures


def _find_study(studies: Sequence[Study], label: str) -> Study:
    for study in studies:
        if study.label == label:
            return study
    raise RunError(f"the sweep no longer has a study {label!r}")
