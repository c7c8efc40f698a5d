"""The teacher-forced score, and how it leaks the answer."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer

from peftkit import Example, Task
from peftkit.data.tokenized_split import tokenize_examples
from peftkit.errors import RecipeError
from peftkit.evaluate.evaluator import evaluate
from peftkit.metrics import BalancedAccuracy, TeacherForcedMatch
from peftkit.plugins import Entry, Registry, load_registry
from peftkit.recipe import load_recipe
from peftkit.recipe.model_names import model_path
from tests.tiny_runs import bind_objective

NOT = "Hate speech is not present in the previous sentences."
PRESENT = "Hate speech is present in the previous sentences."
LABELS = (NOT, PRESENT)


def labelled(*golds: str) -> list[Example]:
    return [Example("x", gold, LABELS) for gold in golds]


def test_labels_are_matched_by_text_else_by_otherwise() -> None:
    predictions, examples = [NOT, "Hate speech is not not"], labelled(NOT, PRESENT)
    references = [[e.target] for e in examples]
    assert TeacherForcedMatch().compute(predictions, references, examples) == {"teacher_forced_match": 1.0}
    assert TeacherForcedMatch(otherwise="first").compute(predictions, references, examples) == {
        "teacher_forced_match": 0.5
    }


def test_without_labels_the_prediction_must_equal_the_target() -> None:
    examples = [Example("x", "a b"), Example("x", "c d")]
    references = [[e.target] for e in examples]
    assert TeacherForcedMatch().compute(["a b", "c c"], references, examples) == {"teacher_forced_match": 0.5}


class AlwaysNot(nn.Module):
    """Starts every answer with "Hate speech is not" and completes the two answers correctly."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.follows: dict[tuple[int, ...], int] = {}
        for text in (PRESENT, NOT):  # the last continuation of "is" is kept: "not"
            ids = [0, *tokenizer(text)["input_ids"]]
            self.follows |= {tuple(ids[:end]): ids[end] for end in range(1, len(ids))}
        self.size = len(tokenizer)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor, **rest: Any) -> Any:
        logits = torch.zeros(*decoder_input_ids.shape, self.size)
        for row, ids in enumerate(decoder_input_ids.tolist()):
            for end in range(1, len(ids) + 1):
                logits[row, end - 1, self.follows.get(tuple(ids[:end]), 0)] = 9.0
        return SimpleNamespace(logits=logits, encoder_last_hidden_state=torch.zeros(*input_ids.shape, 2))


class Hate(Task):
    """A task with equally many rows of both labels."""

    name: Literal["hate"] = "hate"
    kind = "classification"
    metrics = ("balanced_accuracy", "teacher_forced_match")
    selection_metric = "balanced_accuracy"

    @property
    def labels(self) -> tuple[str, ...]:
        return LABELS

    def load(self) -> DatasetDict:
        return DatasetDict({split: Dataset.from_dict({"label": [0, 1] * 10}) for split in ("train", "dev", "test")})

    def to_example(self, row: Mapping[str, Any]) -> Example:
        return Example("some tweet", LABELS[row["label"]], LABELS)


class HateByForce(Hate):
    """The same task, selected by the teacher-forced score."""

    name: Literal["hate_by_force"] = "hate_by_force"  # type: ignore[assignment]
    selection_metric = "teacher_forced_match"


def recipe_for(name: str, folder: Any) -> Any:
    installed = load_registry()
    tasks = tuple(Entry("task", str(t.model_fields["name"].default), t, "tests", "0") for t in (Hate, HateByForce))
    registry = Registry(installed.entries + tasks, installed.failures, installed.distributions)
    (folder / "x.toml").write_text(
        f'[model]\nname = "pocket-t5"\n[task]\nname = "{name}"\n[method]\nname = "full"\n', encoding="utf-8"
    )
    return load_recipe(folder / "x.toml", registry)


def test_a_constant_model_scores_1_teacher_forced_and_one_half_balanced(tmp_path: Any) -> None:
    recipe = recipe_for("hate", tmp_path)
    path = model_path("pocket-t5")
    tokenizer = AutoTokenizer.from_pretrained(path)
    objective = bind_objective("encoder-decoder", tokenizer, AutoConfig.from_pretrained(path), "classification")
    objective = objective.with_task(recipe.task)
    examples = [recipe.task.to_example(row) for row in recipe.task.load()["test"]]
    split = tokenize_examples(objective, "test", examples, range(20), training=False)
    result = evaluate(AlwaysNot(tokenizer), split, recipe, objective, Accelerator(cpu=True))
    assert result.values["teacher_forced_match"] == 1.0
    assert result.values["balanced_accuracy"] == 0.5
    assert {p["prediction"] for p in result.predictions} == {NOT}


def test_teacher_forced_match_cannot_select(tmp_path: Any) -> None:
    with pytest.raises(RecipeError, match="by 'teacher_forced_match', which none of these metrics computes"):
        recipe_for("hate_by_force", tmp_path)


def test_teacher_forced_match_documents_its_leak() -> None:
    assert "leaks" in (TeacherForcedMatch.__doc__ or "")
    assert TeacherForcedMatch.input == "teacher_forced"
    assert BalancedAccuracy.input == "prediction"
