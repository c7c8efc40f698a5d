"""The preview of a task shows rows as the runner tokenizes them."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from peftkit.analysis.task_preview import preview_task
from peftkit.errors import InputError
from peftkit.models import load_base_model
from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe
from tests.tiny_runs import Make


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder", "encoder"])
def test_rows_are_shown_as_tokenized_without_loading_weights(kind: str, make: Make) -> None:
    recipe = make(kind)
    with mock.patch.object(load_base_model, "load_base", side_effect=AssertionError("weights")):
        preview = preview_task(recipe, "dev", 4)
    assert (preview["task"], preview["kind"], preview["model_kind"]) == ("colours", "classification", kind)
    rows = recipe.task.load()["dev"]
    assert [e["target"] for e in preview["examples"]] == [rows[i]["colour"] for i in (0, 3, 6, 9)]
    assert [e["row"] for e in preview["examples"]] == [
        f"the task 'colours', split 'dev', row {i}" for i in (1, 4, 7, 10)
    ]
    for example, i in zip(preview["examples"], (0, 3, 6, 9), strict=True):
        assert f"(colour) {rows[i]['thing']}" in example["source"]
        assert example["source_tokens"] == example["source_tokens_kept"]
        assert [c["text"] for c in example["candidates"] if c["right"]] == [example["target"]]
        assert len(example["candidates"]) == 3
    assert preview["splits"]["train"]["rows"] == preview["splits"]["train"]["judged"] == 48
    assert preview["splits"]["train"]["answers"] == pytest.approx({"red": 1 / 3, "green": 1 / 3, "blue": 1 / 3})
    lengths = preview["splits"]["test"]["lengths"]["source"]
    assert lengths["longest"] >= lengths["median"]


def test_an_encoders_choices_are_shown_with_the_source(make: Make) -> None:
    preview = preview_task(make("encoder", "task.name=colour_choice"), "test", 1)
    [example] = preview["examples"]
    assert example["source"].count("</s>") == 2
    assert example["target"] in example["source"]
    assert all(c["tokens"] > 3 for c in example["candidates"])


def test_truncated_rows_are_shown_and_counted(make: Make) -> None:
    preview = preview_task(make("encoder-decoder", "train.max_source_length=6"), "train", 48)
    assert all(e["source_tokens_kept"] <= 6 for e in preview["examples"])
    cut = sum(e["source_tokens"] > 6 for e in preview["examples"])
    assert preview["splits"]["train"]["cut"] == {"source": cut, "target": 0}
    assert cut > 0


def test_a_stream_shows_its_first_rows(make: Make) -> None:
    preview = preview_task(make("decoder", "task.streaming=true"), "train", 2)
    assert preview["splits"]["train"]["rows"] is None
    assert [e["target"] for e in preview["examples"]] == ["red", "green"]


def test_free_text_has_no_answers_to_count(make: Make) -> None:
    preview = preview_task(make("decoder", "task.name=colour_text"), "train", 1)
    assert "answers" not in preview["splits"]["train"]
    assert preview["examples"][0]["target_tokens"] > 1


def test_an_unknown_split_is_reported(make: Make) -> None:
    with pytest.raises(InputError, match="has no split 'other'"):
        preview_task(make("decoder"), "other", 1)


def test_duplicates_and_leakage_are_reported(make: Make) -> None:
    preview = preview_task(make("encoder"), "train", 1)
    splits = preview["splits"]
    things = {name: [row["thing"] for row in rows] for name, rows in make("encoder").task.load().items()}
    duplicates = splits["train"]["duplicates"]
    assert duplicates["rows"] == len(things["train"]) - len({*things["train"]})
    assert duplicates["examined"] == 48
    leaks = {leak["of"]: leak["exact"] for leak in splits["test"]["leakage"]}
    assert leaks == {name: sum(thing in {*things[name]} for thing in things["test"]) for name in ("train", "dev")}
    assert sum(each["rows"] for each in splits["train"]["lengths"]["source"]["histogram"]) == 48
    assert "duplicates" not in preview_task(make("encoder"), "train", 1, reports=False)["splits"]["train"]


OWN_DATA = Path(__file__).parents[2] / "recipes" / "own_data"


@pytest.mark.parametrize(
    ("recipe", "key", "names"),
    [
        ("multi_label", "answers", {"staff", "cleanliness"}),
        ("token_tagging", "answers", {"O", "B-PER"}),
        ("regression", "numbers", set()),
        ("span_qa", "answers", {"answerable", "unanswerable"}),
        ("language_modeling", None, set()),
    ],
)
def test_answers_of_every_kind_are_described(
    recipe: str, key: str | None, names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(OWN_DATA.parents[1])
    train = preview_task(load_recipe(OWN_DATA / f"{recipe}.toml", load_registry()), "train", 1)["splits"]["train"]
    assert {"answers", "numbers"} & {*train} == ({key} if key else set())
    if key == "answers":
        assert names <= {*train["answers"]}
        assert sum(train["answers"].values()) == pytest.approx(1)
        assert train["imbalance"]["ratio"] >= 1
    elif key == "numbers":
        [numbers] = train["numbers"].values()
        assert numbers["lowest"] <= numbers["mean"] <= numbers["highest"]
        assert sum(each["rows"] for each in numbers["histogram"]) == train["judged"]
    assert {"duplicates", "empty", "leakage"} <= {*train}
