"""Scores of input-blind baselines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import pytest
from accelerate import Accelerator

from peftkit import Example, Metric, Task
from peftkit.components import Objective, TaskKind
from peftkit.data.pipeline import PreparedData, prepare_data
from peftkit.data.tokenized_split import SplitStatistics, TokenizedSplit
from peftkit.errors import RunError
from peftkit.evaluate.baselines import MAX_CANDIDATES, best_answer, check_not_trivial, compute_baselines
from peftkit.metrics import register_metrics
from peftkit.models import BoundObjective
from peftkit.models.load_base_model import load_base
from peftkit.objectives import ChoiceRanking, FreeGeneration, LabelRanking, RegressionHead
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.recipe.tables.evaluate_config import EvaluateConfig
from peftkit.recipe.tables.run_config import RunConfig
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from tests.tiny_runs import ColourNumber, Make


def test_constant_and_majority_score_the_share_of_their_label(make: Make) -> None:
    recipe = make("decoder")
    scores = compute_baselines(recipe, prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True)))
    golds = [row["colour"] for row in recipe.task.load()["test"]]
    assert scores["constant"]["test"]["accuracy"] == pytest.approx(max(map(golds.count, golds)) / len(golds))
    assert scores["majority"]["test"]["accuracy"] == pytest.approx(golds.count("blue") / len(golds))
    assert 0.0 < scores["random"]["test"]["accuracy"] < 0.8
    assert scores == compute_baselines(recipe, prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True)))


def test_the_answer_of_each_evaluated_row_is_read_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[str] = Counter()

    def answer(self: LabelRanking, example: Example) -> str:
        read[example.source] += 1
        return example.target

    recipe = make("decoder", "evaluate.train_examples=0", "evaluate.dev_examples=6", "evaluate.full_splits=true")
    objective = load_base(recipe).objective
    rows = recipe.task.load()
    sources = Counter(recipe.task.to_example(row).source for split in ("dev", "test") for row in rows[split])
    prepare_data(recipe, objective, Accelerator(cpu=True))  # the training rows are in the cache from here on
    monkeypatch.setattr(LabelRanking, "answer", answer)
    data = prepare_data(recipe, objective, Accelerator(cpu=True))
    check_not_trivial(recipe, data)
    compute_baselines(recipe, data)
    assert read == sources


def test_a_constant_choice_is_a_position(make: Make) -> None:
    recipe = make("decoder", "task.name=colour_choice")
    scores = compute_baselines(recipe, prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True)))
    golds = [recipe.task.to_example(row).candidates.index(row["colour"]) for row in recipe.task.load()["test"]]
    assert scores["constant"]["test"]["accuracy"] == pytest.approx(max(map(golds.count, golds)) / len(golds))


def test_generation_tasks_have_baselines(make: Make) -> None:
    recipe = make("decoder", "task.name=colour_text")
    scores = compute_baselines(recipe, prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True)))
    assert scores["majority"]["test"]["exact_match"] == pytest.approx(1 / 3)


def test_every_run_stores_baselines_and_the_overlap_of_its_splits(make: Make, registry: Registry) -> None:
    path = run(make("decoder", "train.budget.steps=1"), registry)
    assert path is not None
    summary = RunDirectory(path).summary()
    assert summary["baselines"].keys() == {"constant", "majority", "random"}
    assert summary["baselines"]["majority"]["test"]["accuracy"] == pytest.approx(1 / 3)
    (path / "summary.json").unlink()
    assert RunDirectory(path).baselines() == summary["baselines"], "stored before training"
    assert summary["train_overlap"].keys() == {"dev", "test"}
    assert summary["rows_truncated"]["test"] == {"sources": 0, "targets": 0}


@pytest.mark.parametrize(
    ("task", "words"),
    [("colours", "the answer is 'red'"), ("colour_choice", "choice 2 is correct"), ("colour_text", "the answer is")],
)
def test_data_with_one_correct_answer_is_an_error(
    task: str, words: str, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make("decoder", f"task.name={task}", "train.budget.steps=1")

    def to_example(self: Task, row: Mapping[str, Any]) -> Example:
        choices = ("green", "red", "blue") if task != "colour_text" else ()
        return Example(f"say {row}", "red", choices)

    monkeypatch.setattr(type(recipe.task), "to_example", to_example)
    with pytest.raises(RunError, match=f"in every row of dev {words}.* input-blind model scores 1"):
        run(recipe, registry)
    assert not list(Path(recipe.run.output).glob("*"))


CHOICES = ("red", "green", "blue")
TEXTS = (
    "a red fox sees the river; a cat sleeps",
    "the dog sees the old river; a cat runs",
    "rain fell on the hill",
    "rain fell on the hill",
    "snow",
    "a cat; a dog",
)
ANSWERS = {
    "classification": ["red"] * 4 + ["blue"] * 3 + ["green"] * 2,
    "multiple_choice": ["red", "green", "green", "blue", "green"],
    "generation": [*TEXTS],
}


class Given(Task):
    """A task of given examples."""

    name: Literal["given"] = "given"

    kind = "classification"
    selection_metric = "accuracy"

    @property
    def labels(self) -> tuple[str, ...]:
        return CHOICES if self.kind == "classification" else ()


class Choosing(Given):
    kind = "multiple_choice"


class Writing(Given):
    kind = "generation"
    selection_metric = "exact_match"


TASKS: dict[TaskKind, type[Given]] = {"classification": Given, "multiple_choice": Choosing, "generation": Writing}
OBJECTIVES: dict[TaskKind, Objective] = {
    "classification": LabelRanking(),
    "multiple_choice": ChoiceRanking(),
    "generation": FreeGeneration(),
}


class FBeta(Metric):
    """F-beta of the label ``rare``, with beta = 2."""

    name: Literal["f2"] = "f2"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification",)

    def compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        pairs = [(p == "rare", r[0] == "rare") for p, r in zip(predictions, references, strict=True)]
        hits, predicted, actual = pairs.count((True, True)), sum(p for p, _ in pairs), sum(r for _, r in pairs)
        return {"f2": 5 * hits / (predicted + 4 * actual) if predicted + actual else 0.0}


class Errors(Metric):
    """Counts three for a wrong prediction of the most frequent label, one for other errors."""

    name: Literal["errors"] = "errors"
    higher_is_better: ClassVar[bool] = False
    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification",)

    def compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        return {"errors": float(sum((3 if p == "red" else 1) * (p not in r) for p, r in pairs))}


class Broken(Errors):
    """Fails for texts that are no numbers."""

    name: Literal["broken"] = "broken"  # type: ignore[assignment]

    def compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        return {"broken": sum(map(float, predictions))}


def recipe_for(kind: TaskKind, metrics: Sequence[Metric], selects: str | None) -> Recipe:
    """The parts of a recipe that baselines need."""
    return Recipe.model_construct(
        run=RunConfig(seed=1),
        task=TASKS[kind](),
        metric=tuple(metrics),
        evaluate=EvaluateConfig.model_construct(selection_metric=selects),
    )


def split_of(kind: TaskKind, answers: Sequence[str]) -> TokenizedSplit:
    labels = () if kind == "generation" else CHOICES
    examples = [Example(f"row {i}", text, labels or (), extra={"answer": "snow"}) for i, text in enumerate(answers)]
    statistics = SplitStatistics([], [OBJECTIVES[kind].answer(e) for e in examples], [], [])
    return TokenizedSplit("dev", [*range(len(examples))], examples, [], statistics)


def data_of_split(kind: TaskKind, split: TokenizedSplit) -> PreparedData:
    """Data with one split, which has the answers of the training rows."""
    objective, none = OBJECTIVES[kind], cast("Any", None)
    return PreparedData(none, split.statistics, (), (split,), {}, BoundObjective(objective, none, none, ""))


def score(metric: Metric, split: TokenizedSplit, predictions: Sequence[str]) -> dict[str, float]:
    return metric.compute(predictions, [[e.target] for e in split.examples], split.examples)


def text_of(kind: TaskKind, answer: str) -> str:
    return CHOICES[int(answer)] if kind == "multiple_choice" else answer


APART = ("f1", "instruction_following", "harness_choice_score", "harness_text_score")
"""Metrics that need a positive label, or what only the rows of their tasks have."""
METRICS: list[Metric] = [metric.model_validate({}) for metric in (*register_metrics(), Errors)]
CASES = [
    pytest.param(metric, kind, value, id=f"{value}-{kind}")
    for metric in METRICS
    if metric.input == "prediction" and metric.name not in APART
    for kind in type(metric).kinds
    if kind in OBJECTIVES
    for value in metric.value_names
]


@pytest.mark.parametrize(("metric", "kind", "value"), CASES)
def test_no_answer_scores_higher_than_the_constant_baseline(metric: Metric, kind: TaskKind, value: str) -> None:
    split = split_of(kind, ANSWERS[kind])
    answers = [*CHOICES] if kind != "generation" else [*dict.fromkeys(TEXTS)]
    scores = {text: score(metric, split, [text] * len(split.examples))[value] for text in answers}
    best = max(scores.values()) if type(metric).higher_is_better else min(scores.values())
    constant = text_of(kind, best_answer(recipe_for(kind, [metric], value), OBJECTIVES[kind], split))
    assert scores[constant] == pytest.approx(best, abs=1e-12)
    number = Counter(ANSWERS[kind])
    equal = [text for text in answers if math.isclose(scores[text], best, abs_tol=1e-12)]
    assert number[constant] == max(number[text] for text in equal)


@pytest.mark.parametrize(("value", "expected"), [("mse", "9950.0"), ("mae", "149.5")])
def test_the_best_constant_number_is_tried_among_many_targets(value: str, expected: str) -> None:
    numbers = [str(number) for number in (*range(299), 2_940_449)]
    examples = [Example(f"row {number}", number) for number in numbers]
    split = TokenizedSplit("dev", [*range(300)], examples, [], SplitStatistics([], numbers, [], []))
    recipe = Recipe.model_construct(
        task=ColourNumber(),
        metric=tuple(m for m in METRICS if m.name == value),
        evaluate=EvaluateConfig.model_construct(selection_metric=value),
    )
    assert best_answer(recipe, RegressionHead(), split) == expected


def test_the_best_answer_need_not_be_the_most_frequent() -> None:
    labels = ["common"] * 60 + ["rare"] * 40
    split = split_of("classification", labels)
    metrics = [FBeta(), *(m for m in METRICS if m.name == "accuracy")]
    recipe = recipe_for("classification", metrics, "f2")
    assert best_answer(recipe, OBJECTIVES["classification"], split) == "rare"
    scores = compute_baselines(recipe, data_of_split("classification", split))
    assert scores["constant"]["dev"] == {"f2": pytest.approx(5 * 40 / (100 + 160)), "accuracy": 0.4}, (
        "scores of the constant answer"
    )
    assert scores["majority"]["dev"] == {"f2": 0.0, "accuracy": 0.6}
    errors = split_of("classification", ANSWERS["classification"])
    assert (
        best_answer(recipe_for("classification", [Errors()], "errors"), OBJECTIVES["classification"], errors) == "blue"
    )
    chrf = [m for m in METRICS if m.name == "chrf"]
    best = best_answer(recipe_for("generation", chrf, "chrf"), OBJECTIVES["generation"], split_of("generation", TEXTS))
    assert best != "rain fell on the hill"


def test_a_metric_that_fails_is_an_error_that_names_it() -> None:
    split = split_of("classification", ANSWERS["classification"])
    recipe, data = recipe_for("classification", [Broken()], "broken"), data_of_split("classification", split)
    with pytest.raises(RunError, match="the metric 'broken' failed: ValueError: could not convert"):
        best_answer(recipe, OBJECTIVES["classification"], split)
    with pytest.raises(RunError, match="the metric 'broken' failed"):
        compute_baselines(recipe.model_copy(update={"evaluate": EvaluateConfig()}), data)


def test_the_tasks_metric_is_used_if_the_loss_selects() -> None:
    accuracy = [m for m in METRICS if m.name == "accuracy"]
    split = split_of("classification", ["blue", "blue", "red"])
    assert best_answer(recipe_for("classification", accuracy, "loss"), OBJECTIVES["classification"], split) == "blue"
    assert best_answer(recipe_for("classification", [], "loss"), OBJECTIVES["classification"], split) == "blue"


def test_the_search_among_many_texts_is_fast_and_beats_the_most_frequent() -> None:
    scored: list[int] = []

    class Counted(Metric):
        """The share of characters in common with the reference."""

        name: Literal["counted"] = "counted"

        def compute(
            self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
        ) -> dict[str, float]:
            scored.append(len(predictions))
            pairs = zip(predictions, references, strict=True)
            return {"counted": sum(len({*p} & {*r[0]}) / len({*p, *r[0]}) for p, r in pairs) / len(predictions)}

    texts = [f"{'abcdefgh'[: 1 + i % 8]}{i}" for i in range(1500)] + ["zzz"] * 3
    split = split_of("generation", texts)
    metric = Counted.model_validate({})
    recipe, objective = recipe_for("generation", [metric], "counted"), OBJECTIVES["generation"]
    best = best_answer(recipe, objective, split)
    assert len({*texts}) > MAX_CANDIDATES
    assert sum(scored) < 30_000, "scoring all candidates on all rows takes 300,600"
    few = split_of("generation", ["ab v", "ab w", "ab x", "ab y"])
    assert best_answer(recipe, objective, few, "ab ") == "ab ", "the answer of the training rows"
    assert best_answer(recipe, objective, few, "c") == "ab v"
    known = {text: score(metric, split, [text] * len(texts))["counted"] for text in [*texts[::15], "zzz", best]}
    assert known[best] >= known["zzz"]
    assert sum(value > known[best] for value in known.values()) <= 5


def test_check_not_trivial_does_not_depend_on_the_metric() -> None:
    bleu = [m for m in METRICS if m.name == "bleu"]
    many = split_of("generation", ["rain fell on the hill", "rain fell on the roof of a house"] * 10)
    recipe = recipe_for("generation", bleu, "bleu1")
    assert compute_baselines(recipe, data_of_split("generation", many))["constant"]["dev"]["bleu1"] > 1
    check_not_trivial(recipe, data_of_split("generation", many))
    references = [Example("a row", "Yes", references=("Yes", f"{i}")) for i in range(5)]
    references += [Example("a row", "sure", references=("sure", "yes ")) for _ in range(5)]
    same = TokenizedSplit("test", [*range(10)], references, [], SplitStatistics([], ["a"] * 10, [], []))
    with pytest.raises(RunError, match="in every row of test the answer is 'Yes'"):
        check_not_trivial(recipe, data_of_split("generation", same))
    choosing = recipe_for("multiple_choice", [], "f")
    with pytest.raises(RunError, match="choice 2 is correct"):
        check_not_trivial(choosing, data_of_split("multiple_choice", split_of("multiple_choice", ["green"] * 10)))
    few = split_of("multiple_choice", ["green"] * 9)
    check_not_trivial(choosing, data_of_split("multiple_choice", few))
