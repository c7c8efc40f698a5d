"""Language modeling: every token is predicted once, as in transformers' guide to perplexity."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from peftkit import Example
from peftkit.analysis.task_preview import preview_task
from peftkit.errors import InputError, RecipeError
from peftkit.models.load_base_model import load_base
from peftkit.objectives import CausalLanguageModeling
from peftkit.objectives.language_modeling import split_text
from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe
from peftkit.testing import check_objective
from tests.tiny_runs import ColourDocument

TEXT = "The tram was late, so we walked along the canal and counted the bridges until it got dark."
OPTIONS = ("objective.name=causal_language_modeling", "objective.block_size=8", "objective.stride=3")


@pytest.mark.parametrize("objective", [CausalLanguageModeling(), CausalLanguageModeling(block_size=4, stride=1)])
def test_objectives_conform(objective: CausalLanguageModeling, tmp_path: Path) -> None:
    check_objective(objective, ColourDocument(), tmp_path, runs=False)


@pytest.mark.parametrize(
    "architecture",
    [
        "gpt2",
        *(pytest.param(name, marks=(pytest.mark.slow, pytest.mark.exhaustive)) for name in ("qwen2", "gemma2", "phi")),
    ],
)
def test_architectures_conform(architecture: str, tmp_path: Path) -> None:
    objective = CausalLanguageModeling(block_size=6)
    check_objective(objective, ColourDocument(), tmp_path, runs=False, architectures={"decoder": architecture})


@pytest.mark.slow
def test_whole_runs_conform(tmp_path: Path) -> None:
    check_objective(CausalLanguageModeling(block_size=5), ColourDocument(), tmp_path)


@pytest.mark.parametrize(("length", "size", "stride"), [(1, 4, 2), (4, 4, 2), (5, 4, 2), (11, 4, 3), (12, 5, 1)])
def test_every_token_is_predicted_once(length: int, size: int, stride: int) -> None:
    blocks = [*split_text(length + 1, 1, size, stride)]
    assert [token for _, first, end in blocks for token in range(first, end)] == [*range(1, length + 1)]
    assert all(begin < first and end - begin <= size for begin, first, end in blocks)
    assert all(first - begin == size - stride for begin, first, _ in blocks[1:])


def recipe_for(tmp_path: Path, model: str, *overrides: str) -> Any:
    file, data = tmp_path / "recipe.toml", tmp_path / "texts.jsonl"
    data.write_text("".join(f'{{"text": "{TEXT} {n}"}}\n' for n in range(10)), encoding="utf-8")
    tables = f"""
    model.name = "{model}"
    method.name = "full"
    [task]
    name = "plain_text"
    path = "{data.as_posix()}"
    dev_fraction = 0.2
    test_fraction = 0.2
    """
    file.write_text(tables, encoding="utf-8")
    return load_recipe(file, load_registry(""), list(overrides))


def test_losses_are_those_of_the_guide_to_perplexity(tmp_path: Path) -> None:
    """The loop of https://huggingface.co/docs/transformers/perplexity, with the start of text as first context."""
    size, stride = 8, 3
    base = load_base(recipe_for(tmp_path, "pocket-decoder", *OPTIONS))
    model, objective = base.model.eval(), base.objective
    context, example = objective.for_evaluation(torch.device("cpu")), Example(TEXT, "")
    rows = objective.tokenize([example], training=False)
    [predicted] = objective.component.predict(model, rows, [example], context, has_targets=True)
    [(start, tokens)] = objective.family.tokenize_documents([example])
    ids, nats, previous = torch.tensor([start + tokens]), 0.0, 1
    with torch.no_grad():
        for begin in range(0, ids.shape[1], stride):
            end = min(begin + size, ids.shape[1])
            inputs = ids[:, begin:end]
            labels = inputs.clone()
            labels[:, : previous - begin] = -100
            nats += model(inputs, labels=labels).loss.item() * (end - previous)
            previous = end
            if end == ids.shape[1]:
                break
    assert predicted["loss"] == pytest.approx(nats, rel=1e-4)
    assert predicted["tokens"] == len(tokens)
    assert predicted["likelihood"]["bytes"] == len(TEXT)


def test_a_text_to_predict_is_continued(tmp_path: Path) -> None:
    base = load_base(recipe_for(tmp_path, "pocket-decoder", "evaluate.max_new_tokens=3"))
    objective, example = base.objective, Example("The tram", "")
    rows = objective.tokenize([example], training=False)
    context = objective.for_evaluation(torch.device("cpu"))
    [predicted] = objective.component.predict(base.model.eval(), rows, [example], context, has_targets=False)
    assert isinstance(predicted["continuation"], str)
    assert set(predicted) == {"prediction", "continuation"}


def test_the_preview_shows_texts_and_no_answers(tmp_path: Path) -> None:
    preview = preview_task(recipe_for(tmp_path, "pocket-decoder", *OPTIONS), "train", 1)
    [example], statistics = preview["examples"], preview["splits"]["train"]
    assert example["source"].endswith(example["target"][-20:])
    assert example["source_tokens_kept"] > statistics["lengths"]["source"]["longest"] == 8
    assert "answers" not in statistics


@pytest.mark.parametrize("model", ["pocket-encoder"])
def test_other_kinds_of_model_are_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="use one of kind decoder"):
        recipe_for(tmp_path, model)


def test_blocks_fit_the_model_and_strides_the_blocks() -> None:
    with pytest.raises(ValidationError, match="stride: 8 tokens must be fewer than those of a block, 8"):
        CausalLanguageModeling(block_size=8, stride=8)
    family = SimpleNamespace(max_source_length=8, max_decoder_length=12)
    context: Any = SimpleNamespace(family=family)
    with pytest.raises(InputError, match=r"objective\.stride: 9 tokens must be fewer than those of a block, 8"):
        CausalLanguageModeling(stride=9).tokenize([], context, training=False)
    with pytest.raises(InputError, match="13 tokens exceed the 12 positions"):
        CausalLanguageModeling(block_size=13).tokenize([], context, training=True)


def test_texts_with_unknown_tokens_are_counted() -> None:
    context: Any = SimpleNamespace(family=SimpleNamespace(contains_unk=lambda ids: 0 in ids))
    rows = [{"source": [0, 2, 3, 0], "blocks": [[0, 1, 3], [2, 3, 4]]}, {"source": [0, 1], "blocks": [[0, 1, 2]]}]
    assert CausalLanguageModeling().count_unknown_targets(rows, context) == 1


def test_equal_texts_have_equal_answers() -> None:
    objective = CausalLanguageModeling()
    answers = [objective.answer(Example(text, "")) for text in ("a", "b", "a")]
    assert answers[0] == answers[2] != answers[1]
