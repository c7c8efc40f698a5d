from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.cli import main
from peftkit.compare.across import (
    POCKET,
    RANK,
    SCORE,
    THRESHOLDS,
    Across,
    Part,
    across,
    aggregated,
    interquartile_mean,
    normalised,
    notes,
    rows_of,
    written,
)
from peftkit.compare.figures import draw
from peftkit.compare.gather import Section, find_runs, sections
from peftkit.compare.posterior import posterior_of
from peftkit.compare.statistics import fit
from peftkit.compare.tables import FORMS
from tests.compare.conftest import Plant, with_values

TASKS = ("cola", "rte", "sst2")
BEST = {"full": 0.70, "lora": 0.85, "vera": 0.60}
"""Where lora is far ahead."""


def runs(
    plant: Plant, shares: dict[str, float], tasks: Sequence[str] = TASKS, *, seeds: int = 3, **options: Any
) -> Path:
    """Runs of these methods that end with so much on every task, give or take half a point by the seed."""
    options = {"constant": 0.5, "model": "t5-base", **options}
    path = Path()
    for task in tasks:
        for method, share in shares.items():
            for seed in range(1, seeds + 1):
                shifted = share + 0.005 * (seed - 2)
                cost = 2.0 if method == "full" else 1.0
                path = plant(method, seed, [0.5, shifted], task=task, cost=cost, **options)
    return path.parent


def read(path: Path, *pool: str) -> list[Section]:
    return sections(find_runs([path])[0], pool)


def part(
    task: str, means: Sequence[float], *, spread: float = 0.01, constant: float | None = 0.5, seed: int = 0
) -> Part:
    """Draws around these means, of methods a, b, c …"""
    names = tuple("abcdefgh"[: len(means)])
    draws = np.random.default_rng([seed, *task.encode()]).normal(means, spread, (1000, len(means)))
    return Part(task, "m", "accuracy", names, draws, constant)


def numbers(found: Across) -> dict[str, list[float | None]]:
    """All that is said of each method."""
    return {
        line.method: [line.best, line.cost]
        + [
            number
            for each in (line.score, line.iqm, line.rank, line.improvement, *line.profile)
            for number in ((each.mean, each.low, each.high) if each else (None,))
        ]
        for line in found.lines
    }


# What the numbers are.


def test_a_normalised_score_is_0_for_the_constant_answer_and_1_for_the_best() -> None:
    draws = np.array([[0.5, 0.9], [0.7, 0.7]])
    assert normalised(draws, 0.4) == pytest.approx(np.array([[0.25, 1.25], [0.75, 0.75]]))


@pytest.mark.parametrize(
    ("values", "mean"), [([1, 9], 5.0), ([0, 6, 9], 5.5), ([9, 1, 3, 5], 4.0), ([0, 1, 2, 3, 100], 2.0)]
)
def test_the_interquartile_mean_is_that_of_the_middle_half(values: list[float], mean: float) -> None:
    assert interquartile_mean(np.array(values, float)[:, None]) == pytest.approx(mean)


def test_each_number_is_what_the_draws_say() -> None:
    first, second = [[0.6, 0.7, 0.5]] * 10, [[0.9, 0.7, 0.5]] * 10
    parts = [Part(task, "m", "acc", ("a", "b", "c"), np.array(d), 0.5) for task, d in (("x", first), ("y", second))]
    found = aggregated(parts, ("a", "b", "c"))
    a, b, c = (next(line for line in found.lines if line.method == name) for name in "abc")
    assert [each.score and each.score.mean for each in (a, b, c)] == pytest.approx([0.75, 0.75, 0.0])
    assert [each.rank.mean for each in (a, b, c)] == [1.5, 1.5, 3.0]
    assert [each.best for each in (a, b, c)] == [0.5, 0.5, 0.0], "equal ones share a draw"
    assert b.improvement
    assert c.improvement
    assert (b.improvement.mean, c.improvement.mean) == (0.5, 1.0)
    assert [a.profile[THRESHOLDS.index(at)].mean for at in (0.5, 0.55, 1.0, 1.1)] == [1.0, 0.5, 0.5, 0.0]
    assert not found.settled


