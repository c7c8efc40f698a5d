"""Forgetting is the paired difference to the base model, recomputed here from the stored examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.retention.forgetting import choose_probe, forgetting_curve, parse_limit, read_forgetting
from peftkit.errors import InputError


def runs_of(group: RunGroup) -> list[tuple[str, int, LoadedRun]]:
    return [(label, seed, run) for label, by_seed in group.runs.items() for seed, run in by_seed.items()]


def stored(run: LoadedRun, probe: str, file: str, **where: Any) -> list[dict[str, Any]]:
    rows = pq.read_table(run.path / "probes" / probe / file).to_pylist()
    return sorted((r for r in rows if all(r[k] == v for k, v in where.items())), key=lambda row: row["index"])


def test_forgetting_of_texts_is_the_relative_change_of_their_nats(probed_group: RunGroup) -> None:
    forgetting = read_forgetting(probed_group, "texts")
    assert (forgetting.metric, forgetting.relative, forgetting.num_examples) == ("bits_per_byte", True, 8)
    for label, seed, run in runs_of(probed_group):
        after, before = stored(run, "texts", "examples.parquet", full_split=True), stored(run, "texts", "base.parquet")
        before = [row for row in before if row["full_split"]]
        assert [row["index"] for row in after] == [row["index"] for row in before] == [*range(8)]
        change = sum(row["loss"] for row in after) / sum(row["loss"] for row in before) - 1  # bytes are the same
        assert forgetting.runs[label][seed].forgotten == pytest.approx(change, rel=1e-4, abs=1e-7)
        assert change != 0 or run.summary["selected"]["step"] == 0


def test_forgetting_of_choices_is_the_difference_of_their_accuracies(probed_group: RunGroup) -> None:
    forgetting = read_forgetting(probed_group, "choices")
    assert (forgetting.metric, forgetting.relative) == ("accuracy", False)
    for label, seed, run in runs_of(probed_group):
        rows, base = stored(run, "choices", "examples.parquet", full_split=True), stored(run, "choices", "base.parquet")
        base = [row for row in base if row["full_split"]]
        right = [np.array([r["prediction"] == r["target"] for r in each], dtype=float) for each in (rows, base)]
        [examples] = [forgetting.runs[label][seed].examples]
        assert examples is not None
        assert examples.values.tolist() == (right[1] - right[0]).tolist()


def test_the_forgetting_of_an_evaluation_is_that_of_its_rows(probed_group: RunGroup) -> None:
    step = 6
    forgetting = read_forgetting(probed_group, "texts", lambda run: step)
    assert forgetting.num_examples == 5
    for label, seed, run in runs_of(probed_group):
        rows = stored(run, "texts", "examples.parquet", full_split=False, step=step)
        base = stored(run, "texts", "base.parquet", full_split=False)
        change = sum(row["loss"] for row in rows) / sum(row["loss"] for row in base) - 1
        assert forgetting.runs[label][seed].forgotten == pytest.approx(change, rel=1e-4, abs=1e-7)
        curve = forgetting_curve(run, "texts", relative=True)
        assert [row["step"] for row, _ in curve] == [0, 3, 6]
        assert curve[-1][1] == pytest.approx(change, rel=1e-4, abs=1e-7)
        assert curve[0][1] == 0.0  # both methods start as the base model


def test_the_posterior_is_of_the_paired_differences(probed_group: RunGroup) -> None:
    forgetting = read_forgetting(probed_group, "texts", lambda run: 6)
    full = forgetting.posterior.estimates["full"]
    observed = np.mean([run.forgotten for run in forgetting.runs["full"].values()])
    assert full.low is not None
    assert full.high is not None
    assert full.low < observed < full.high
    levels = [
        forgetting.probability_within(limit)["full"] for limit in (-100.0, full.low, full.score, full.high, 100.0)
    ]
    assert levels == sorted(levels)
    assert (levels[0], levels[-1]) == (0.0, 1.0)
    assert levels[1] == pytest.approx(0.025, abs=0.002)


def test_runs_without_stored_examples_are_compared_by_their_values(probed_group: RunGroup, tmp_path: Path) -> None:
    empty = {
        label: {seed: replace(run, path=tmp_path) for seed, run in by_seed.items()}
        for label, by_seed in probed_group.runs.items()
    }
    forgetting = read_forgetting(replace(probed_group, runs=empty), "texts")
    whole = read_forgetting(probed_group, "texts")
    assert forgetting.num_examples == 0
    for label, seed, _ in runs_of(probed_group):
        expected = whole.runs[label][seed].forgotten
        assert forgetting.runs[label][seed].forgotten == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_other_rows_and_unknown_probes_are_refused(probed_group: RunGroup) -> None:
    with pytest.raises(InputError, match=r"no probe 'text' \(did you mean 'texts'\?\); it has texts, choices"):
        read_forgetting(probed_group, "text")
    first = next(iter(probed_group.runs["full"].values()))
    digests = {**first.summary["rows_digests"], "texts": "0"}
    changed = replace(first, summary={**first.summary, "rows_digests": digests})
    runs = {**probed_group.runs, "full": {**probed_group.runs["full"], first.seed: changed}}
    with pytest.raises(InputError, match="different rows of the probe 'texts'"):
        read_forgetting(replace(probed_group, runs=runs), "texts")
    with pytest.raises(InputError, match="several probes"):
        choose_probe(probed_group, None)
    assert choose_probe(probed_group, "texts") == "texts"


@pytest.mark.parametrize(("text", "limit"), [("2%", 0.02), ("0.02", 0.02), (" 1.5 % ", 0.015), ("0", 0.0)])
def test_limits_are_shares(text: str, limit: float) -> None:
    assert parse_limit(text) == pytest.approx(limit)


@pytest.mark.parametrize("text", ["", "-2%", "2 points", "nan", "%"])
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"2% or 0\.02"):
        parse_limit(text)


@pytest.mark.parametrize(
    ("metric", "higher", "base", "value", "forgotten"),
    [
        ("bits_per_byte", False, 1.25, 1.5, 0.2),
        ("accuracy", True, 0.5, 0.375, 0.125),
        ("chrf", True, 20.0, 15.0, 0.25),
        ("unextractable", False, 0.0, 0.25, 0.25),  # no share of nothing
        ("matthews_correlation", True, -0.125, 0.125, -0.25),  # it learned, whatever the sign of the base
        ("matthews_correlation", True, 0.0, -0.25, 0.25),
    ],
)
def test_the_sign_of_the_base_does_not_turn_forgetting_round(
    metric: str, higher: bool, base: float, value: float, forgotten: float, probed_group: RunGroup, tmp_path: Path
) -> None:
    values = {metric: base}
    record = {"metric": metric, "higher_is_better": higher, "base": values, "base_on_curve": values}
    runs: dict[str, dict[int, LoadedRun]] = {}
    for label, seed, run in runs_of(probed_group):
        selected = {**run.summary["selected"], "texts": {metric: value}}
        summary = {**run.summary, "probes": {"texts": record}, "selected": selected}
        evaluations = [{**row, "texts": {metric: value}} for row in run.evaluations]
        runs.setdefault(label, {})[seed] = replace(run, path=tmp_path, summary=summary, evaluations=evaluations)
    forgetting = read_forgetting(replace(probed_group, runs=runs), "texts")
    for label, by_seed in runs.items():
        for seed, run in by_seed.items():
            assert forgetting.runs[label][seed].forgotten == pytest.approx(forgotten)
            curve = forgetting_curve(run, "texts", relative=forgetting.relative)
            assert [each for _, each in curve] == pytest.approx([forgotten] * len(curve))
