"""Tiny random models of each kind, with the pocket models' vocabulary, and a task to train them on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from peftkit import Example, Method
from peftkit.answer_texts.label_sets import join_labels, label_extra
from peftkit.components import ModelKind, Objective, ObjectiveContext
from peftkit.components.types import Conversation
from peftkit.models import FAMILIES, BoundObjective
from peftkit.plugins import Entry, Registry, load_registry
from peftkit.recipe import Recipe, dump_recipe, load_recipe
from peftkit.recipe.model_names import model_path
from peftkit.testing.run_checks import COLOURS, Colours

SPECIAL = {"vocab_size": 8192, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3}
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TOPICS = COLOURS
ONE_EVALUATION = ("evaluate.every=100%", "evaluate.at_start=false", "evaluate.train_examples=0")
"""Overrides for runs whose curve is not what is tested: evaluations take most of their time."""


def tiny(kind: str) -> tuple[PreTrainedModel, str]:
    """An untrained model of a kind, and the built-in model with the matching tokenizer."""
    torch.manual_seed(0)
    if kind == "encoder-decoder":
        config = T5Config(d_model=32, d_kv=16, d_ff=64, num_heads=2, num_layers=2, decoder_start_token_id=0, **SPECIAL)
        return T5ForConditionalGeneration(config), "pocket-t5"
    if kind == "decoder":
        llama = LlamaConfig(max_position_embeddings=256, tie_word_embeddings=True, **SIZES, **SPECIAL)
        return LlamaForCausalLM(llama), "pocket-decoder"
    return BertForMaskedLM(
        BertConfig(max_position_embeddings=256, initializer_range=0.1, **SIZES, **SPECIAL)
    ), "pocket-encoder"


def save_models(parent: Path) -> dict[str, Path]:
    """Saves the tiny models in the layout of the hub; returns their folders by kind."""
    folders = {kind: parent / kind for kind in ("encoder-decoder", "decoder", "encoder")}
    for kind, folder in folders.items():
        model, tokenizer = tiny(kind)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(model_path(tokenizer)).save_pretrained(folder)
    return folders


class ColourChoice(Colours):
    """The colour task as multiple choice."""

    name: Literal["colour_choice"] = "colour_choice"  # type: ignore[assignment]

    kind = "multiple_choice"

    @property
    def labels(self) -> tuple[str, ...]:
        return ()


class ColourPair(ColourChoice):
    """The colour task with two choices, the colour and another one."""

    name: Literal["colour_pair"] = "colour_pair"  # type: ignore[assignment]

    def to_example(self, row: Any) -> Example:
        example = super().to_example(row)
        other = next(colour for colour in example.candidates if colour != example.target)
        return replace(example, candidates=tuple(sorted((example.target, other))))

    def to_prompt(self, row: Any) -> Example:
        example = self.to_example(row)
        return replace(example, target=example.candidates[0])


class ColourText(Colours):
    """The colour task as text generation."""

    name: Literal["colour_text"] = "colour_text"  # type: ignore[assignment]

    kind = "generation"
    metrics = ("exact_match",)
    selection_metric = "exact_match"

    def to_example(self, row: Any) -> Example:
        return Example(f"colour: {row['thing']}", row["colour"])


class ColourNumber(Colours):
    """The colour task as regression: one number for each colour, and the number of words."""

    name: Literal["colour_number"] = "colour_number"  # type: ignore[assignment]
    two: bool = False
    """Whether there are two targets."""
    pair: bool = False
    """Whether the source is a symmetric pair of texts."""

    kind = "regression"
    metrics = ("mse", "mae", "unparsable")
    selection_metric = "mse"

    @property
    def labels(self) -> tuple[str, ...]:
        return ()

    @property
    def targets(self) -> tuple[str, ...]:
        return ("colour", "words") if self.two else ()

    def to_example(self, row: Any) -> Example:
        colour = str(COLOURS.index(row["colour"]) / 2) if row["colour"] in COLOURS else ""
        words = str(len(row["thing"].split()))
        extra = {"colour": colour, "words": words} if self.two else {}
        pair = (row["thing"], "leaf sky") if self.pair else None
        target = f"{colour}, {words}" if self.two else colour
        return Example(f"number: {row['thing']}", target, extra=extra, source_pair=pair, symmetric=self.pair)


class ColourSet(Colours):
    """The colour task as multi-label classification: the colour, whether there are several words, or nothing."""

    name: Literal["colour_set"] = "colour_set"  # type: ignore[assignment]

    kind = "multi_label"
    metrics = ("multi_label_f1", "exact_set", "unknown_labels")
    selection_metric = "f1_micro"

    @property
    def labels(self) -> tuple[str, ...]:
        return ("green", "blue", "several")

    @property
    def empty_answer(self) -> str:
        return "none"

    def to_example(self, row: Any) -> Example:
        several = ["several"] if len(row["thing"].split()) > 1 else []
        target = join_labels([colour for colour in (row["colour"],) if colour != "red"] + several, self.labels, "none")
        return Example(f"labels: {row['thing']}", target, extra=label_extra(self.labels, "none"))


class ColourDocument(Colours):
    """The colour task as plain text."""

    name: Literal["colour_document"] = "colour_document"  # type: ignore[assignment]

    kind = "language_modeling"
    metrics = ("bits_per_byte", "perplexity")
    selection_metric = "bits_per_byte"

    @property
    def labels(self) -> tuple[str, ...]:
        return ()

    def to_example(self, row: Any) -> Example:
        text = f"The colour of {row['thing']} is clear."
        return Example(text, text)

    def to_prompt(self, row: Any) -> Example:
        return replace(self.to_example(row), target="")


CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token if m.role == 'assistant' else ' ' }}{% endfor %}"
    "{{ 'assistant:' if add_generation_prompt }}"
)
"""A chat template for base models: what the assistant says ends with the end of text."""


class ColourChat(Colours):
    """The colour task as a conversation with two answers."""

    name: Literal["colour_chat"] = "colour_chat"  # type: ignore[assignment]

    kind = "chat"
    metrics = ("exact_match",)
    selection_metric = "exact_match"

    @property
    def labels(self) -> tuple[str, ...]:
        return ()

    def to_example(self, row: Any) -> Example:
        texts = ("colour", "which", row["thing"], row["colour"])
        roles = ("user", "assistant") * 2
        messages = tuple({"role": role, "content": text} for role, text in zip(roles, texts, strict=True))
        return Example(f"colour: {row['thing']}", row["colour"], conversation=Conversation(messages))

    def to_prompt(self, row: Any) -> Example:
        example = self.to_example({**row, "colour": ""})
        return replace(example, target="", conversation=Conversation(example.conversation.messages[:-1]))  # type: ignore[union-attr]


class ColourTags(Colours):
    """The colour task as tags of words."""

    name: Literal["colour_tags"] = "colour_tags"  # type: ignore[assignment]

    kind = "token_tagging"
    metrics = ("entity_f1", "token_accuracy")
    selection_metric = "entity_f1"

    @property
    def labels(self) -> tuple[str, ...]:
        return ("O", *(f"B-{colour}" for colour in COLOURS))

    def to_example(self, row: Any) -> Example:
        words = ("colour", *row["thing"].split())
        tags = ["O", *[f"B-{row['colour']}"] * (len(words) - 1)]
        return Example(" ".join(words), " ".join(tags), words=words)


class ColourSpans(Colours):
    """The colour task as spans of a context."""

    name: Literal["colour_spans"] = "colour_spans"  # type: ignore[assignment]

    kind = "span_qa"
    metrics = ("squad",)
    selection_metric = "squad_f1"

    @property
    def labels(self) -> tuple[str, ...]:
        return ()

    def to_example(self, row: Any) -> Example:
        context, thing = "red, green or blue", row["thing"]
        start = context.index(row["colour"])
        prompt = Example(f"(colour) {thing}: {context}", row["colour"], source_pair=(f"colour {thing}", context))
        return replace(prompt, target_span=(start, start + len(row["colour"])))


class ColourDocuments(Colours):
    """The colour task as retrieval: a sentence about the thing is to be found among those of all rows."""

    name: Literal["colour_documents"] = "colour_documents"  # type: ignore[assignment]

    kind = "embedding"
    metrics = ("ndcg", "recall")
    selection_metric = "ndcg@10"

    @property
    def labels(self) -> tuple[str, ...]:
        return ()

    def to_example(self, row: Any) -> Example:
        document = f"{row['thing']} has the colour {row['colour']}"
        wrong = [f"{row['thing']} has no colour"] * (len(row["thing"].split()) % 2)  # some rows have a hard negative
        return Example(row["thing"], document, documents=(document, *wrong))

    def to_prompt(self, row: Any) -> Example:
        return replace(self.to_example(row), target="")


class ColourSimilarity(ColourNumber):
    """The colour task as scored pairs."""

    name: Literal["colour_similarity"] = "colour_similarity"  # type: ignore[assignment]
    pair: bool = True

    kind = "text_similarity"
    metrics = ("pearson",)  # ranks of nearly equal cosines depend on the last bits, and so on the number of processes
    selection_metric = "pearson"


class Quiet(Method):
    """Full fine-tuning without dropout, whose random masks depend on the microbatches."""

    name: Literal["quiet"] = "quiet"

    def apply(self, model: Any, context: Any) -> Any:
        for module in model.modules():  # the rate of a dropout layer or of a fused attention
            for name, value in vars(module).items():
                if isinstance(value, float) and (isinstance(module, torch.nn.Dropout) or "dropout" in name):
                    setattr(module, name, 0.0)
        return model


def registry_with_test_components() -> Registry:
    """The installed components and those of this module."""
    installed = load_registry()
    tasks = tuple(
        Entry("task", str(t.model_fields["name"].default), t, "tests", "0") for t in (Colours, ColourChoice, ColourText)
    )
    methods = (Entry("method", "quiet", Quiet, "tests", "0"),)
    return Registry(installed.entries + tasks + methods, installed.failures, installed.distributions)


Make = Callable[..., Recipe]


def recipe_maker(models: dict[str, Path], registry: Registry, tmp_path: Path) -> Make:
    """Returns a function that makes a small recipe: ``make("decoder", "train.batch_size=4")``."""
    base = tmp_path / "recipe.toml"
    base.write_text(
        f"""
        [run]
        name = "test"
        output = "{(tmp_path / "runs").as_posix()}"
        [task]
        name = "colours"
        [method]
        name = "full"
        [train]
        batch_size = 8
        learning_rate = 1e-2
        optimizer = "adamw"
        [train.budget]
        steps = 6
        [evaluate]
        every = "50%"
        train_examples = 6
        [track]
        to = []
        """,
        encoding="utf-8",
    )

    def make_recipe(kind: str, *overrides: str) -> Recipe:
        return load_recipe(base, registry, [f'model.name="{models[kind].as_posix()}"', *overrides])

    return make_recipe


def small_task(folder: Path) -> str:
    """Writes a task of few rows for runs in new processes, which do not have the tests' tasks.

    Returns:
        An override that sets the task. The built-in tasks have ten thousand rows to tokenize.
    """
    folder.mkdir()
    sizes = ("small", "big")
    for split, count in (("train", 24), ("dev", 8), ("test", 8)):
        rows = [{"text": f"thing {i} is {sizes[i % 2]}", "label": "ab"[i % 2]} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return f'task={{name = "text_classification", path = "{folder.as_posix()}"}}'


def save_without_dropout(models: dict[str, Path], folder: Path) -> Path:
    """Saves a model without dropout, whose random masks depend on the microbatches."""
    shutil.copytree(models["encoder-decoder"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.0}))
    return folder


def built_in_maker(make: Make, plain: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Returns a function that makes recipes of built-in components, with run directories by name."""

    def make_recipe(name: str, *overrides: str) -> Recipe:
        defaults = ("task.name=wordnet_topic", f"model.name={plain}", f"run.output={tmp_path / name}")
        return make("encoder-decoder", *defaults, *overrides)

    return make_recipe


def built_in_writer(built_in: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that writes such a recipe into a file."""

    def write_recipe(name: str, *overrides: str) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(dump_recipe(built_in(name, *overrides)), encoding="utf-8")
        return path

    return write_recipe


def bind_objective(
    kind: ModelKind, tokenizer: Any, config: Any, task_kind: str = "multiple_choice", **lengths: int
) -> BoundObjective:
    """The installed objective of a kind of task for a model; sources have at most 64 tokens, and targets 32."""
    [objective] = [
        entry.component()  # type: ignore[call-arg]
        for entry in load_registry().all("objective").values()
        if issubclass(entry.component, Objective)
        and entry.component.task_kind == task_kind
        and kind in entry.component.families
    ]
    task = {"classification": Colours, "multiple_choice": ColourChoice, "generation": ColourText}[task_kind]()
    family = FAMILIES[kind](tokenizer, config, **{"max_source_length": 64, "max_target_length": 32, **lengths})
    context = ObjectiveContext(family, kind, tokenizer, config, task)
    return BoundObjective(objective, family, context, family.auto_class)