def test_tasks_are_independent_although_they_are_fitted_with_one_seed(plant: Plant) -> None:
    one, *others = read(runs(plant, {"full": 0.70, "lora": 0.75}, ("rte",)))
    assert not others
    many = [replace(one, task=f"task {i}") for i in range(16)]
    width = [x.difference.high - x.difference.low for x in (across(many[:4]), across(many))]
    assert width[0] / width[1] == pytest.approx(2.0, rel=0.15), "four times as many tasks halve it"


def test_scores_are_those_of_the_posterior_of_each_task(plant: Plant) -> None:
    found = read(runs(plant, BEST))
    posteriors = [posterior_of(section, "accuracy") for section in found]
    expected = np.mean(
        [(each.estimates["vera"].score - 0.5) / (each.estimates["lora"].score - 0.5) for each in posteriors]
    )
    [line] = [line for line in across(found).lines if line.method == "vera"]
    assert line.score
    assert line.score.mean == pytest.approx(expected)


# Which method overall.


means = st.lists(st.floats(0.55, 0.7), min_size=2, max_size=5)


@settings(max_examples=25, deadline=None)
@given(others=means, tasks=st.integers(2, 6), lead=st.floats(0.1, 0.25), constant=st.sampled_from([0.5, None]))
def test_a_method_far_ahead_on_every_task_is_named(
    others: list[float], tasks: int, lead: float, constant: float | None
) -> None:
    levels = [*others, max(others) + lead]
    best = "abcdefgh"[len(others)]
    parts = [part(f"t{i}", levels, constant=constant, seed=i) for i in range(tasks)]
    found = aggregated(parts, parts[0].names)
    assert found.settled
    assert found.lines[0].method == best
    assert found.decided_by == (RANK if constant is None else SCORE)
    assert f"Overall: {best} (P > 99 %), by mean {found.decided_by} on {tasks} tasks with m: t0, t1" in found.verdict


@settings(max_examples=25, deadline=None)
@given(level=st.floats(0.6, 0.9), methods=st.integers(2, 6), tasks=st.integers(2, 6), seed=st.integers(0, 10**6))
def test_of_equal_methods_none_is_named(level: float, methods: int, tasks: int, seed: int) -> None:
    parts = [part(f"t{i}", [level] * methods, seed=seed + i) for i in range(tasks)]
    found = aggregated(parts, parts[0].names)
    assert not found.settled
    assert "Overall: not settled: " in found.verdict
    assert sum(line.best for line in found.lines) == pytest.approx(1.0)
    assert found.difference.low < 0 < found.difference.high


@settings(max_examples=25, deadline=None)
@given(levels=st.lists(means.map(lambda m: (m * 3)[:3]), min_size=2, max_size=5), data=st.data())
def test_neither_order_nor_names_of_methods_matter(levels: list[list[float]], data: st.DataObject) -> None:
    parts = [part(f"t{i}", level, spread=0.03, seed=i) for i, level in enumerate(levels)]
    renamed = data.draw(st.permutations(["x", "lora", "1"]))
    columns = data.draw(st.permutations(range(3)))
    changed = [
        replace(each, names=tuple(renamed[i] for i in columns), draws=each.draws[:, columns])
        for each in data.draw(st.permutations(parts))
    ]
    one, other = numbers(aggregated(parts, "abc")), numbers(aggregated(changed, renamed))
    for name, new in zip("abc", renamed, strict=True):
        assert [x for x in one[name] if x is not None] == pytest.approx([x for x in other[new] if x is not None])


@settings(max_examples=25, deadline=None)
@given(levels=means, factor=st.floats(0.1, 100), shift=st.floats(-10, 10))
def test_normalised_scores_do_not_depend_on_the_unit_of_a_metric(
    levels: list[float], factor: float, shift: float
) -> None:
    parts = [part(f"t{i}", levels, seed=i) for i in range(3)]
    changed = [
        replace(each, draws=factor * each.draws + shift, constant=factor * 0.5 + shift) if each is parts[0] else each
        for each in parts
    ]
    one, other = (aggregated(each, parts[0].names) for each in (parts, changed))
    for line, same in zip(one.lines, other.lines, strict=True):
        assert line.score
        assert same.score
        assert line.method == same.method
        assert [line.score.mean, line.score.low, line.rank.mean, line.best] == pytest.approx(
            [same.score.mean, same.score.low, same.rank.mean, same.best], abs=1e-6
        )


