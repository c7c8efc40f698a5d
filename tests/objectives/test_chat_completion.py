"""Chat: what is trained on, what the loss is the sum of, and where generation stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoTokenizer, GenerationConfig

from peftkit.components import Example
from peftkit.components.types import Conversation, TrainOn
from peftkit.models.load_base_model import LoadedBase, load_base
from peftkit.objectives import ChatCompletion
from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe
from peftkit.testing import check_objective
from tests.tiny_runs import CHAT_TEMPLATE, ColourChat

TURNS = (
    {"role": "user", "content": "what is a robin?"},
    {"role": "assistant", "content": "a small bird"},
    {"role": "user", "content": "and granite?"},
    {"role": "assistant", "content": "a hard rock"},
)
ANSWERED = Example("", "a hard rock", conversation=Conversation(TURNS))
ASKED = Example("", "", conversation=Conversation(TURNS[:3]))


@pytest.mark.parametrize("train_on", ["last_assistant", "completion", "all"])
def test_objectives_conform(train_on: TrainOn, tmp_path: Path) -> None:
    objective = ChatCompletion(train_on=train_on, chat_template=CHAT_TEMPLATE)
    check_objective(objective, ColourChat(), tmp_path, runs=False)


@pytest.mark.parametrize(
    "architecture",
    [
        "gpt2",
        *(pytest.param(name, marks=(pytest.mark.slow, pytest.mark.exhaustive)) for name in ("qwen2", "gemma2", "phi")),
    ],
)
def test_architectures_conform(architecture: str, tmp_path: Path) -> None:
    objective = ChatCompletion(chat_template=CHAT_TEMPLATE)
    check_objective(objective, ColourChat(), tmp_path, runs=False, architectures={"decoder": architecture})


@pytest.mark.slow
@pytest.mark.exhaustive
def test_whole_runs_conform(tmp_path: Path) -> None:
    check_objective(ChatCompletion(chat_template=CHAT_TEMPLATE), ColourChat(), tmp_path)


def load(tmp_path: Path, **options: Any) -> LoadedBase:
    file, data = tmp_path / "recipe.toml", tmp_path / "chats.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n' * 10, encoding="utf-8")
    tables = f"""
    model.name = "pocket-decoder"
    method.name = "full"
    [task]
    name = "chat"
    path = "{data.as_posix()}"
    dev_fraction = 0.2
    test_fraction = 0.2
    """
    file.write_text(tables, encoding="utf-8")
    overrides = [
        f"objective.{name}={json.dumps(value)}" for name, value in {"name": "chat_completion", **options}.items()
    ]
    return load_base(load_recipe(file, load_registry(""), overrides))


@pytest.mark.parametrize("train_on", ["assistant", "last_assistant", "completion", "all"])
def test_the_loss_is_that_of_transformers_on_the_trained_tokens(tmp_path: Path, train_on: TrainOn) -> None:
    base = load(tmp_path, chat_template=CHAT_TEMPLATE, train_on=train_on)
    model, objective = base.model.eval(), base.objective
    (row,) = objective.tokenize([ANSWERED], training=True)
    ids = torch.tensor([row["source"] + row["candidates"][0]])
    labels = torch.full_like(ids, -100)
    for start, end in row["trained_spans"]:
        labels[0, start:end] = ids[0, start:end]
    batch = objective.collate([row])
    assert batch["labels"].tolist() == labels.tolist()
    with torch.no_grad():
        reference = model(input_ids=ids, labels=labels).loss * (labels[:, 1:] != -100).sum()
        loss = objective.loss(model, batch)
        context = objective.for_evaluation(torch.device("cpu"))
        (prediction,) = objective.component.predict(model, [row], [ANSWERED], context, has_targets=True)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    assert prediction["loss"] == pytest.approx(reference.item(), rel=1e-5)
    assert prediction["tokens"] == int(objective.num_targets(batch)) == int((labels[:, 1:] != -100).sum())


def test_generation_stops_where_the_template_ends_an_answer(tmp_path: Path) -> None:
    """A stop token that the model writes first is not the tokenizer's end of text."""
    base = load(tmp_path, chat_template=CHAT_TEMPLATE.replace("eos_token", "'<pad>'"))
    tokenizer: Any = base.objective.family.tokenizer
    context = base.objective.for_evaluation(torch.device("cpu"))
    rows = base.objective.tokenize([ASKED], training=False)
    options = {"max_new_tokens": 6, "num_beams": 1}
    plain = base.objective.family.generate(base.model.eval(), rows, torch.device("cpu"), **options)
    first = tokenizer(plain[0].text, add_special_tokens=False)["input_ids"][0]
    stopped = base.objective.family.generate(base.model, rows, torch.device("cpu"), stop_ids=[first], **options)
    assert plain[0].text
    assert [text for text, _ in stopped] == [""]
    template = context.family.load_chat_template(CHAT_TEMPLATE.replace("eos_token", "'<pad>'"), {})
    assert tokenizer.convert_ids_to_tokens(list(template.stop_ids)) == ["<pad>", "</s>"]


def test_a_template_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "chat_template.jinja"
    file.write_text(CHAT_TEMPLATE, encoding="utf-8")
    assert ChatCompletion(chat_template=str(file)).chat_template == CHAT_TEMPLATE
    with pytest.raises(ValidationError, match="neither a template, which has braces, nor a file"):
        ChatCompletion(chat_template=str(tmp_path / "missing.jinja"))
    file.write_text("no template", encoding="utf-8")
    with pytest.raises(ValidationError, match="has no template"):
        ChatCompletion(chat_template=str(file))


def test_a_template_with_a_mistake_is_refused_with_its_line() -> None:
    with pytest.raises(ValidationError, match="line 2 of the template: Unexpected end of template"):
        ChatCompletion(chat_template="{% for m in messages %}\n{{ m.content }}")
    marked = CHAT_TEMPLATE.replace("{{ m.content }}", "{%- generation -%}{{ m.content }}{% endgeneration %}")
    assert ChatCompletion(chat_template=marked).chat_template == marked


def test_every_token_is_counted_once(tmp_path: Path) -> None:
    for train_on in ("assistant", "last_assistant", "all"):
        objective = load(tmp_path, chat_template=CHAT_TEMPLATE, train_on=train_on).objective
        batch = objective.collate_and_count(objective.tokenize([ANSWERED], training=True))
        assert batch.counts is not None
        assert batch.counts.input_tokens + batch.counts.targets == batch.counts.tokens


def test_an_exported_model_has_the_template_and_its_end(tmp_path: Path) -> None:
    base, folder = load(tmp_path), tmp_path / "saved"
    objective = ChatCompletion(chat_template=CHAT_TEMPLATE)
    tokenizer: Any = base.objective.family.tokenizer
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 7, "pad_token_id": 0}', encoding="utf-8")
    objective.export(folder, base.objective.context)
    settings = GenerationConfig.from_pretrained(folder)
    assert (settings.eos_token_id, settings.pad_token_id) == ([tokenizer.eos_token_id], 0)
    loaded: Any = AutoTokenizer.from_pretrained(folder)
    rows = objective.tokenize([ASKED], base.objective.context, training=False)
    ids = loaded.apply_chat_template(list(TURNS[:3]), add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == rows[0]["source"]
    assert CHAT_TEMPLATE in objective.describe_outputs(ColourChat(), {})
    assert ChatCompletion().describe_outputs(ColourChat(), {}) == ""
