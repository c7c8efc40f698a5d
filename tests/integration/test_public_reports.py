"""Bugs reported in other projects, reproduced with peftkit."""

from __future__ import annotations

import csv
import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from peftkit import Example
from peftkit.candidate_choice import argmax_candidate
from peftkit.errors import PeftkitError
from peftkit.inference.finished_run import load_finished_run
from peftkit.inference.predict import predict
from peftkit.inference.save_merged import save_merged
from peftkit.models import FAMILIES, IGNORE_INDEX, CausalLM
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.testing.run_checks import COLOURS
from peftkit.testing.tokenizers import tokenizer
from peftkit.train.run import run
from tests.tiny_runs import Make

ABSENT = ["null", "None", "NA", "N/A", "nan", "NaN", "NULL", "n/a", "-nan", "#N/A", "<NA>"]
"""Words that CSV readers treat as missing values."""


def finished(make: Make, registry: Registry, kind: str, *options: str) -> Path:
    path = run(make(kind, "train.budget.steps=2", *options), registry)
    assert path is not None
    return path


def test_words_that_csv_readers_treat_as_missing_are_texts(make: Make, registry: Registry, tmp_path: Path) -> None:
    """huggingface/datasets#4467, pandas-dev/pandas#32084."""
    rows = [{"text": word, "label": word} for word in ABSENT]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for name in ("rows.csv", "rows.json"):
        path = {split: (tmp_path / name).as_posix() for split in ("train", "dev", "test")}
        task: Any = registry.all("task")["text_classification"].component
        splits = task.model_validate({"name": "text_classification", "path": path}).load()
        assert splits["train"]["text"] == splits["train"]["label"] == ABSENT


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_truncation_keeps_targets(kind: str, models: dict[str, Path]) -> None:
    """huggingface/trl#3927, huggingface/trl#6668: truncation left rows without any target."""
    config = AutoModelForCausalLM.from_pretrained(models["decoder"]).config
    config.decoder_start_token_id = 0
    family = FAMILIES[kind](AutoTokenizer.from_pretrained(models[kind]), config, 8, 8)  # type: ignore[index]
    examples = [Example("a very long question " * 40, "yes"), Example("short", "no")]
    rows = family.tokenize_completions(examples, ranked=False, generated=True)
    labels = family.collate(rows)["labels"]
    assert ((labels != IGNORE_INDEX).sum(1) >= 2).all()


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_accumulated_batches_are_weighted_by_tokens(
    accumulation: int, make: Make, registry: Registry, plain: Path
) -> None:
    """huggingface/transformers#34191, #35203, #46731: a mean of means."""
    options = [f"model.name={plain}", "task.name=colour_text", "train.optimizer=SGD", "train.max_grad_norm=0"]
    sizes = [f"train.batch_size={8 // accumulation}", f"train.gradient_accumulation_steps={accumulation}"]
    path = finished(make, registry, "encoder-decoder", *options, *sizes)
    whole = finished(make, registry, "encoder-decoder", *options, "train.batch_size=8")
    losses = [RunDirectory(p).evaluations()[-1]["dev"]["loss"] for p in (path, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder", "encoder"])
def test_scores_do_not_depend_on_the_batch_size(kind: str, make: Make, registry: Registry) -> None:
    """hiyouga/LlamaFactory#1256, EleutherAI/lm-evaluation-harness#879, huggingface/transformers#25790."""
    one, many = (finished(make, registry, kind, f"evaluate.batch_size={size}") for size in (1, 12))
    for first, second in zip(*(RunDirectory(p).predictions("test") for p in (one, many)), strict=True):
        assert first["prediction"] == second["prediction"]
        assert first["log_likelihoods"] == pytest.approx(second["log_likelihoods"], rel=1e-4, abs=1e-5)


def test_ties_do_not_favor_a_position() -> None:
    """babylm/evaluation-pipeline-2025#34: the first choice won every tie."""
    assert argmax_candidate(["b", "a", "c"], [0.5, 0.5, 0.5]) == argmax_candidate(["c", "b", "a"], [0.5, 0.5, 0.5])


def test_a_model_is_loaded_without_dropout(make: Make, registry: Registry) -> None:
    """huggingface/peft#2438: adapters that were loaded to be trained gave other outputs each time."""
    path = finished(make, registry, "decoder", "method.name=lora", "method.lora_dropout=0.5")
    opened = load_finished_run(path, registry)
    lines = ["rose", "sky sea"]
    assert [*predict(opened, lines)] == [*predict(opened, lines)]
    assert not any(module.training for module in opened.model.modules())


def test_a_full_embedding_and_head_are_saved_and_loaded(make: Make, registry: Registry) -> None:
    """hiyouga/LlamaFactory#7665: saved with a shape of zero."""
    options = ("method.name=lora", 'method.modules_to_save=["embed_tokens","lm_head"]')
    path = finished(make, registry, "decoder", *options)
    stored = [p["log_likelihoods"] for p in RunDirectory(path).predictions("test")]
    rows = [{"thing": p["source"].removeprefix("(colour) ")} for p in RunDirectory(path).predictions("test")]
    again = [
        p["log_likelihoods"] for p in predict(load_finished_run(path, registry), [json.dumps(row) for row in rows])
    ]
    for first, second in zip(stored, again, strict=True):
        assert first == pytest.approx(second, rel=1e-5)


def test_an_update_of_a_tied_output_layer_is_not_merged_into_the_embedding(
    make: Make, registry: Registry, tmp_path: Path
) -> None:
    """huggingface/peft#2018."""
    options = ("method.name=lora", 'method.target_modules=["lm_head"]', "train.optimizer=SGD", "train.learning_rate=5")
    opened = load_finished_run(finished(make, registry, "decoder", *options), registry)
    ids = torch.arange(5, 13)[None]
    with torch.no_grad():
        before = opened.model(input_ids=ids).logits
    try:
        save_merged(opened, tmp_path / "merged")
    except PeftkitError:
        return
    with torch.no_grad():
        after = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(input_ids=ids).logits
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)


def test_a_folder_name_is_not_a_split(registry: Registry, tmp_path: Path) -> None:
    """huggingface/datasets#5721, huggingface/datasets#7880: ``latest`` or ``contest`` became the split ``test``."""
    folder = tmp_path / "latest_contest"
    folder.mkdir()
    for name, number in (("train", 9), ("validation", 4), ("test", 3)):
        lines = "".join(json.dumps({"text": f"{name} {i}", "label": "ab"[i % 2]}) + "\n" for i in range(number))
        (folder / f"{name}.jsonl").write_text(lines)
    task: Any = registry.all("task")["text_classification"].component
    splits = task.model_validate({"name": "text_classification", "path": folder.as_posix()}).load()
    assert {name: len(splits[name]) for name in ("train", "dev", "test")} == {"train": 9, "dev": 4, "test": 3}
    assert all(text.startswith("train") for text in splits["train"]["text"])


def head_of(model: Any, labels: tuple[str, ...], tokenizer: Path, folder: Path) -> Path:
    """Saves a classifier whose outputs have these labels, each with the weights that belong to its name."""
    order = [COLOURS.index(label) for label in labels]
    head = model.score if hasattr(model, "score") else model.classifier
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(parameter[order].clone())
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def classifier(kind: str, models: dict[str, Path]) -> Any:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(models[kind], num_labels=len(COLOURS))


def test_outputs_of_a_kept_head_follow_its_label_names(
    make: Make, registry: Registry, models: dict[str, Path], tmp_path: Path
) -> None:
    """huggingface/transformers#10401: read in the data set's order, 90 % became 4 %."""
    losses = []
    for number, labels in enumerate((tuple(COLOURS), tuple(reversed(COLOURS)))):
        folder = head_of(classifier("encoder", models), labels, models["encoder"], tmp_path / str(number))
        path = finished(make, registry, "encoder", f"model.name={folder}", "model.keep_head=true", "method.name=lora")
        losses.append([row["dev"]["loss"] for row in RunDirectory(path).evaluations()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_the_new_head_of_a_decoder_classifier_is_restored(
    method: str, make: Make, registry: Registry, models: dict[str, Path], tmp_path: Path
) -> None:
    """huggingface/peft#876, huggingface/transformers#48595: reloaded, the layer ``score`` was one of chance."""
    folder = head_of(classifier("decoder", models), tuple(COLOURS), models["decoder"], tmp_path / "model")
    path = finished(make, registry, "encoder", f"model.name={folder}", f"method.name={method}")
    stored = RunDirectory(path).predictions("test")
    rows = [json.dumps({"thing": row["source"].removeprefix("(colour) ")}) for row in stored]
    again = [*predict(load_finished_run(path, registry), rows)]
    for first, second in zip(stored, again, strict=True):
        assert first["prediction"] == second["prediction"]
        assert first["log_likelihoods"] == pytest.approx(second["log_likelihoods"], rel=1e-4)


OTHER_COLUMNS: dict[str, tuple[list[Any], str]] = {
    "datasets#7092, lists that are empty in one file": ([[], [], [{"id": 1, "src": "x"}]], ""),
    "datasets#7222, null until a later file": ([None, None, "late"], ""),
    "datasets#8241, objects of different keys behind a byte order mark": ([{"a": 1}, {"b": "x"}, {"c": [1]}], "\ufeff"),
    "datasets#7664, a text that looks like a schema": (
        ["action: string, datetime: timestamp[s]", "2024-01-01", "x"],
        "",
    ),
}


@pytest.mark.parametrize("report", OTHER_COLUMNS)
def test_other_columns_do_not_change_rows(report: str, registry: Registry, tmp_path: Path) -> None:
    values, mark = OTHER_COLUMNS[report]
    for split, value in zip(("train", "dev", "test"), values, strict=True):
        rows = [{"text": f"{split} {i}", "label": "ab"[i], "other": value} for i in range(2)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(mark + lines, encoding="utf-8")
    task: Any = registry.all("task")["text_classification"].component
    splits = task.model_validate({"name": "text_classification", "path": tmp_path.as_posix()}).load()
    for split in ("train", "dev", "test"):
        assert splits[split]["text"] == [f"{split} 0", f"{split} 1"]
        assert splits[split]["label"] == ["a", "b"]


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder", "encoder"])
def test_truncation_and_padding_saved_with_a_tokenizer_have_no_effect(
    kind: str, models: dict[str, Path], tmp_path: Path
) -> None:
    """vllm-project/llm-compressor#2917, huggingface/transformers#15440, #25609."""
    folder = tmp_path / "model"
    shutil.copytree(models[kind], folder)
    state = json.loads((folder / "tokenizer.json").read_text())
    state["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 16}, "direction": "Left", "pad_to_multiple_of": None}
    state["padding"] = padding | {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
    (folder / "tokenizer.json").write_text(json.dumps(state))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    sides = {"padding_side": "left", "truncation_side": "left", "model_max_length": 5}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | sides))
    example = Example("a train that runs on coal and water " * 3, "a steam locomotive")
    rows = []
    for path in (models[kind], folder):
        config = AutoConfig.from_pretrained(path)
        family = FAMILIES[kind](AutoTokenizer.from_pretrained(path), config, 16, 8)  # type: ignore[index]
        encode = family.tokenize_sources if kind == "encoder" else partial(family.tokenize_completions, ranked=False)
        rows.append(encode([example]))
    assert rows[0] == rows[1]


def test_a_document_that_begins_with_the_start_token_has_it_once() -> None:
    """EleutherAI/lm-evaluation-harness#3333."""
    tok = tokenizer("byte-level", "bos")
    config = SimpleNamespace(vocab_size=10_000, pad_token_id=0)
    [(start, ids)] = CausalLM(tok, config, 64, 64).tokenize_documents([Example("<s>is it?", "")])
    assert [*start, *ids] == tok("is it?")["input_ids"]