def world(rng: np.random.Generator, spread: float) -> tuple[list[Part], str]:
    """What is known of four tasks that methods of a known expected score were run on, and which method is best."""
    overall = rng.normal(0, spread, 4)
    parts, truth = [], []
    for task in range(4):
        expected = rng.uniform(0.65, 0.9) + overall + rng.normal(0, spread / 2, 4)
        constant = float(expected.max()) - 0.2
        right = {
            name: {seed: (rng.random(500) < level + rng.normal(0, 0.01)).astype(float) for seed in range(3)}
            for name, level in zip("abcd", expected, strict=True)
        }
        known = fit(right, share=True)
        parts.append(Part(f"t{task}", "m", "accuracy", known.names, known.draws, constant))
        truth.append((expected - constant) / 0.2)
    return parts, "abcd"[int(np.mean(truth, 0).argmax())]


@pytest.mark.slow
def test_a_verdict_is_right_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    verdicts = [(aggregated(parts, "abcd"), best) for parts, best in (world(rng, 0.03) for _ in range(60))]
    right = [found.lines[0].method == best for found, best in verdicts if found.settled]
    assert len(right) > 15, "many can be told"
    assert sum(right) >= 0.95 * len(right)
    said, true = sum(found.lines[0].best for found, _ in verdicts), sum(f.lines[0].method == b for f, b in verdicts)
    assert said == pytest.approx(true, abs=0.12 * len(verdicts))


@pytest.mark.slow
def test_of_methods_that_are_equal_on_all_tasks_one_is_rarely_named() -> None:
    rng = np.random.default_rng(6)
    assert sum(aggregated(world(rng, 0.0)[0], "abcd").settled for _ in range(40)) <= 2


def test_the_verdict_names_method_tasks_and_models(plant: Plant) -> None:
    path = runs(plant, BEST)
    runs(plant, BEST, ("rte",), model="roberta-base")
    found = across(read(path))
    assert found.verdict == (
        "Overall: lora (P > 99 %), by mean normalised score on 3 tasks with t5-base: cola, rte, sst2 and "
        "1 task with roberta-base: rte"
    )
    assert any(note.startswith("rte: 2 models have the same test examples") for note in notes(found))
    assert "intervals: 95%, for these tasks and models; they do not cover other ones" in notes(found)


def test_methods_that_each_lead_somewhere_are_not_settled(plant: Plant) -> None:
    path = runs(plant, {"full": 0.70, "lora": 0.80}, ("cola",))
    runs(plant, {"full": 0.80, "lora": 0.70}, ("rte",))
    found = across(read(path))
    assert not found.settled
    assert found.verdict.startswith("Overall: not settled: ")
    assert "on 2 tasks with t5-base: cola, rte" in found.verdict
    assert "a difference of " in found.verdict
    assert [line.rank.mean for line in found.lines] == pytest.approx([1.5, 1.5], abs=0.05)


# What counts.


def test_nothing_is_generalised_from_pocket_models(plant: Plant) -> None:
    path = runs(plant, BEST, model="pocket-t5")
    alone = across(read(path))
    assert alone.pocket
    assert alone.verdict == (
        "On pocket models: lora (P > 99 %), by mean normalised score on 3 tasks with pocket-t5: cola, rte, "
        f"sst2. {POCKET}"
    )
    runs(plant, {"full": 0.85, "lora": 0.70, "vera": 0.60})
    beside = across(read(path))
    assert beside.verdict.startswith("Overall: full ")
    assert "pocket" not in beside.verdict
    assert ("rte with pocket-t5", "a pocket model says nothing about larger ones") in beside.left_out


def test_methods_with_one_seed_or_missing_somewhere_are_named(plant: Plant) -> None:
    path = runs(plant, BEST)
    runs(plant, {"bitfit": 0.9}, ("rte", "sst2"))
    runs(plant, {"ia3": 0.9}, ("cola", "rte"))
    runs(plant, {"ia3": 0.9}, ("sst2",), seeds=1)
    found = across(read(path))
    assert {line.method for line in found.lines} == {*BEST}
    assert dict(found.left_out) == {
        "bitfit": "missing in cola with t5-base",
        "ia3": "one seed in sst2 with t5-base",
    }
    assert "left out: bitfit: missing in cola with t5-base" in notes(found)


