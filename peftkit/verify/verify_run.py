"""Verify a run directory: recompute what it records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from peftkit.data.pipeline import prepare_data
from peftkit.distributed.accelerator import make_accelerator, shutdown
from peftkit.errors import PeftkitError, comma_separated, summarize_error
from peftkit.inference.finished_run import load_finished_recipe
from peftkit.models.load_base_model import load_objective
from peftkit.monitor.collect_env import collect_environment
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.run_directory.harness_results import harness_names
from peftkit.verify.example_files import example_checks
from peftkit.verify.harness_files import harness_checks
from peftkit.verify.probe_files import probe_checks
from peftkit.verify.recount import compute_checks, measurement_checks
from peftkit.verify.reload import changed_versions, model_checks
from peftkit.verify.results import DAMAGED, Check, NotRecomputable, Status, cannot_check, damaged_files, run_checks
from peftkit.verify.stored_files import (
    RecordedRun,
    baseline_checks,
    changed_splits,
    file_checks,
    prediction_checks,
    recipe_checks,
    row_checks,
    selection_checks,
)

MAX_NAMES = 5
"""How many names of a group a summary lists."""


@dataclass(frozen=True)
class Verification:
    """The result of verifying a run."""

    path: Path
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    """What widens tolerances, such as different hardware."""

    def with_status(self, status: Status) -> list[Check]:
        """The checks with this status."""
        return [check for check in self.checks if check.status == status]

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        agree, differ = len(self.with_status("agrees")), self.with_status("differs")
        if differ:
            names = _first_names([f"{check.group} {check.name}" for check in differ])
            return f"{len(differ)} of {agree + len(differ)} recomputed values differ: {names}"
        if agree:
            return f"all {agree} recomputed values agree"
        return f"nothing could be recomputed: {self.checks[0].reason}"

    @property
    def missing(self) -> list[str]:
        """What could not be recomputed, with reasons, by group."""
        names_by_group: dict[tuple[str, str], list[str]] = {}
        for check in self.with_status("not recomputable"):
            names_by_group.setdefault((check.group, check.reason), []).append(check.name)
        return [
            f"{what} {_first_names(group_names)}: {reason}" for (what, reason), group_names in names_by_group.items()
        ]


def _first_names(names: Sequence[str]) -> str:
    """The first names, and the number of further ones."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{comma_separated(names[:MAX_NAMES])}{more}"


def verify_run(path: Path, registry: Registry, *, load_model: bool = True) -> Verification:
    """Recompute everything in a run directory that can be recomputed.

    Args:
        path: The run directory.
        registry: The installed components.
        load_model: Whether to load and evaluate the model, which takes as long as the evaluation at the end of the run.

    Returns:
        All checks.
    """
    quiet_libraries("warning")
    loaded: list[RecordedRun] = []
    checks = run_checks("run", lambda: _check_files(path, registry, loaded))
    notes: list[str] = []
    if loaded:
        run, data_checks = _load_data(loaded[0], registry)
        checks += data_checks
        checks += run_checks("recipe", lambda: recipe_checks(run))
        checks += run_checks("data", lambda: row_checks(run))
        checks += run_checks("baselines", lambda: baseline_checks(run))
        checks += run_checks("selection", lambda: selection_checks(run))
        for split in run.splits:
            checks += run_checks("predictions", lambda split=split: prediction_checks(run, split))  # type: ignore[misc]
        checks += run_checks("curve", lambda: example_checks(run))
        for probe in run.recipe.probes:
            checks += run_checks(f"probe {probe.name}", partial(probe_checks, run, probe))
        for name in harness_names(path):
            checks += run_checks(f"harness {name}", partial(harness_checks, path, name))
        if load_model:
            checks += run_checks("model", lambda: model_checks(run, registry, notes))
        else:
            checks.append(cannot_check("model", "all", "not checked, as requested"))
        checks += run_checks("work", lambda: compute_checks(run, load_model=load_model))
        checks += run_checks("measured", lambda: measurement_checks(run))
    return Verification(path, tuple(checks), tuple(notes))


def _check_files(path: Path, registry: Registry, loaded: list[RecordedRun]) -> Iterable[Check]:
    """Check the digests of the files, then append the run to ``loaded``.

    Raises:
        NotRecomputable: The run has not finished or is imported, or its recipe cannot be loaded here.
        InputError: The summary is damaged.
    """
    if not (path / "summary.json").is_file():
        raise NotRecomputable("summary.json is missing: the run has not finished")
    summary = RunDirectory(path).summary()
    if imported := summary.get("imported"):
        raise NotRecomputable(f"the results are imported from {imported['from']}, without data or model")
    if summary["status"] != "done":
        raise NotRecomputable(f"the run is {summary['status']}, not done")
    yield from file_checks(path, summary)
    if not (path / "recipe.toml").is_file():
        raise NotRecomputable("recipe.toml is missing")
    try:
        recipe = load_finished_recipe(path, registry)
    except PeftkitError as error:  # such as a plugin that is not installed
        raise NotRecomputable(f"the recipe cannot be loaded here: {error}") from error
    loaded.append(RecordedRun(path, recipe, summary))


def _load_data(run: RecordedRun, registry: Registry) -> tuple[RecordedRun, list[Check]]:
    """Add the data as they are read now, or the reason why they cannot be read; invalid rows count as a difference."""
    try:
        for task in (run.recipe.task, *(each.task for each in run.recipe.all_evaluation_tasks)):
            task.load()
        _, objective = load_objective(run.recipe)
    except Exception as error:  # of the hub, a missing file, or a plugin's task
        return replace(run, unreadable_because=summarize_error(error)), []
    accelerator = make_accelerator(cpu=True)
    try:
        data = prepare_data(run.recipe, objective, accelerator)
        splits = changed_splits(run.summary, data)
        versions = changed_versions(run, collect_environment(registry, accelerator))
        return replace(run, data=data, changed_splits=splits, changed_versions=tuple(versions)), []
    except DAMAGED as error:
        return replace(run, unreadable_because=summarize_error(error)), [damaged_files("data", error)]
    finally:
        shutdown(accelerator)
