"""Checks of the data before training: sizes, truncation, and overlap of the splits."""

from __future__ import annotations

from typing import Any

import pytest
from accelerate import Accelerator

from peftkit import Example
from peftkit.data.dataloader import StreamingRows
from peftkit.data.pipeline import prepare_data
from peftkit.errors import InputError, RecipeError
from peftkit.models.load_base_model import load_base
from tests.tiny_runs import Colours, Make


def test_overlap_with_train_is_counted(make: Make) -> None:
    recipe = make("decoder", "task.rows=24")
    data = prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True))
    splits = recipe.task.load()
    train = {row["thing"] for row in splits["train"]}
    for name in ("dev", "test"):
        assert data.train_overlap[name] == sum(row["thing"] in train for row in splits[name]) > 0
    assert data.answer_counts == {"red": 8, "green": 8, "blue": 8}
    assert data.split_sizes == {"train": 24, "dev": 12, "test": 12}
    assert data.truncated["train"] == {"sources": 0, "targets": 0}


def test_truncated_sources_are_counted(make: Make) -> None:
    recipe = make("encoder-decoder", "train.max_source_length=6")
    data = prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True))
    base = load_base(make("encoder-decoder")).family
    lengths = [len(base.tokenizer(f"(colour) {row['thing']}")["input_ids"]) for row in recipe.task.load()["test"]]
    assert data.truncated["test"]["sources"] == sum(length > 6 for length in lengths) > 0


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_truncated_targets_are_an_error_unless_allowed(kind: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(self: Colours, row: Any) -> Example:
        long = "red as the blood that the roses drink" if row["colour"] == "red" else row["colour"]
        return Example(row["thing"], long, (long, "green", "blue"))

    monkeypatch.setattr(Colours, "to_example", encode)
    recipe = make(kind, "train.max_target_length=4", "evaluate.train_examples=0")
    words = r"16 of 48 targets of 'colours' in split 'train' \(33\.3%\) are longer than train\.max_target_length"
    with pytest.raises(InputError, match=words):
        prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True))
    recipe = make(kind, "train.max_target_length=4", "train.truncate_targets=1.0")
    data = prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True))
    assert data.truncated["train"]["targets"] == 16


def test_a_stream_is_checked_by_its_first_rows(make: Make) -> None:
    recipe = make("decoder", "task.streaming=true")
    data = prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True))
    assert isinstance(data.train, StreamingRows)
    assert data.split_sizes["train"] is None
    assert data.steps_per_epoch(8) is None
    assert data.answer_counts == {"red": 16, "green": 16, "blue": 16}
    assert [len(split.rows) for split in data.curve_splits] == [6, 12, 12]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("train.budget.epochs=2", "train.budget.epochs"),
        ("evaluate.every='0.5 epochs'", "evaluate.every"),
        ("train.workers=1", "train.workers"),
    ],
)
def test_recipes_that_need_the_length_of_a_stream_are_rejected(make: Make, override: str, key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make("decoder", "task.streaming=true", override)
    [problem] = caught.value.problems
    assert problem.key == key
    assert "are streamed" in problem.text


def test_every_seed_is_evaluated_on_the_same_rows(make: Make) -> None:
    chosen = []
    for seed in (1, 2):
        recipe = make("decoder", f"run.seed={seed}", "evaluate.dev_examples=4", "evaluate.test_examples=5")
        data = prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True))
        chosen.append({split.name: list(split.indices) for split in data.curve_splits if split.name != "train"})
    assert chosen[0] == chosen[1]
    assert {name: len(indices) for name, indices in chosen[0].items()} == {"dev": 4, "test": 5}


def test_row_digests_depend_on_the_rows_only(make: Make) -> None:
    def digests(*options: str) -> dict[str, str]:
        recipe = make("decoder", *options)
        return dict(prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True)).digests)

    whole = digests()
    assert whole.keys() == {"train", "dev", "test"}
    assert digests("run.seed=5", "train.batch_size=2", "task.streaming=true") == whole
    assert digests("evaluate.dev_examples=4", "evaluate.test_examples=5") == whole
    fewer = digests("task.rows=24", "evaluate.test_examples=5", "evaluate.full_splits=false")
    assert [key for key in whole if fewer[key] == whole[key]] == ["dev"]


@pytest.mark.parametrize(("rows", "warned"), [(1, "dev has 1 row, too few"), (9, "dev has 9 rows, too few"), (12, "")])
def test_a_checkpoint_that_few_rows_select_is_warned_of(
    rows: int, warned: str, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make("decoder", "evaluate.train_examples=0", f"evaluate.dev_examples={rows}")
    prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True))
    assert (warned in caplog.text) if warned else ("too few" not in caplog.text)
