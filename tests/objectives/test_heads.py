"""Objectives of encoders with a classification head."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from peftkit import Example
from peftkit.components import Head
from peftkit.models import BoundObjective
from peftkit.objectives import ClassificationHead, MultipleChoiceHead
from peftkit.recipe.model_names import model_path
from peftkit.testing.tokenizers import tokenizer
from tests.tiny_runs import ColourChoice, Colours, bind_objective, tiny

LABELS = ("red", "green", "blue")
EXAMPLES = [Example(source, label, LABELS) for source, label in (("sky", "blue"), ("a stone", "green"), ("x", "red"))]
CHOICES = [Example("a bird", "robin", ("robin", "granite")), Example("stone", "granite", ("soup", "marsh", "granite"))]


def bound(task_kind: str) -> tuple[torch.nn.Module, BoundObjective]:
    bare, name = tiny("encoder")
    bare.config.num_labels = 3 if task_kind == "classification" else 1
    torch.manual_seed(1)
    model = BertForSequenceClassification(bare.config).eval()
    return model, bind_objective("encoder", AutoTokenizer.from_pretrained(model_path(name)), model.config, task_kind)


def test_heads_have_an_output_for_each_label_or_one_for_pairs() -> None:
    assert ClassificationHead().head(Colours()) == Head(3, LABELS)
    assert MultipleChoiceHead().head(ColourChoice()) == Head(1)
    assert Head(1).auto_class == "AutoModelForSequenceClassification"


@pytest.mark.parametrize("training", [True, False])
def test_classification_reads_the_source_and_answers_by_the_labels_number(training: bool) -> None:
    config = SimpleNamespace(vocab_size=999, pad_token_id=0)
    objective = bind_objective("encoder", tokenizer("wordpiece", "cls+sep"), config, "classification")
    rows = objective.tokenize(EXAMPLES, training=training)
    assert [row["answer"] for row in rows] == [2, 1, 0]
    assert [row["candidates"] for row in rows] == [[], [], []]
    assert objective.family.tokenizer.decode(rows[1]["source"]) == "[CLS] a stone [SEP]"
    assert [row["length"] for row in rows] == [len(row["source"]) for row in rows]
    assert objective.collate(rows)["labels"].tolist() == [2, 1, 0]


@pytest.mark.parametrize("training", [True, False])
def test_multiple_choice_reads_pairs_of_source_and_choice(training: bool) -> None:
    config = SimpleNamespace(vocab_size=999, pad_token_id=0)
    objective = bind_objective("encoder", tokenizer("wordpiece", "cls+sep"), config)
    [row] = objective.tokenize([Example("a stone", "a cat", ("the robin", "a cat"))], training=training)
    texts = [objective.family.tokenizer.decode(ids) for ids in row["candidates"]]
    assert texts == ["[CLS] a stone [SEP] the robin [SEP]", "[CLS] a stone [SEP] a cat [SEP]"]
    assert (row["answer"], row["source"]) == (1, [])
    assert row["length"] == sum(map(len, row["candidates"]))


def test_the_label_with_the_highest_output_is_predicted() -> None:
    model, objective = bound("classification")
    rows = objective.tokenize(EXAMPLES, training=False)
    context = objective.for_evaluation(torch.device("cpu"))
    with torch.no_grad():
        predictions = objective.component.predict(model, rows, EXAMPLES, context, has_targets=True)
        for prediction, row, example in zip(predictions, rows, EXAMPLES, strict=True):
            logprobs = model(input_ids=torch.tensor([row["source"]])).logits[0].log_softmax(-1)
            assert prediction["log_likelihoods"] == pytest.approx(logprobs.tolist(), abs=1e-5)
            assert prediction["prediction"] == LABELS[int(logprobs.argmax())]
            assert prediction["loss"] == pytest.approx(-logprobs[LABELS.index(example.target)].item(), abs=1e-5)
            assert (prediction["tokens"], prediction["candidate_tokens"]) == (1, [1, 1, 1])
    assert objective.component.prediction_suffixes == ("",), "both rankings are the same"


def test_the_choice_with_the_highest_output_is_predicted() -> None:
    model, objective = bound("multiple_choice")
    rows = objective.tokenize(CHOICES, training=False)
    context = objective.for_evaluation(torch.device("cpu"))
    with torch.no_grad():
        predictions = objective.component.predict(model, rows, CHOICES, context, has_targets=False)
        for prediction, row, example in zip(predictions, rows, CHOICES, strict=True):
            outputs = [_output(model, row, i) for i in range(len(example.candidates))]
            assert prediction["prediction"] == example.candidates[outputs.index(max(outputs))]
            assert "loss" not in prediction
            assert len(prediction["log_likelihoods"]) == len(example.candidates)


def _output(model: torch.nn.Module, row: Any, number: int) -> float:
    inputs = {"input_ids": torch.tensor([row["candidates"][number]])}
    if row["segments"]:
        inputs["token_type_ids"] = torch.tensor([row["segments"][number]])
    return float(model(**inputs).logits[0, 0])
