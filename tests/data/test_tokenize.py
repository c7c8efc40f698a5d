"""Tokenization of rows, its cache, and errors that name the row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoConfig, AutoTokenizer

from peftkit import Example, RowError
from peftkit.data.dataloader import StreamingRows
from peftkit.data.tokenize import fingerprint, gold_answer, text_hash, to_examples, tokenize_examples, tokenize_split
from peftkit.errors import InputError, RunError
from peftkit.models import Seq2SeqLM
from peftkit.recipe.resolve import model_path
from peftkit.tasks.generic import MultipleChoice
from peftkit.tasks.sources.arrow_columns import make_dataset
from tests.tiny_runs import ColourChoice, Colours


@pytest.fixture
def family() -> Seq2SeqLM:
    path = model_path("pocket-t5")
    return Seq2SeqLM(AutoTokenizer.from_pretrained(path), AutoConfig.from_pretrained(path), "classification", 64, 16)


def test_equal_rows_are_tokenized_once(family: Seq2SeqLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path))
    task = Colours()
    first = tokenize_split(task, task.load()["train"], family)
    with mock.patch.object(Colours, "to_example", side_effect=AssertionError("tokenized again")):
        again = tokenize_split(task, task.load()["train"], family)
    assert first.to_list() == again.to_list()
    assert first[0]["source"] == family.tokenizer("(colour) blood")["input_ids"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("value", ["text", 7, 0.5, True, ["a"], {"b": 1}, None], ids=repr)
def test_user_columns_may_have_any_name(
    value: Any, streamed: bool, family: Seq2SeqLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path))
    task = Colours()
    rows = task.load()["train"]
    plain = tokenize_split(task, rows, family)
    names = {*plain.column_names, "index", "label", "labels", "input_ids", "__index__", "group", "scores"}
    assert {"source", "candidates", "answer", "length", "key", "gold", "source_tokens", "target_tokens"} <= names
    wide = Dataset.from_list([{**row, **dict.fromkeys(names, value)} for row in rows])
    if not streamed:
        assert tokenize_split(task, wide, family).to_list() == plain.to_list()
        return
    narrow, other = (
        list(StreamingRows(data.to_iterable_dataset(), task, family, batch=8, seed=1)) for data in (rows, wide)
    )
    assert narrow == other != []


def test_the_cache_key_depends_on_the_content(family: Seq2SeqLM) -> None:
    task = Colours()
    rows = task.load()["train"]
    key = fingerprint(task, rows, family)
    assert key == fingerprint(Colours(), Colours().load()["train"], family)
    changed = rows.to_list()
    changed[3]["thing"] = "moss"
    assert key != fingerprint(task, Dataset.from_list(changed), family)
    assert key != fingerprint(task, rows.select(range(10)), family)
    assert key != fingerprint(Colours(rows=12), rows, family)
    shorter = Seq2SeqLM(family.tokenizer, family.config, "classification", 32, 16)
    assert key != fingerprint(task, rows, shorter)


def changed_family(family: Seq2SeqLM, **changes: Any) -> Seq2SeqLM:
    tokenizer, config = (
        AutoTokenizer.from_pretrained(model_path("pocket-t5")),
        AutoConfig.from_pretrained(model_path("pocket-t5")),
    )
    for name, value in changes.items():
        setattr(tokenizer if hasattr(tokenizer, name) else config, name, value)
    return Seq2SeqLM(tokenizer, config, "classification", 64, 16)


def test_the_cache_key_depends_on_tokenizer_and_config(family: Seq2SeqLM) -> None:
    task = Colours()
    rows = task.load()["train"]
    key = fingerprint(task, rows, family)
    assert key == fingerprint(task, rows, changed_family(family))
    changes: dict[str, Any] = {
        "eos_token": "<pad>",
        "pad_token": "</s>",
        "chat_template": "{{ messages }}",
        "decoder_start_token_id": 3,
    }
    for name, value in changes.items():
        assert key != fingerprint(task, rows, changed_family(family, **{name: value})), name


def test_the_cache_key_depends_on_label_names(family: Seq2SeqLM) -> None:
    rows = [{"thing": "sky", "label": 0}, {"thing": "grass", "label": 1}]
    keys = set()
    for names in (["no", "yes"], ["yes", "no"]):
        features = Features({"thing": Value("string"), "label": ClassLabel(names=names)})
        keys.add(fingerprint(Colours(), Dataset.from_list(rows, features=features), family))
    keys.add(fingerprint(Colours(), Dataset.from_list(rows), family))
    assert len(keys) == 3


def test_texts_and_json_values_have_different_cache_keys(family: Seq2SeqLM) -> None:
    texts, values = make_dataset([{"thing": "1"}, {"thing": "[2]"}]), make_dataset([{"thing": 1}, {"thing": [2]}])
    assert texts.data.table["thing"].to_pylist() == values.data.table["thing"].to_pylist()
    assert fingerprint(Colours(), texts, family) != fingerprint(Colours(), values, family)


def test_json_rows_are_tokenized_like_parquet_rows(
    family: Seq2SeqLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path))
    rows = [{"question": f"q{i}", "choices": ["x", "y"], "answer": "BA"[i % 2]} for i in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({**row, "extra": i}) + "\n" for i, row in enumerate(rows)))
    Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    tokenized = []
    for name in ("a.jsonl", "a.parquet"):
        task = MultipleChoice(path=str(tmp_path / name), dev_fraction=0.2, test_fraction=0.2, max_rows=10)
        choice_family = Seq2SeqLM(family.tokenizer, family.config, "multiple_choice", 64, 16)
        tokenized.append(tokenize_split(task, task.load()["train"], choice_family).to_list())
        streamed = task.model_copy(update={"path": dict.fromkeys(("train", "dev", "test"), str(tmp_path / name))})
        streamed = streamed.model_copy(update={"streaming": True, "dev_fraction": None, "test_fraction": None})
        tokenized.append(list(StreamingRows(streamed.load()["train"], streamed, choice_family, batch=2, seed=1)))
    assert tokenized[0] == tokenized[2] != []
    assert tokenized[1] == tokenized[3] != []


class Absent(Colours):
    """A task that cannot determine its labels."""

    def to_example(self, row: Any) -> Example:
        raise InputError("there is no column 'colour'")


def test_an_input_error_of_a_task_is_raised_unchanged() -> None:
    with pytest.raises(InputError, match=r"^there is no column 'colour'$"):
        to_examples(Absent(), "dev", [{"thing": "sky", "colour": "blue"}], [0])


class Wrong(Colours):
    """Rejects moss and fails on stones."""

    def to_example(self, row: Any) -> Example:
        if row["thing"] == "moss":
            raise RowError("thing", "is moss")
        if row["thing"] == "stone":
            raise KeyError("stone")
        return super().to_example(row)

    def describe_row(self, split: str, index: int) -> str:
        return f"{split}.csv, row {index + 1}"


@pytest.mark.parametrize("option", ["eos_token", "pad_token", "padding_side", "model_max_length", "unk_token"])
def test_the_cache_key_depends_on_tokenizer_config_json(option: str, family: Seq2SeqLM, tmp_path: Path) -> None:
    rows, keys = Colours().load()["train"], set()
    for name, value in (("one", None), ("same", None), ("other", {"padding_side": "left", "model_max_length": 7})):
        folder = tmp_path / name
        family.tokenizer.save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text())
        if value is not None:
            config[option] = value.get(option, "a")
        path.write_text(json.dumps(config))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        keys.add(fingerprint(Colours(), rows, replace(family, tokenizer=tokenizer)))
    assert len(keys) == 2


def test_an_invalid_row_is_reported_with_its_location_and_field() -> None:
    with pytest.raises(InputError, match=r"^dev\.csv, row 8: thing: is moss$"):
        to_examples(Wrong(), "dev", [{"thing": "sky", "colour": "blue"}, {"thing": "moss", "colour": "green"}], [3, 7])


def test_a_failing_task_is_reported_with_the_row() -> None:
    with pytest.raises(RunError, match=r"^dev\.csv, row 1: the task raised KeyError: 'stone'$"):
        to_examples(Wrong(), "dev", [{"thing": "stone", "colour": "grey"}], [0])


def test_a_target_that_is_not_a_choice_is_an_error() -> None:
    with pytest.raises(InputError, match=r"row 1: target: 'grey' is not one of the choices \['red', 'green', 'blue'\]"):
        to_examples(Colours(), "train", [{"thing": "stone", "colour": "grey"}], [0])


def test_a_row_that_does_not_fit_is_reported_with_its_location(family: Seq2SeqLM) -> None:
    short = Example("short", "red", ("red",), truncatable_span=(0, 5))
    long = Example(
        "a question with more words than there is room for in the source " * 2, "red", ("red",), truncatable_span=(0, 1)
    )
    tight = Seq2SeqLM(family.tokenizer, family.config, "classification", 16, 16)
    with pytest.raises(InputError, match=r"^test\.csv, row 6: source: .* must not be truncated .* raise train\."):
        tokenize_examples(tight, Wrong(), "test", [short, long], [2, 5], ranked=True)


def test_the_gold_answer_of_multiple_choice_is_a_position() -> None:
    example = Example("x", "green", ("red", "green"))
    assert gold_answer(example, Colours()) == "green"
    assert gold_answer(example, ColourChoice()) == "1"


def test_text_hash_ignores_case_and_whitespace() -> None:
    assert text_hash("The  Cat\n") == text_hash("the cat") != text_hash("the cats")
    assert -(2**63) <= text_hash("x") < 2**63
