"""Recomputes what a run recorded of its probes: of the base model, and along the curve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from peftkit.recipe.probes.probe_tasks import RecipeProbe
from peftkit.verify.example_files import check_evaluation, filter_table
from peftkit.verify.results import Check, NotRecomputable
from peftkit.verify.stored_files import RecordedRun, prediction_checks


def probe_checks(run: RecordedRun, probe: RecipeProbe) -> Iterator[Check]:
    """Recompute the values of one probe from its results per example.

    Args:
        run: The run.
        probe: The probe.

    Yields:
        The checks.

    Raises:
        NotRecomputable: The results per example are missing.
    """
    name, what = probe.name, f"probe {probe.name}"
    data = run.data
    if data is not None:
        wholes = tuple(each.whole for each in data.probes if each.name == name)
        data = replace(data, final_splits=wholes)
    of_probe = replace(run, recipe=probe.recipe, data=data)
    store = run.directory.probe(name)
    base, table = store.base_examples(), store.examples()
    if base is None or table is None:
        raise NotRecomputable("per-example results are not stored")
    record = run.summary["probes"][name]
    for key, whole in (("base", True), ("base_on_curve", False)):
        rows = filter_table(base, 0, name, whole=whole)
        yield from check_evaluation(of_probe, rows, name, f"{key} ", record[key], what)
    for row in run.directory.evaluations():
        rows = filter_table(table, row["step"], name, whole=False)
        yield from check_evaluation(of_probe, rows, name, f"step {row['step']} ", row[name], what)
    yield from prediction_checks(of_probe, name)