@pytest.mark.parametrize("tasks", [("rte",), ("rte", "cola")])
def test_too_little_is_refused_with_what_is_missing(
    tasks: tuple[str, ...], plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs(plant, {"lora": 0.8}, tasks[:1])
    runs(plant, {"vera": 0.8}, tasks[1:]) if len(tasks) > 1 else None
    assert main(["compare", str(path), "--across"]) == 2
    text = capsys.readouterr().err
    if len(tasks) == 1:
        assert "--across needs runs of 2 or more tasks or models; there are: rte with t5-base" in text
    else:
        assert (
            "--across needs 2 methods or more with two seeds or more in every task and model; there are: noth" in text
        )
        assert "lora: missing in cola with t5-base" in text
        assert "vera: missing in rte with t5-base" in text


def test_variants_are_matched_by_what_they_differ_in(plant: Plant) -> None:
    for task in ("cola", "rte"):
        path = runs(plant, {"full": 0.7}, (task,))
        for rank in (4, 8):
            runs(plant, {"lora": 0.6 + rank / 50}, (task,), options={"r": rank})
    assert [line.method for line in across(read(path)).lines] == ["lora (r=8)", "full", "lora (r=4)"]


def test_one_variant_everywhere_goes_by_its_name_and_what_differs_is_noted(plant: Plant) -> None:
    path = runs(plant, {"full": 0.7}, ("cola", "rte"))
    runs(plant, {"lora": 0.8}, ("cola",), options={"r": 4})
    runs(plant, {"lora": 0.8}, ("rte",), options={"r": 8})
    found = across(read(path))
    assert found.lines[0].method == "lora"
    assert "lora: not the same everywhere: r is 4 and 8" in found.remarks


def test_after_a_match_variants_of_different_size_are_put_together(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs(plant, {"full": 0.7}, ("cola", "rte"))
    for task in ("cola", "rte"):
        for rank in (4, 8):
            runs(plant, {"lora": 0.8}, (task,), options={"r": rank})
    for folder in path.iterdir():  # the variant that is near has as many parameters as full
        summary = json.loads((folder / "summary.json").read_text())
        near = 4 if summary["task"] == "cola" else 8
        same = f"r = {near}" in (folder / "recipe.toml").read_text() or summary["method"] == "full"
        summary["cost"]["trainable_parameters"] = 100 if same else 900
        (folder / "summary.json").write_text(json.dumps(summary))
    assert main(["compare", str(path), "--across", "--match", "parameters=100±5%"]) == 0
    text = capsys.readouterr().out
    assert "Overall: lora (P " in text
    assert "lora: not the same everywhere: r is 4 and 8" in text
    assert "matched: of each method the variant nearest to 100 parameters" in text


def test_a_task_where_nothing_was_learnt_says_nothing(plant: Plant) -> None:
    path = runs(plant, BEST)
    runs(plant, {"full": 0.50, "lora": 0.50, "vera": 0.51}, ("qnli",))
    found = across(read(path))
    assert [place.task for place in found.places] == [*TASKS]
    assert dict(found.left_out)["qnli with t5-base"].startswith("nothing was learnt")
    assert "qnli" not in found.verdict


def test_a_task_where_only_a_method_that_does_not_count_has_learnt_is_left_out(plant: Plant) -> None:
    path = runs(plant, BEST)
    runs(plant, {"full": 0.50, "lora": 0.50, "vera": 0.50, "ia3": 0.9}, ("qnli",))
    found = across(read(path))
    assert dict(found.left_out)["qnli with t5-base"] == (
        "nothing was learnt by the methods that all tasks and models have"
    )


def test_without_a_constant_answer_a_task_counts_in_ranks_alone(plant: Plant) -> None:
    path = runs(plant, BEST)
    runs(plant, {"full": 0.9, "lora": 0.6, "vera": 0.5}, ("qnli",), constant=None)
    found = across(read(path))
    [lora] = [line for line in found.lines if line.method == "lora"]
    assert lora.rank.mean == pytest.approx((3 * 1 + 2) / 4, abs=0.05)
    assert [place.task for place in found.deciding] == [*TASKS]
    assert "qnli" not in found.verdict
    note = "in ranks only: qnli with t5-base: not all its runs record the accuracy of the constant answer"
    assert note in notes(found)


def test_losses_are_ranked_with_lower_ones_first(plant: Plant) -> None:
    for task in ("cola", "rte"):
        for method, loss in (("full", 0.9), ("lora", 0.4)):
            for seed in (1, 2, 3):
                path = plant(method, seed, [0.5], task=task, model="t5-base")
                values = [{"loss": loss + 0.01 * seed, "tokens": 1}] * 20
                with_values(path, values, "loss", loss + 0.01 * seed, higher_is_better=False)
    found = across(read(path.parent))
    assert found.decided_by == RANK
    assert found.verdict.startswith("Overall: lora (P > 99 %), by mean rank on 2 tasks")
    assert {line.score for line in found.lines} == {None}
    assert found.places[0].top == pytest.approx(0.42, abs=0.03), "in its own sign"
    assert "score" not in rows_of(found)[0]


def test_a_lower_is_better_metric_with_a_constant_answer_is_normalised_too() -> None:
    parts = [replace(part(task, [-0.4, -0.8], constant=-1.0), sign=-1.0) for task in "xy"]
    found = aggregated(parts, "ab")
    [b] = [line for line in found.lines if line.method == "b"]
    assert b.score
    assert b.score.mean == pytest.approx(1 / 3, abs=0.01)
    assert found.places[0].constant == 1.0
    assert found.places[0].top == pytest.approx(0.4, abs=0.01)


def test_a_scale_that_is_narrow_is_noted() -> None:
    found = aggregated([part("x", [0.52, 0.50]), part("y", [0.9, 0.7])], "ab")
    assert [note.partition(" from ")[0] for note in notes(found) if note.startswith("narrow")] == [
        "narrow scale: x with m:"
    ]


def test_runs_that_record_different_constant_answers_have_no_scale(plant: Plant) -> None:
    path = runs(plant, BEST, ("cola", "rte", "sst2"))
    summary = next(path.glob("lora-1-*")) / "summary.json"
    changed = json.loads(summary.read_text())
    changed["baselines"]["constant"]["test"]["accuracy"] = 0.4
    summary.write_text(json.dumps(changed))
    [reason] = [place.unscaled for place in across(read(path)).places if place.unscaled]
    assert reason == "its runs record different values of accuracy for the constant answer"


def test_tasks_without_their_predictions_have_intervals_by_seeds_alone(plant: Plant) -> None:
    path = runs(plant, BEST)
    for run in path.glob("*"):
        if json.loads((run / "summary.json").read_text())["task"] == "cola":
            (run / "predictions" / "test.jsonl").unlink()
    [text] = [text for text in across(read(path)).remarks if "seeds alone" in text]
    assert text.startswith("cola with t5-base: intervals: by seeds alone, since ")


def test_a_method_that_has_not_measured_the_cost_does_not_count(plant: Plant) -> None:
    path = runs(plant, BEST | {"ia3": 0.8})
    for run in path.glob("ia3-*"):
        for name in ("summary.json", "evaluations.jsonl"):
            (run / name).write_text((run / name).read_text().replace('"gmacs"', '"other"'))
    reason = dict(across(read(path)).left_out)["ia3"]
    assert reason == "gmacs was not measured in cola with t5-base, rte with t5-base, sst2 with t5-base"


def test_a_metric_that_a_task_lacks_is_refused(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs(plant, BEST)), "--across", "--metric", "acuracy"]) == 2
    assert "has no metric 'acuracy' (did you mean 'accuracy'?)" in capsys.readouterr().err


