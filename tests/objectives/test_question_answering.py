"""Spans of a context by an encoder, and answers that are generated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertForQuestionAnswering

from peftkit import Example
from peftkit.components.objective_context import ObjectiveContext
from peftkit.errors import RowError
from peftkit.models.encoder import SequenceClassifier
from peftkit.objectives import FreeGeneration, SpanQaGeneration, SpanQaHead
from peftkit.recipe.model_names import model_path
from tests.tiny_runs import ColourSpans, tiny

OBJECTIVE = SpanQaHead(doc_stride=3, n_best=5)
CONTEXT = "the rose is red and the sea is blue and the leaf is green but the sky is grey"
ALLOWED = {"unanswerable": "allowed"}


def example(answer: str, **changes: Any) -> Example:
    start = CONTEXT.index(answer)
    span = (start, start + len(answer))
    return replace(Example("x", answer, source_pair=("which colour", CONTEXT), target_span=span), **changes)


EXAMPLES = [example("blue"), example("the leaf", extra=ALLOWED)]
UNANSWERABLE = Example("x", "unanswerable", references=("",), source_pair=("why", "the sea is blue"), extra=ALLOWED)


@pytest.fixture(scope="module")
def context() -> ObjectiveContext:
    model, name = tiny("encoder")
    family = SequenceClassifier(AutoTokenizer.from_pretrained(model_path(name)), model.config, 14, 16)
    return ObjectiveContext(family, "encoder", family.tokenizer, model.config, ColourSpans())


@pytest.fixture(scope="module")
def model(context: ObjectiveContext) -> Any:
    torch.manual_seed(0)
    return BertForQuestionAnswering(context.config).eval()


def test_windows_with_the_answer_point_to_it_and_others_to_their_first_token(context: ObjectiveContext) -> None:
    rows = OBJECTIVE.tokenize([*EXAMPLES, UNANSWERABLE], context, training=True)
    for row, each in zip(rows, EXAMPLES, strict=False):
        windows = [row["source"], *row["windows"]]
        assert len(windows) > 2
        texts = []
        for ids, (start, end), null in zip(windows, row["spans"], row["null_positions"], strict=True):
            if start == null:
                assert end == null
                continue
            texts.append(context.tokenizer.decode(ids[start : end + 1]).strip())
        assert texts
        assert {*texts} == {each.target}
    assert rows[2]["spans"] == [[rows[2]["null_positions"][0]] * 2]
    batch = OBJECTIVE.collate(rows, context)
    assert batch["labels"].shape == (len(batch["input_ids"]), 2)
    assert int(OBJECTIVE.num_targets(batch, context)) == 2 * len(batch["input_ids"])


def test_an_answer_that_no_window_holds_cannot_be_trained(context: ObjectiveContext) -> None:
    long = example("rose is red and the sea is blue and the leaf")
    with pytest.raises(RowError, match="no window of 14 tokens holds the whole answer"):
        OBJECTIVE.tokenize([long], context, training=True)
    assert OBJECTIVE.tokenize([long], context, training=False)


def test_the_best_span_of_all_windows_is_predicted(context: ObjectiveContext, model: Any) -> None:
    rows = OBJECTIVE.tokenize(EXAMPLES, context, training=False)
    with torch.no_grad():
        scored = OBJECTIVE.predict(model, rows, EXAMPLES, context, has_targets=True)
        predictions = OBJECTIVE.predict(model, rows, EXAMPLES, context, has_targets=False)
        loss = OBJECTIVE.loss(model, OBJECTIVE.collate(rows, context), context).item()
        expected = max(
            (
                ((outputs.start_logits[0, s] + outputs.end_logits[0, e]).item(), starts[s - first], ends[e - first])
                for ids, segments, first, starts, ends in zip(
                    [rows[0]["source"], *rows[0]["windows"]],
                    rows[0]["segments"],
                    rows[0]["first_positions"],
                    rows[0]["starts"],
                    rows[0]["ends"],
                    strict=True,
                )
                for outputs in [model(torch.tensor([ids]), token_type_ids=torch.tensor([segments]))]
                for s in range(first, first + len(starts))
                for e in range(s, first + len(starts))
            ),
        )
    assert scored[0]["prediction"] == CONTEXT[expected[1] : expected[2]].strip()
    assert sum(p["loss"] for p in scored) == pytest.approx(loss, rel=1e-4)
    assert "null_score_diff" not in scored[0]
    for prediction in predictions:
        best = prediction["n_best"]
        assert sum(each["probability"] for each in best) == pytest.approx(1)
        assert all(CONTEXT[each["start"] : each["end"]].strip() == each["text"] for each in best)
    assert predictions[0]["prediction"] == predictions[0]["n_best"][0]["text"]


def test_answers_have_a_maximum_length(context: ObjectiveContext, model: Any) -> None:
    objective = SpanQaHead(max_answer_length=1)
    rows = objective.tokenize(EXAMPLES, context, training=False)
    with torch.no_grad():
        predictions = objective.predict(model, rows, EXAMPLES, context, has_targets=True)
    assert all(len(prediction["prediction"].split()) == 1 for prediction in predictions)


@pytest.mark.parametrize("threshold", [-1e6, 1e6])
def test_no_answer_is_predicted_by_a_threshold(threshold: float, context: ObjectiveContext, model: Any) -> None:
    objective = SpanQaHead(null_score_diff_threshold=threshold)
    examples = [EXAMPLES[0], EXAMPLES[1], UNANSWERABLE]
    rows = objective.tokenize(examples, context, training=False)
    with torch.no_grad():
        predictions = objective.predict(model, rows, examples, context, has_targets=True)
    assert predictions[0]["prediction"], "every question of this task has an answer"
    assert [p["prediction"] == "" for p in predictions[1:]] == [threshold < 0] * 2
    assert all(isinstance(p["null_score_diff"], float) for p in predictions[1:])


def test_the_threshold_is_chosen_on_dev() -> None:
    answered, none = Example("x", "blue", references=("Blue",)), Example("x", "unanswerable", references=("",))
    rows = [("blue", -3.0, answered), ("red", -1.0, none), ("blue.", 2.0, answered), ("red", 5.0, none)]
    predictions = [{"prediction": "", "best_span": text, "null_score_diff": score} for text, score, _ in rows]
    examples = [each for _, _, each in rows]
    calibration = OBJECTIVE.calibrate(predictions, examples)
    threshold = calibration["null_score_diff_threshold"]
    assert threshold == -2.0, "one answer more is worth no wrong one"
    texts = [OBJECTIVE.apply_calibration(each, calibration)["prediction"] for each in predictions]
    assert texts == ["blue", "", "", ""]
    assert OBJECTIVE.calibrate(predictions[::3], examples[::3]) == {"null_score_diff_threshold": 1.0 - 3.0}
    assert OBJECTIVE.calibrate(predictions[3:], examples[3:]) == {"null_score_diff_threshold": 4.0}, "no answer at all"
    assert SpanQaHead(null_score_diff_threshold=0).calibrate(predictions, examples) == {}
    assert OBJECTIVE.calibrate([{"prediction": "x"}], [answered]) == {}


@pytest.mark.parametrize(("text", "expected"), [("Unanswerable.", ""), ("", ""), ("blue", "blue")])
def test_generated_answers(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FreeGeneration, "predict", lambda self, *_, **__: [{"prediction": text}])
    none: Any = None
    assert SpanQaGeneration().predict(none, [], [], none, has_targets=False) == [{"prediction": expected}]


@pytest.mark.parametrize("objective", [SpanQaHead(), SpanQaGeneration()])
def test_answers_of_baselines(objective: SpanQaHead | SpanQaGeneration) -> None:
    assert objective.answer(EXAMPLES[0]) == "blue"
    assert objective.answer(UNANSWERABLE) == ""
    assert list(objective.possible_answers(ColourSpans(), EXAMPLES)) == []
    assert list(objective.possible_answers(ColourSpans(), [UNANSWERABLE])) == [""]
