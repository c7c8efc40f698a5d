"""Tags of words by an encoder."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertForTokenClassification

from peftkit import Example
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import IGNORE_INDEX
from peftkit.errors import RowError
from peftkit.models.encoder import SequenceClassifier
from peftkit.objectives import TokenTaggingHead
from peftkit.recipe.model_names import model_path
from peftkit.testing.tokenizers import tokenizer
from tests.tiny_runs import ColourTags, tiny

OBJECTIVE = TokenTaggingHead(stride=2)
LONG = ["the", "rose", "is", "red", "and", "the", "sea", "is", "blue", "and", "the", "leaf", "is", "green"]
EXAMPLES = [
    Example(" ".join(LONG), " ".join("B-red" if i in (1, 3) else "O" for i in range(14)), words=tuple(LONG)),
    Example("unbelievable  roses", "O B-blue"),
]


@pytest.fixture(scope="module")
def context() -> ObjectiveContext:
    model, name = tiny("encoder")
    family = SequenceClassifier(AutoTokenizer.from_pretrained(model_path(name)), model.config, 10, 16)
    return ObjectiveContext(family, "encoder", family.tokenizer, model.config, ColourTags())


@pytest.fixture(scope="module")
def model(context: ObjectiveContext) -> Any:
    torch.manual_seed(0)
    context.config.num_labels = len(ColourTags().labels)
    return BertForTokenClassification(context.config).eval()


def test_the_first_token_of_each_word_is_labelled_once(context: ObjectiveContext) -> None:
    rows = OBJECTIVE.tokenize(EXAMPLES, context, training=True)
    assert len(rows[0]["windows"]) >= 1, "the sentence is longer than a window"
    assert [row["words"] for row in rows] == [[*range(14)], [0, 1]]
    batch = OBJECTIVE.collate(rows, context)
    assert batch["choices"].tolist() == [1 + len(row["windows"]) for row in rows]
    labelled = batch["labels"] != IGNORE_INDEX
    assert int(labelled.sum()) == int(OBJECTIVE.num_targets(batch, context)) == 16
    tokens = [context.tokenizer.decode([i]).strip() for i in batch["input_ids"][labelled].tolist()]
    assert tokens[:14] == LONG
    assert tokens[14] != "unbelievable"
    assert "unbelievable".startswith(tokens[14])
    names = [context.task.labels[number] for number in batch["labels"][labelled].tolist()]
    assert names == [tag for example in EXAMPLES for tag in example.target.split()]


def with_tokenizer(name: str) -> ObjectiveContext:
    config: Any = SimpleNamespace(vocab_size=9999, pad_token_id=0)
    family = SequenceClassifier(tokenizer(name, "cls+sep"), config, 64, 16)
    return ObjectiveContext(family, "encoder", family.tokenizer, config, ColourTags())


@pytest.mark.parametrize("name", ["byte-level", "byte-level, leading blank", "unigram, always", "bpe, always", "words"])
def test_words_of_any_tokenizer_find_their_tokens(name: str) -> None:
    given, words = with_tokenizer(name), ["the", "robin", "is", "12", "small", "birds"]
    [row] = OBJECTIVE.tokenize([Example(" ".join(words), "O B-red O O O O")], given, training=True)
    assert row["words"] == [*range(6)]
    first = [given.tokenizer.decode([row["source"][position]]).strip() for position in row["positions"][0]]
    assert all(word.startswith(token) or token == "<unk>" for token, word in zip(first, words, strict=True)), first


def test_each_word_is_predicted_with_its_probability_and_place(context: ObjectiveContext, model: Any) -> None:
    rows = OBJECTIVE.tokenize(EXAMPLES, context, training=False)
    with torch.no_grad():
        scored = OBJECTIVE.predict(model, rows, EXAMPLES, context, has_targets=True)
        blind = [replace(example, target="") for example in EXAMPLES]
        unlabelled = OBJECTIVE.tokenize(blind, context, training=False)
        predictions = OBJECTIVE.predict(model, unlabelled, blind, context, has_targets=False)
        loss = OBJECTIVE.loss(model, OBJECTIVE.collate(rows, context), context).item()
    assert sum(p["loss"] for p in scored) == pytest.approx(loss, rel=1e-4)
    assert [p["tokens"] for p in scored] == [14, 2]
    for prediction, with_target, example in zip(predictions, scored, EXAMPLES, strict=True):
        assert prediction["prediction"] == with_target["prediction"] == " ".join(prediction["tags"])
        assert len(prediction["words"]) == len(prediction["tags"]) == len(prediction["tag_probabilities"])
        for entity in prediction["entities"]:
            assert example.source[entity["start"] : entity["end"]] == entity["text"]
            assert 0 < entity["score"] <= 1
    assert predictions[1]["words"] == ["unbelievable", "roses"]


def test_a_word_without_a_token_has_the_tag_o(context: ObjectiveContext, model: Any) -> None:
    example, given = Example("rose \u200b leaf", "B-red O B-red"), with_tokenizer("wordpiece")
    [row] = OBJECTIVE.tokenize([example], given, training=False)
    assert row["words"] == [0, 2]
    with torch.no_grad():
        [prediction] = OBJECTIVE.predict(model, [row], [example], replace(context, tokenizer=None), has_targets=False)
    assert prediction["tags"][1] == "O"
    with pytest.raises(RowError, match="no token in the model's vocabulary"):
        OBJECTIVE.tokenize([Example("\u200b", "O")], given, training=True)
    no_outside = SimpleNamespace(labels=("B-red", "B-blue"))
    with pytest.raises(RowError, match="there is no tag O"):
        OBJECTIVE.tokenize([example], replace(given, task=no_outside), training=True)  # type: ignore[arg-type]


def test_baselines_give_every_word_one_tag() -> None:
    example = Example("a b c", "O B-red O")
    assert OBJECTIVE.answer(example) == "O"
    assert OBJECTIVE.answer_text("B-red", example) == "B-red B-red B-red"
    assert list(OBJECTIVE.possible_answers(ColourTags(), [example])) == list(ColourTags().labels)
    assert OBJECTIVE.answer(Example("a", "")) == ""
    assert OBJECTIVE.head(ColourTags()).auto_class == "AutoModelForTokenClassification"
