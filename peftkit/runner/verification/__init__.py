"""Recomputes what a run directory says: from its files, from its data, from its model, and from its recipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peftkit.errors import PeftkitError, listed, one_line
from peftkit.plugins import Registry
from peftkit.runner.data import prepare
from peftkit.runner.environment import describe
from peftkit.runner.models import load_form
from peftkit.runner.opened import recipe_of
from peftkit.runner.verification.checks import DAMAGED, Check, NotRecomputable, Status, damaged, guarded, unable
from peftkit.runner.verification.recounted import measured_checks, work_checks
from peftkit.runner.verification.reloaded import other_versions, reloaded_checks
from peftkit.runner.verification.stored import (
    SPLITS,
    Recorded,
    baseline_checks,
    changed_splits,
    example_checks,
    file_checks,
    prediction_checks,
    recipe_checks,
    row_checks,
    selection_checks,
)
from peftkit.runner.world import close_world, make_accelerator, quiet_libraries
from peftkit.runs import RunDirectory

NAMED = 5
"""Of values of one kind, how many are named."""

__all__ = ["Check", "Status", "Verification", "verify_run"]


@dataclass(frozen=True)
class Verification:
    """What came of recomputing a run."""

    path: Path
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    """What widens tolerances, such as other hardware than was recorded."""

    def of(self, status: Status) -> list[Check]:
        """The checks that came out so."""
        return [check for check in self.checks if check.status == status]

    @property
    def verdict(self) -> str:
        """What came of it, in a few words."""
        agree, differ = len(self.of("agrees")), self.of("differs")
        if differ:
            named = _some([f"{check.what} {check.name}" for check in differ])
            return f"{len(differ)} of {agree + len(differ)} recomputed values differ: {named}"
        if agree:
            return f"all {agree} recomputed values agree"
        return f"nothing could be recomputed: {self.checks[0].reason}"

    @property
    def missing(self) -> list[str]:
        """What could not be recomputed, by what it is part of, with the reasons."""
        by: dict[tuple[str, str], list[str]] = {}
        for check in self.of("not recomputable"):
            by.setdefault((check.what, check.reason), []).append(check.name)
        return [f"{what} {_some(names)}: {reason}" for (what, reason), names in by.items()]


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{listed(names[:NAMED])}{more}"


def verify_run(path: Path, registry: Registry, *, load_model: bool = True) -> Verification:
    """Recomputes everything in a run directory that can be recomputed.

    Args:
        path: the run directory.
        registry: the installed components.
        load_model: whether to load the model and evaluate it, which takes as long as an evaluation at the run's end.
    """
    quiet_libraries("warning")
    opened: list[Recorded] = []
    checks = guarded("run", lambda: _files(path, registry, opened))
    notes: list[str] = []
    if opened:
        run, of_data = _with_data(opened[0], registry)
        checks += of_data
        checks += guarded("recipe", lambda: recipe_checks(run))
        checks += guarded("data", lambda: row_checks(run))
        checks += guarded("baselines", lambda: baseline_checks(run))
        checks += guarded("selection", lambda: selection_checks(run))
        for split in SPLITS:
            checks += guarded("predictions", lambda split=split: prediction_checks(run, split))  # type: ignore[misc]
        checks += guarded("curve", lambda: example_checks(run))
        if load_model:
            checks += guarded("model", lambda: reloaded_checks(run, registry, notes))
        else:
            checks.append(unable("model", "all", "not checked, as asked for"))
        checks += guarded("work", lambda: work_checks(run, load_model=load_model))
        checks += guarded("measured", lambda: measured_checks(run))
    return Verification(path, tuple(checks), tuple(notes))


def _files(path: Path, registry: Registry, opened: list[Recorded]) -> Iterable[Check]:
    """The checks of the files' digests; afterwards ``opened`` holds the run.

    Raises:
        NotRecomputable: there is nothing to recompute, or the recipe cannot be loaded here.
        InputError: the summary is damaged.
    """
    if not (path / "summary.json").is_file():
        raise NotRecomputable("summary.json is not there: the run has not finished")
    summary = RunDirectory(path).summary()
    if imported := summary.get("imported"):
        raise NotRecomputable(f"the results are imported from {imported['from']}, without data or model")
    if summary["status"] != "done":
        raise NotRecomputable(f"the run is {summary['status']}, not done")
    yield from file_checks(path, summary)
    if not (path / "recipe.toml").is_file():
        raise NotRecomputable("recipe.toml is not there")
    try:
        recipe = recipe_of(path, registry)
    except PeftkitError as error:  # such as of a plugin that is not installed
        raise NotRecomputable(f"the recipe cannot be loaded here: {error}") from error
    opened.append(Recorded(path, recipe, summary))


def _with_data(run: Recorded, registry: Registry) -> tuple[Recorded, list[Check]]:
    """The run with its data as they are read now, or the reason why they are not; rows that are wrong differ."""
    try:
        run.recipe.task.load()
        _, form = load_form(run.recipe)
    except Exception as error:  # of the hub, of a file that is gone, of a plugin's task
        return replace(run, unread=one_line(error)), []
    accelerator = make_accelerator(cpu=True)
    try:
        data = prepare(run.recipe, form, accelerator)
        changed, versions = changed_splits(run.summary, data), other_versions(run, describe(registry, accelerator))
        return replace(run, data=data, changed=changed, versions=tuple(versions)), []
    except DAMAGED as error:
        return replace(run, unread=one_line(error)), [damaged("data", error)]
    finally:
        close_world(accelerator)