# Costs.


def test_costs_are_relative_to_the_baseline_where_it_is_everywhere(plant: Plant) -> None:
    path = runs(plant, BEST)
    found = across(read(path), by="gmacs", baseline="full")
    assert found.baseline == "full"
    assert {line.method: line.cost for line in found.lines} == {"full": 1.0, "lora": 0.5, "vera": 0.5}
    absolute = across(read(path), baseline="none")
    assert absolute.baseline is None
    assert {line.method: line.cost for line in absolute.lines} == {"full": 2.0, "lora": 1.0, "vera": 1.0}


def test_a_baseline_with_one_seed_is_still_what_costs_are_relative_to(plant: Plant) -> None:
    path = runs(plant, {"lora": 0.85, "vera": 0.60})
    runs(plant, {"full": 0.7}, seeds=1)
    found = across(read(path))
    assert found.baseline == "full"
    assert {line.cost for line in found.lines} == {0.5}


# How it is printed.


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_verdict_and_all_methods(form: str, plant: Plant, tmp_path: Path) -> None:
    file = tmp_path / "out"
    assert main(["compare", str(runs(plant, BEST)), "--across", "--format", form, "-o", str(file)]) == 0
    data = file.read_bytes()
    verdict = "Overall: lora (P > 99 %), by mean normalised score on 3 tasks with t5-base: cola, rte, sst2"
    if form in ("csv", "parquet"):
        rows: list[dict[str, Any]] = (
            pq.read_table(io.BytesIO(data)).to_pylist()
            if form == "parquet"
            else list(csv.DictReader(io.StringIO(data.decode())))
        )
        assert [row["method"] for row in rows] == ["lora", "full", "vera"]
        assert {row["verdict"] for row in rows} == {verdict}
        assert float(rows[1]["score_low"]) < float(rows[1]["score"]) < float(rows[1]["score_high"])
        assert float(rows[1]["improvement"]) > 0.9
    elif form == "json":
        [found] = json.loads(data)["across"]
        assert found["verdict"] == verdict
        assert [line["method"] for line in found["lines"]] == ["lora", "full", "vera"]
        assert len(found["thresholds"]) == len(found["lines"][0]["profile"])
        assert found["lines"][0]["profile"][0]["mean"] == 1.0
    else:
        text = data.decode()
        shown = [line for line in text.splitlines() if not line.startswith("%")]
        plain = " ".join(" ".join(shown).replace("\\", "").split())
        assert verdict in plain
        assert all(name in plain for name in BEST)


