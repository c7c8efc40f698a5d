"""Objectives of encoder-decoders and decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from peftkit import Example, RowError
from peftkit.components import ModelKind
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import CandidateScores, GeneratedText, ObjectiveSettings, RunSpec
from peftkit.models import BoundObjective
from peftkit.models.load_base_model import load_base
from peftkit.objectives import ChoiceRanking, FreeGeneration, LabelRanking
from peftkit.testing.tokenizers import tokenizer
from tests.tiny_runs import ColourText, bind_objective

KINDS: tuple[ModelKind, ...] = ("encoder-decoder", "decoder")
CHOICES = [
    Example("a bird", "good", ("yes", "good", "no")),
    Example("a stone", "no", ("yes", "no")),
]
TEXTS = [Example(e.source, e.target) for e in CHOICES]


def bound(kind: ModelKind, task_kind: str, make: str = "byte-level") -> BoundObjective:
    config = SimpleNamespace(vocab_size=10_000, pad_token_id=0, decoder_start_token_id=0)
    return bind_objective(kind, tokenizer(make, "none"), config, task_kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task_kind", ["classification", "multiple_choice"])
def test_all_candidates_are_tokenized_for_evaluation_only(kind: ModelKind, task_kind: str) -> None:
    objective = bound(kind, task_kind)
    evaluated = objective.tokenize(CHOICES, training=False)
    assert [len(row["candidates"]) for row in evaluated] == [3, 2]
    assert [row["answer"] for row in evaluated] == [1, 1]
    trained = objective.tokenize(CHOICES, training=True)
    assert [(len(row["candidates"]), row["answer"]) for row in trained] == [(1, 0), (1, 0)]
    for row, longer in zip(trained, evaluated, strict=True):
        assert row["candidates"][0] == longer["candidates"][longer["answer"]]
        assert row["source"] == longer["source"]
        assert row["length"] == len(row["source"]) + len(row["candidates"][0])
        assert longer["length"] == len(row["source"]) + sum(map(len, longer["candidates"]))


@pytest.mark.parametrize("kind", KINDS)
def test_texts_to_generate_must_be_such_that_a_model_can_generate_them(kind: ModelKind) -> None:
    special = [Example("a bird", "good <extra> x")]
    with pytest.raises(RowError, match="contains the special token '<extra>'"):
        bound(kind, "generation").tokenize(special, training=True)
    assert len(bound(kind, "multiple_choice").tokenize(special, training=True)) == 1
    for training in (True, False):
        rows = bound(kind, "generation").tokenize(TEXTS, training=training)
        assert [(len(row["candidates"]), row["answer"]) for row in rows] == [(1, 0), (1, 0)]


class Services:
    """Services that record how they are called."""

    def __init__(self, forced: Sequence[list[int]] = ()) -> None:
        self.forced, self.scored, self.options = list(forced), 0, dict[str, Any]()

    def candidate_scorer(self, model: Any) -> Any:
        def score(rows: Sequence[Any], device: Any) -> CandidateScores:
            self.scored += 1
            return CandidateScores([[-1.5]] * len(rows), [[3]] * len(rows))

        return score

    def generate(self, model: Any, rows: Sequence[Any], device: Any, **options: Any) -> list[GeneratedText]:
        self.options = options
        return [GeneratedText(f"text {i}", 5) for i, _ in enumerate(rows)]

    def teacher_forced_ids(self, model: Any, rows: Sequence[Any], device: Any) -> list[list[int]]:
        return self.forced


def context_with(services: Services, **settings: Any) -> ObjectiveContext:
    family: Any = services
    return ObjectiveContext(family, "decoder", None, None, ColourText(), ObjectiveSettings(**settings))


def test_texts_are_generated_as_the_recipe_says() -> None:
    services, model, rows = Services(), torch.nn.Identity(), [{}, {}]
    context = context_with(services, max_new_tokens=7, num_beams=3)
    predictions = FreeGeneration().predict(model, rows, TEXTS, context, has_targets=True)
    assert predictions == [{"loss": 1.5, "tokens": 3, "prediction": f"text {i}", "generated_tokens": 5} for i in (0, 1)]
    assert services.options == {"max_new_tokens": 7, "num_beams": 3, "stop_ids": (), "sampling": None}


def test_each_sample_of_a_prompt_has_a_seed_of_its_own() -> None:
    services, model = Services(), torch.nn.Identity()
    rows = [{"source": [1, 2]}, {"source": [1, 2, 3]}]
    context = context_with(services, temperature=0.5, top_k=9, top_p=0.9, num_return_sequences=3, seed=1)
    seeds = []
    for each in (context, replace(context, step=1), replace(context, settings=replace(context.settings, seed=2))):
        given: list[Any] = []
        services.generate = lambda *args, given=given, **options: (  # type: ignore[method-assign]
            given.append(options["sampling"]) or [GeneratedText(f"{len(given)} {i}", i) for i in (1, 2)]
        )
        predictions = FreeGeneration().predict(model, rows, TEXTS, each, has_targets=False)
        assert predictions == [
            {"prediction": f"1 {i}", "samples": [f"{n} {i}" for n in (1, 2, 3)], "generated_tokens": 3 * i}
            for i in (1, 2)
        ]
        assert {(s.temperature, s.top_k, s.top_p) for s in given} == {(0.5, 9, 0.9)}
        seeds += [seed for sampling in given for seed in sampling.seeds]
    assert len({*seeds}) == len(seeds) == 18
    services.generate = lambda *args, **options: seeds.append(options["sampling"].seeds) or [GeneratedText("", 0)]  # type: ignore[method-assign]
    FreeGeneration().predict(
        model,
        rows[1:],
        TEXTS[1:],
        replace(context, settings=replace(context.settings, num_return_sequences=1)),
        has_targets=False,
    )
    assert seeds[-1] == (seeds[1],)  # whatever the rest of the batch is


def test_generated_texts_without_answers_are_not_scored() -> None:
    services = Services()
    context = context_with(services)
    predictions = FreeGeneration().predict(torch.nn.Identity(), [{}, {}], TEXTS, context, has_targets=False)
    assert [each["prediction"] for each in predictions] == ["text 0", "text 1"]
    assert services.scored == 0


@pytest.mark.parametrize("objective", [LabelRanking(), ChoiceRanking()], ids=lambda each: each.name)
def test_the_most_likely_candidate_is_predicted_by_both_rankings(objective: Any) -> None:
    assert objective.prediction_suffixes == ("", "_norm")
    assert objective.ranks

    class Scores(Services):
        def candidate_scorer(self, model: Any) -> Any:
            return lambda rows, device: CandidateScores([[-2.0, -3.0, -9.0], [-5.0, -1.0]], [[1, 3, 1], [1, 1]])

    rows = [{"answer": 1}, {"answer": 1}]
    for scoring, expected in (("sum", ["yes", "no"]), ("norm", ["good", "no"])):
        context = context_with(Scores(), scoring=scoring)
        predictions = objective.predict(torch.nn.Identity(), rows, CHOICES, context, has_targets=True)
        assert [p["prediction"] for p in predictions] == expected
        assert [p["loss"] for p in predictions] == [3.0, 1.0]


def test_teacher_forced_ids_of_a_candidate_give_its_original_text() -> None:
    objective = bound("encoder-decoder", "multiple_choice", "wordpiece, lower")
    examples = [Example("a bird", "The Robin", ("The Robin", "A Cat"))] * 3
    rows = objective.tokenize(examples, training=False)
    robin, cat = rows[0]["candidates"]
    [word] = objective.family.tokenizer("stone")["input_ids"]
    services: Any = Services([robin, [*cat, word], [word, *robin[1:]]])
    context = replace(objective.context, family=services)
    texts = ChoiceRanking().teacher_force(torch.nn.Identity(), rows, examples, context)
    assert texts == ["The Robin", "A Cat", "stone robin"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_row_is_teacher_forced_by_its_target(kind: ModelKind) -> None:
    objective = bound(kind, "classification", "wordpiece, lower")
    examples = [Example("a bird", "A Cat", ("The Robin", "A Cat"))]
    rows = objective.tokenize(examples, training=True)
    services: Any = Services([rows[0]["candidates"][0]])
    context = replace(objective.context, family=services)
    assert LabelRanking().teacher_force(torch.nn.Identity(), rows, examples, context) == ["A Cat"]


@pytest.mark.parametrize("kind", KINDS)
def test_targets_with_unknown_tokens_are_counted_where_texts_are_generated(kind: ModelKind) -> None:
    examples = [Example("the robin", text, (text,)) for text in ("good", "good ☃", "☃ good", "a cat")]
    for task_kind, expected in (("generation", 2), ("classification", 0)):
        objective = bound(kind, task_kind, "words")
        rows = objective.tokenize(examples, training=False)
        assert objective.component.count_unknown_targets(rows, objective.context) == expected


def test_the_join_is_between_source_and_target_of_a_decoder() -> None:
    tok = tokenizer("byte-level", "none")
    for join in (" ", "", "\n", " answer: "):
        objective = bound("decoder", "generation")
        component = FreeGeneration(join=join)
        (row,) = component.tokenize(TEXTS[:1], objective.context, training=True)
        assert tok.decode(row["source"] + row["candidates"][0][:-1]) == f"a bird{join}good"
        assert tok.decode(row["source"]) == "a bird"


def test_everything_may_be_trained_on() -> None:
    objective = bound("decoder", "generation")
    component = FreeGeneration(train_on="all")
    (row,) = component.tokenize(TEXTS[:1], objective.context, training=True)
    batch = component.collate([row], objective.context)
    ids = row["source"] + row["candidates"][0]
    assert batch["labels"].tolist() == [[-100, *ids[1:]]]


@pytest.mark.parametrize("options", [{"join": ""}, {"train_on": "all"}])
def test_options_of_decoders_are_refused_for_encoder_decoders(options: dict[str, Any]) -> None:
    component = FreeGeneration(**options)
    (reason,) = component.incompatible_with(RunSpec("encoder-decoder", "generation", False, "no"))
    assert "an encoder-decoder reads source and target apart" in reason
    assert component.incompatible_with(RunSpec("decoder", "generation", False, "no")) == []
    assert FreeGeneration().incompatible_with(RunSpec("encoder-decoder", "generation", False, "no")) == []


@pytest.mark.parametrize(("kind", "model"), [("encoder-decoder", "pocket-t5"), ("decoder", "pocket-decoder")])
def test_generated_texts_end_before_the_first_text_of_stop(kind: ModelKind, model: str, make: Any) -> None:
    base = load_base(make(kind, f"model.name={model}", "task.name=colour_text"))
    context = base.objective.for_evaluation(torch.device("cpu"))
    rows = base.objective.tokenize(TEXTS, training=False)
    whole = [each["prediction"] for each in context.generate(base.model.eval(), rows, max_new_tokens=12)]
    stop = tuple(text.split()[-1] for text in whole)
    stopping = replace(context, settings=replace(context.settings, stop=stop))
    for text, short in zip(whole, stopping.generate(base.model, rows, max_new_tokens=12), strict=True):
        assert short["prediction"] == text[: min(text.index(each) for each in stop if each in text)].strip()
