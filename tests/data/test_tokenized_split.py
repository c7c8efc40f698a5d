"""Tokenization of rows, their statistics, and errors that name the row."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pytest
from accelerate import Accelerator
from datasets import Dataset
from tokenizers import normalizers
from transformers import AutoTokenizer

import peftkit
from peftkit import Example
from peftkit.answer_texts.text_normalization import text_hash
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import Row
from peftkit.data.dataloader import StreamingRows
from peftkit.data.pipeline import PreparedData, prepare_data
from peftkit.data.token_cache import STATISTICS_COLUMNS
from peftkit.data.tokenized_split import SplitStatistics, tokenize_examples, tokenize_rows, tokenize_split
from peftkit.errors import InputError, PluginError
from peftkit.models import BoundObjective
from peftkit.models.load_base_model import load_objective
from peftkit.objectives import LabelRanking
from peftkit.recipe.model_names import model_path
from peftkit.tasks.multiple_choice import MultipleChoice
from tests.data.test_examples import Wrong
from tests.tiny_runs import Colours, bind_objective


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("value", ["text", 7, 0.5, True, ["a"], {"b": 1}, None], ids=repr)
def test_user_columns_may_have_any_name(
    value: Any, streamed: bool, objective: BoundObjective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path))
    rows = Colours().load()["train"]
    plain = tokenize_split(objective, "train", rows)
    names = {*plain.rows[0], *STATISTICS_COLUMNS}
    assert names >= {"source", "candidates", "answer", "length", "source_tokens", "target_tokens"}
    names |= {"key", "gold", "index", "label", "labels", "input_ids", "__index__", "group", "scores"}
    wide = Dataset.from_list([{**row, **dict.fromkeys(names, value)} for row in rows])
    if not streamed:
        tokenized = tokenize_split(objective, "train", wide)
        assert list(tokenized.rows) == list(plain.rows)
        assert tokenized.statistics == plain.statistics
        return
    narrow, other = (
        list(StreamingRows(data.to_iterable_dataset(), objective, batch=8, seed=1)) for data in (rows, wide)
    )
    assert narrow == other != []


def test_json_rows_are_tokenized_like_parquet_rows(
    objective: BoundObjective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path))
    rows = [{"question": f"q{i}", "choices": ["x", "y"], "answer": "BA"[i % 2]} for i in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({**row, "extra": i}) + "\n" for i, row in enumerate(rows)))
    Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    choosing = bind_objective("encoder-decoder", objective.family.tokenizer, objective.family.config)
    tokenized: list[list[Row]] = []
    for name in ("a.jsonl", "a.parquet"):
        task = MultipleChoice(path=str(tmp_path / name), dev_fraction=0.2, test_fraction=0.2, max_rows=10)
        tokenized.append(list(tokenize_split(choosing.with_task(task), "train", task.load()["train"]).rows))
        streamed = task.model_copy(update={"path": dict.fromkeys(("train", "dev", "test"), str(tmp_path / name))})
        streamed = streamed.model_copy(update={"streaming": True, "dev_fraction": None, "test_fraction": None})
        stream: Any = streamed.load()["train"]
        tokenized.append(list(StreamingRows(stream, choosing.with_task(streamed), batch=2, seed=1)))
    assert tokenized[0] == tokenized[2] != []
    assert tokenized[1] == tokenized[3] != []


def test_training_rows_on_disk_equal_those_in_memory(
    objective: BoundObjective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path))
    rows = Colours().load()["train"]
    on_disk = tokenize_split(objective, "train", rows)
    in_memory = tokenize_rows(objective, "train", rows, range(len(rows)), training=True)
    assert list(on_disk.rows) == list(in_memory.rows)
    assert on_disk.statistics == in_memory.statistics
    assert list(on_disk.indices) == list(in_memory.indices) == list(range(48))
    ranked = tokenize_rows(objective, "dev", rows, range(len(rows)), training=False)
    assert {len(row["candidates"]) for row in in_memory.rows} == {1}
    assert {len(row["candidates"]) for row in ranked.rows} == {3}


def test_a_row_that_does_not_fit_is_reported_with_its_location(objective: BoundObjective) -> None:
    short = Example("short", "red", ("red",), truncatable_span=(0, 5))
    long = Example(
        "a question with more words than there is room for in the source " * 2, "red", ("red",), truncatable_span=(0, 1)
    )
    family = objective.family
    tight = bind_objective(
        "encoder-decoder", family.tokenizer, family.config, "classification", max_source_length=16
    ).with_task(Wrong())
    with pytest.raises(InputError, match=r"^test\.csv, row 6: source: .* must not be truncated .* raise train\."):
        tokenize_examples(tight, "test", [short, long], [2, 5], training=False)
    with pytest.raises(InputError, match=r"^example 1: source: .* must not be truncated"):
        tokenize_examples(tight, "test", [short, long], [2, 5], training=False, locate=lambda i: f"example {i}")


def test_statistics_describe_the_examples(objective: BoundObjective) -> None:
    examples = [Example("a bird", "red", ("red", "blue")), Example("A  bird", "blue", ("red", "blue"))]
    examples.append(Example("a train that runs on coal and water", "red", ("red", "blue")))
    split = tokenize_examples(objective, "dev", examples, [4, 2, 9], training=False)
    statistics = split.statistics
    assert len(statistics) == 3
    assert statistics.source_hashes == [text_hash(example.source) for example in examples]
    assert statistics.source_hashes[0] == statistics.source_hashes[1] != statistics.source_hashes[2]
    assert statistics.answer_counts == {"red": 2, "blue": 1}
    assert statistics.source_tokens == [len(objective.family.tokenizer(e.source)["input_ids"]) for e in examples]
    longest = max(statistics.source_tokens)
    family = replace(objective.family, max_source_length=longest - 1, max_target_length=1)
    assert statistics.count_truncated(family) == {"sources": 1, "targets": 3}
    assert statistics.count_truncated(replace(family, max_source_length=longest)) == {"sources": 0, "targets": 3}
    last = split.select([9, 2])
    assert (list(last.indices), last.examples, last.rows) == ([9, 2], examples[:0:-1], [*split.rows][:0:-1])
    assert last.statistics.answers == ["red", "blue"]
    assert last.statistics.source_tokens == statistics.source_tokens[:0:-1]
    assert last.statistics.count_sources_in(statistics) == 2
    assert statistics.count_sources_in(split.select([4]).statistics) == 2
    assert split.select([9]).statistics.count_sources_in(split.select([4]).statistics) == 0


def test_digests_depend_on_the_order_and_the_borders_of_texts() -> None:
    def digest(hashes: list[int], answers: list[str]) -> str:
        return SplitStatistics(hashes, answers, [1] * len(hashes), [1] * len(hashes)).digest

    plain = digest([1, 2], ["a", "b"])
    assert plain == SplitStatistics([1, 2], ["a", "b"], [5, 6], [7, 8]).digest, "lengths depend on the tokenizer"
    assert len({plain, digest([2, 1], ["a", "b"]), digest([1, 2], ["b", "a"]), digest([1, 2], ["ab", ""])}) == 4


class Faulty(LabelRanking):
    """An objective that loses rows, or a key of its rows."""

    name: Literal["faulty"] = "faulty"  # type: ignore[assignment]
    lost_key: str = ""

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        rows = super().tokenize(examples, context, training=training)
        if not self.lost_key:
            return rows[1:]
        return [{key: value for key, value in row.items() if key != self.lost_key} for row in rows]


@pytest.mark.parametrize(
    ("lost_key", "words"),
    [
        ("", "the objective 'faulty' tokenized 2 examples to 1 rows"),
        ("length", "the rows of the objective 'faulty' have no length"),
        ("target_tokens", "the rows of the objective 'faulty' have no target_tokens"),
    ],
)
def test_rows_of_a_faulty_objective_are_an_error(lost_key: str, words: str, objective: BoundObjective) -> None:
    faulty = replace(objective, component=Faulty(lost_key=lost_key))
    with pytest.raises(PluginError, match=words):
        tokenize_examples(faulty, "dev", [Example("x", "red", ("red", "blue"))] * 2, [0, 1], training=False)


GOOD = [{"source": f"a bird {i}", "target": f"it sings {i}"} for i in range(6)]
QUESTIONS = [{"question": f"what {i}?", "choices": ["a bird", "a stone"], "answer": "A"} for i in range(6)]
SENTENCES = [{"tokens": ["a", "bird", str(i)], "ner_tags": ["B-A", "I-A", "B-A"]} for i in range(6)]
UNTOKENIZABLE: dict[str, tuple[str, str, list[dict[str, Any]], dict[str, Any], str]] = {
    "target": (
        "text_generation",
        "pocket-t5",
        GOOD,
        {"source": "x", "target": "\u0301"},
        "target: '\u0301' has no token in the model's vocabulary",
    ),
    "candidates": (
        "multiple_choice",
        "pocket-decoder",
        QUESTIONS,
        {"question": "what?", "choices": ["\u6f22", "\u5b57"], "answer": "A"},
        "candidates: '\u6f22' and '\u5b57' have the same token ids",
    ),
    "word": (
        "token_tagging",
        "pocket-encoder",
        SENTENCES,
        {"tokens": ["a", "\u200b"], "ner_tags": ["B-A", "I-A"]},
        r"source: the word '\u200b' has no token in the model's vocabulary, and there is no tag O",
    ),
}


def drop_zero_width_spaces(model: str, folder: Path) -> str:
    """Copies a model with a tokenizer that drops them, as that of BERT does."""
    shutil.copytree(model_path(model), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    backend = tokenizer.backend_tokenizer
    parts = [normalizers.Replace("\u200b", ""), *([backend.normalizer] if backend.normalizer else [])]
    backend.normalizer = normalizers.Sequence(parts)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("case", UNTOKENIZABLE)
def test_rows_that_the_tokenizer_cannot_represent_are_skipped(case: str, streaming: bool, tmp_path: Path) -> None:
    name, model, good, bad, reason = UNTOKENIZABLE[case]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*good[:2], bad, *good[2:]]), encoding="utf-8")
    options: dict[str, Any] = {"path": {split: str(file) for split in ("train", "dev", "test")}, "streaming": streaming}
    if name == "token_tagging":
        options["tag_names"] = ("B-A", "I-A")
        model = drop_zero_width_spaces(model, tmp_path / "model")
    settings: Any = {"budget": {"steps": 1}, "train": {"batch_size": 2}, "track": {"to": []}}

    def prepare(method: str, **further: Any) -> PreparedData:
        task = peftkit.task(name, **options, **further)
        recipe = peftkit.Recipe.build(model=model, task=task, method=method, **settings)
        return prepare_data(recipe, load_objective(recipe)[1], Accelerator(cpu=True))

    with pytest.raises(InputError, match=re.escape(f"{file}, row 3: {reason}")):
        prepare("lora")
    outcomes = []
    for method in ("lora", "bitfit" if name == "token_tagging" else "prefix_tuning"):
        data = prepare(method, on_bad_row="skip", max_bad=1)
        rows = list(islice(data.train, 6))
        assert len(rows) == 6
        assert [len(split.rows) for split in data.final_splits] == [6, 6]
        skipped = {(row.split, row.row) for row in data.skipped_rows}
        assert skipped == {(split, 3) for split in ("train", "dev", "test")}
        assert all(row.reason.startswith(reason) for row in data.skipped_rows)
        assert data.objective.task.describe_row("dev", 2) == f"{file}, row 4"
        outcomes.append((data.digests, data.num_skipped))
    assert outcomes[0] == outcomes[1]
    with pytest.raises(InputError, match=r"max_bad: 1 of 7 rows are invalid"):
        list(prepare("lora", on_bad_row="skip", max_bad=0).train)


def test_rows_that_are_too_long_stop_a_run_that_skips_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    long = {"question": "what?", "choices": ["a " * 400, "a stone"], "answer": "A"}
    file.write_text("".join(json.dumps(row) + "\n" for row in [*QUESTIONS, long]), encoding="utf-8")
    paths = {split: str(file) for split in ("train", "dev", "test")}
    task = peftkit.task("multiple_choice", path=paths, on_bad_row="skip", max_bad=1)
    train = {"batch_size": 2, "max_source_length": 32}
    recipe = peftkit.Recipe.build(
        model="pocket-encoder", task=task, method="lora", budget={"steps": 1}, train=train, track={"to": []}
    )
    with pytest.raises(InputError, match=r"row 7: source: the part of it that must not be truncated exceeds"):
        prepare_data(recipe, load_objective(recipe)[1], Accelerator(cpu=True))