def test_the_text_begins_with_the_verdict_and_its_table_fits_80_columns(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs(plant, BEST | {"parallel_adapter": 0.55})), "--across"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("Overall: lora ")
    assert ["method", "score", "95", "%", "interval", "iqm", "rank", "P(best)", "cost"] in map(str.split, lines)
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("probability of improvement: lora over full: 1.00 (1.00 – 1.00)") for line in lines)


@pytest.mark.parametrize("words", [["--share", "0.5"], ["--budget", "3"], ["--regret"]])
def test_what_does_not_go_with_it_is_refused(
    words: list[str], plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs(plant, BEST)), "--across", *words]) == 2
    assert words[0] in capsys.readouterr().err


def test_what_is_said_of_one_task_is_said_with_its_name(plant: Plant) -> None:
    path = runs(plant, BEST, ("cola", "rte"))
    runs(plant, {"ia3": 0.7}, ("rte",), device="cuda")
    remarks = across(read(path, "hardware")).remarks
    assert any(text.startswith("training sample: held fixed") for text in remarks), "holds for all: said once"
    assert any(text.startswith("rte with t5-base: pooled although hardware differs") for text in remarks)


@pytest.mark.slow
def test_the_performance_profile_is_drawn_and_the_table_written(plant: Plant, tmp_path: Path) -> None:
    found = read(runs(plant, BEST, ("cola", "rte")))
    files = {file.name for file in draw(found, tmp_path / "figures", ["svg"])}
    assert {"across-profile.svg", "across.tex"} <= files
    picture = (tmp_path / "figures" / "across-profile.svg").read_text()
    assert all(f">{word}</text>" in picture for word in (*BEST, "normalised score", "2 tasks with t5-base: cola, rte"))
    assert "Overall: lora" in (tmp_path / "figures" / "across.tex").read_text()
    alone = {file.name for file in draw(found[:1], tmp_path / "alone", ["svg"])}
    assert not any(name.startswith("across") for name in alone)


def test_written_is_the_same_whatever_the_order_of_the_runs(plant: Plant) -> None:
    path = runs(plant, BEST)
    runs(plant, {"ia3": 0.8}, ("rte",))
    found = read(path)
    assert written(across(found), "json") == written(across(found[::-1]), "json")
