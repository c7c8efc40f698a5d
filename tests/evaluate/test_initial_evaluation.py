"""Which models share the evaluation before training, and how forks pass it on."""

from __future__ import annotations

import json
import random
import tempfile
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from peftkit.data.tokenized_split import TokenizedSplit, tokenize_examples
from peftkit.evaluate.evaluator import SplitResult
from peftkit.evaluate.initial_evaluation import StartEvaluation, StartEvaluations, fingerprint
from peftkit.models.load_base_model import apply_method, load_base
from peftkit.recipe import Recipe
from tests.tiny_runs import Make


def hash_of(recipe: Recipe, change: Any = None) -> str | None:
    """The fingerprint of a recipe's model at the start, after a change to the model."""
    base = load_base(recipe)
    examples = [recipe.task.to_example(row) for row in recipe.task.load()["dev"]]
    split: TokenizedSplit = tokenize_examples(base.objective, "dev", examples, range(len(examples)), training=False)
    model = apply_method(recipe, base, steps=3)
    if change is not None:
        change(model)
    return fingerprint(model, [split], recipe, base.objective, Accelerator(cpu=True))


def change_one_token(model: nn.Module) -> None:
    """Changes the embedding of a token that is in no row; the output layer is left as it is."""
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    embeddings.register_forward_hook(lambda module, inputs, output: output + (inputs[0] == 8000)[..., None] * 0.1)


def draw_numbers(model: nn.Module) -> None:
    next(model.children()).register_forward_hook(lambda *passed: random.random() and None)


@pytest.mark.parametrize(
    ("kind", "task"), [("encoder-decoder", "colours"), ("decoder", "colour_choice"), ("decoder", "colour_text")]
)
def test_methods_that_change_nothing_at_the_start_have_one_hash(kind: str, task: str, make: Make) -> None:
    def hash_with(method: str, *overrides: str) -> str | None:
        return hash_of(make(kind, f"task.name={task}", f"method.name={method}", *overrides))

    unchanged = hash_with("ia3")
    assert unchanged is not None
    assert hash_with("lora", "run.seed=7") == unchanged
    assert hash_with("lora", "method.init_lora_weights=false") not in (unchanged, None)


def test_new_heads_of_different_seeds_have_different_hashes(make: Make) -> None:
    first, lora, other = (
        hash_of(make("encoder", *overrides)) for overrides in ((), ("method.name=lora",), ("run.seed=7",))
    )
    assert first == lora != other


def test_hidden_changes_are_seen(make: Make) -> None:
    recipe = make("decoder")
    unchanged = hash_of(recipe)
    assert hash_of(make("decoder", "method.name=lora")) == unchanged
    assert hash_of(recipe, change_one_token) not in (unchanged, None)
    state = random.getstate()
    assert hash_of(recipe, draw_numbers) is None
    assert random.getstate() == state


def test_an_evaluation_is_passed_on_through_the_file() -> None:
    predictions = [{"index": 0, "prediction": "red", "loss": 0.1 + 0.2, "tokens": 1}]
    evaluation = StartEvaluation({"dev": SplitResult({"loss": float(torch.tensor(0.3))}, predictions)}, 1.5)
    with tempfile.TemporaryFile(buffering=0) as file:
        process, run = StartEvaluations(file), StartEvaluations(file)
        process.collect()
        run.add("key", evaluation)
        assert process.get("key") is None
        process.collect()
        assert process.get("key") == evaluation
        file.write(json.dumps(["other", 1.0, {}]).encode())  # killed before the end of the line
        process.collect()
        assert process.get("other") is None
        run.add("third", evaluation)
        process.collect()
        assert process.get("third") == evaluation
    assert StartEvaluations().get("key") is None
