"""Tokenized rows are cached by everything that they depend on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoConfig, AutoTokenizer

from peftkit.data.token_cache import fingerprint
from peftkit.data.tokenized_split import tokenize_split
from peftkit.models import BoundObjective
from peftkit.objectives import LabelRanking
from peftkit.recipe.model_names import model_path
from peftkit.tasks.sources.arrow_columns import make_dataset
from tests.tiny_runs import ColourChoice, Colours


def test_equal_rows_are_tokenized_once(
    objective: BoundObjective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path))
    rows = Colours().load()["train"]
    first = tokenize_split(objective, "train", rows)
    with mock.patch.object(Colours, "to_example", side_effect=AssertionError("tokenized again")):
        again = tokenize_split(objective, "train", Colours().load()["train"])
    assert list(first.rows) == list(again.rows)
    assert first.statistics == again.statistics
    assert first.rows[0]["source"] == objective.family.tokenizer("(colour) blood")["input_ids"]
    assert first.statistics.answers == rows["colour"][:]


def test_the_cache_key_depends_on_the_content(objective: BoundObjective) -> None:
    rows = Colours().load()["train"]
    key = fingerprint(objective, rows)
    assert key == fingerprint(objective.with_task(Colours()), Colours().load()["train"])
    changed = rows.to_list()
    changed[3]["thing"] = "moss"
    assert key != fingerprint(objective, Dataset.from_list(changed))
    assert key != fingerprint(objective, rows.select(range(10)))
    assert key != fingerprint(objective.with_task(Colours(rows=12)), rows)
    assert key != fingerprint(objective.with_task(ColourChoice()), rows)
    shorter = replace(objective.family, max_source_length=32)
    assert key != fingerprint(replace(objective, family=shorter), rows)


class Lowered(LabelRanking):
    """An objective with an option."""

    name: Literal["lowered"] = "lowered"  # type: ignore[assignment]
    keep: int = 3


def test_the_cache_key_depends_on_the_objective(objective: BoundObjective) -> None:
    rows = Colours().load()["train"]
    components = (LabelRanking(), LabelRanking(), Lowered(), Lowered(keep=3), Lowered(keep=4))
    keys = [fingerprint(replace(objective, component=component), rows) for component in components]
    assert keys[0] == keys[1] == fingerprint(objective, rows)
    assert keys[2] == keys[3]
    assert len({*keys}) == 3


def changed_family(objective: BoundObjective, **changes: Any) -> BoundObjective:
    path = model_path("pocket-t5")
    tokenizer, config = AutoTokenizer.from_pretrained(path), AutoConfig.from_pretrained(path)
    for name, value in changes.items():
        setattr(tokenizer if hasattr(tokenizer, name) else config, name, value)
    return replace(objective, family=replace(objective.family, tokenizer=tokenizer, config=config))


def test_the_cache_key_depends_on_tokenizer_and_config(objective: BoundObjective) -> None:
    rows = Colours().load()["train"]
    key = fingerprint(objective, rows)
    assert key == fingerprint(changed_family(objective), rows)
    changes: dict[str, Any] = {
        "eos_token": "<pad>",
        "pad_token": "</s>",
        "chat_template": "{{ messages }}",
        "decoder_start_token_id": 3,
    }
    for name, value in changes.items():
        assert key != fingerprint(changed_family(objective, **{name: value}), rows), name


def test_the_cache_key_depends_on_label_names(objective: BoundObjective) -> None:
    rows = [{"thing": "sky", "label": 0}, {"thing": "grass", "label": 1}]
    keys = set()
    for names in (["no", "yes"], ["yes", "no"]):
        features = Features({"thing": Value("string"), "label": ClassLabel(names=names)})
        keys.add(fingerprint(objective, Dataset.from_list(rows, features=features)))
    keys.add(fingerprint(objective, Dataset.from_list(rows)))
    assert len(keys) == 3


def test_texts_and_json_values_have_different_cache_keys(objective: BoundObjective) -> None:
    texts, values = make_dataset([{"thing": "1"}, {"thing": "[2]"}]), make_dataset([{"thing": 1}, {"thing": [2]}])
    assert texts.data.table["thing"].to_pylist() == values.data.table["thing"].to_pylist()
    assert fingerprint(objective, texts) != fingerprint(objective, values)


@pytest.mark.parametrize("option", ["eos_token", "pad_token", "padding_side", "model_max_length", "unk_token"])
def test_the_cache_key_depends_on_tokenizer_config_json(option: str, objective: BoundObjective, tmp_path: Path) -> None:
    rows, keys = Colours().load()["train"], set()
    for name, value in (("one", None), ("same", None), ("other", {"padding_side": "left", "model_max_length": 7})):
        folder = tmp_path / name
        objective.family.tokenizer.save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text())
        if value is not None:
            config[option] = value.get(option, "a")
        path.write_text(json.dumps(config))
        family = replace(objective.family, tokenizer=AutoTokenizer.from_pretrained(folder))
        keys.add(fingerprint(replace(objective, family=family), rows))
    assert len(keys) == 2
