from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from peftkit import MissingFieldsError, RowError, Task
from peftkit.cli import main
from peftkit.errors import DataError
from peftkit.plugins import load_registry
from peftkit.plugins.registry import FIRST_PARTY_OTHERS
from peftkit.recipe import load_recipe
from peftkit.testing import check_registered, check_task
from peftkit_preference import (
    Dpo,
    Kto,
    LogpsAccuracy,
    PreferencePairs,
    RewardAccuracy,
    RewardAuc,
    RewardMargin,
    SimPo,
    UnpairedPreference,
)

from .conftest import write_lines

PAIR = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}


@pytest.mark.parametrize(
    "component",
    [
        *(Dpo, SimPo, Kto, PreferencePairs, UnpairedPreference),
        *(RewardAccuracy, RewardMargin, RewardAuc, LogpsAccuracy),
    ],
)
def test_components_are_registered(component: Any) -> None:
    check_registered(component)


def test_tasks_conform(pairs: PreferencePairs, unpaired: UnpairedPreference) -> None:
    check_task(pairs)
    check_task(unpaired)


def test_the_order_of_completions_depends_on_their_texts_only() -> None:
    task = PreferencePairs(path="x")
    example = task.to_example(PAIR)
    swapped = task.to_example({**PAIR, "chosen": PAIR["rejected"], "rejected": PAIR["chosen"]})
    assert (example.source, example.target) == ("The sky is", "blue.")
    assert sorted(example.candidates) == ["blue.", "green."]
    assert example.candidates == swapped.candidates == task.to_prompt(PAIR).candidates
    first = [task.to_example({**PAIR, "prompt": f"{i}"}).candidates[0] for i in range(200)]
    assert 70 < first.count("blue.") < 130


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (("The sky is blue.", "The sky is green."), ("The sky is", "blue.", "green.")),
        (("Say: bread", "Say: break"), ("Say:", "bread", "break")),  # not "Say: brea", as trl cuts it
        (("a b", "a bc"), ("a", "b", "bc")),
        (("Q: 1+1? A: 2", "Q: 1+1? A: 2 or 3"), ("Q: 1+1? A:", "2", "2 or 3")),
    ],
)
def test_an_implicit_prompt_ends_with_a_whole_word(row: tuple[str, str], expected: tuple[str, str, str]) -> None:
    task = PreferencePairs(path="x", implicit_prompt=True)
    example = task.to_example({"chosen": row[0], "rejected": row[1]})
    chosen, rejected = example.target, next(text for text in example.candidates if text != example.target)
    assert (example.source, chosen, rejected) == expected


@pytest.mark.parametrize(
    ("options", "row", "message"),
    [
        ({}, {**PAIR, "rejected": "blue."}, r"chosen: is the same as 'rejected': ' blue\.'"),
        ({}, {**PAIR, "chosen": " "}, "chosen: is empty"),
        ({}, {**PAIR, "rejected": None}, "rejected: is empty"),
        ({}, {**PAIR, "prompt": ""}, "prompt: is empty"),
        ({}, {**PAIR, "chosen": [{"role": "user", "content": "x"}]}, "rejected: must be a list of messages"),
        ({}, {"prompt": "x", "chosen": "a", "rejectd": "b"}, "rejected: there is no such field.*'rejectd'"),
        ({"implicit_prompt": True}, {"chosen": "a b", "rejected": "c d"}, "chosen: does not start with the same words"),
    ],
)
def test_invalid_pairs_are_errors_of_the_row(options: dict[str, Any], row: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=message):
        PreferencePairs(path="x", **options).to_example(row)


@pytest.mark.parametrize(
    ("label", "target"),
    [(True, "desirable"), (0, "undesirable"), (1.0, "desirable"), ("False", "undesirable"), ("desirable", "desirable")],
)
def test_labels_may_be_bools_numbers_or_words(label: Any, target: str) -> None:
    row = {"prompt": "The sky is", "completion": " blue.", "label": label}
    example = UnpairedPreference(path="x").to_example(row)
    assert (example.source_pair, example.target) == (("The sky is", "blue."), target)


@pytest.mark.parametrize("label", [2, "good", 0.5])
def test_other_labels_are_errors_of_the_row(label: Any) -> None:
    with pytest.raises(RowError, match="label: must be true or false"):
        UnpairedPreference(path="x").to_example({"prompt": "a", "completion": "b", "label": label})


def test_a_row_to_predict_needs_both_completions() -> None:
    with pytest.raises(MissingFieldsError) as error:
        PreferencePairs(path="x").to_prompt({"prompt": "a"})
    assert error.value.fields == ("chosen", "rejected")
    with pytest.raises(MissingFieldsError) as error:
        UnpairedPreference(path="x").to_prompt({})
    assert error.value.fields == ("prompt", "completion")


def test_a_missing_column_names_a_similar_one(tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"prompt": "a", "chose": "b", "rejected": "c"}] * 4)
    task = PreferencePairs(path=str(tmp_path / "rows.jsonl"), dev_fraction=0.25, test_fraction=0.25)
    with pytest.raises(DataError, match=r"no column 'chosen' \(did you mean 'chose'\?\)"):
        task.load()


@pytest.mark.parametrize(
    ("task", "row", "options"),
    [
        (PreferencePairs, PAIR, {"prompt_column": "prompt", "chosen_column": "chosen", "rejected_column": "rejected"}),
        (PreferencePairs, {"chosen": "a b", "rejected": "a c"}, {"implicit_prompt": True}),
        (PreferencePairs, {"prompt": "a", "completion": "b"}, None),
        (
            UnpairedPreference,
            {"prompt": "a", "completion": "b", "label": True},
            {"prompt_column": "prompt", "completion_column": "completion", "label_column": "label"},
        ),
        (UnpairedPreference, {"prompt": "a", "completion": "b", "label": "positive"}, None),
    ],
)
def test_columns_are_recognized(
    task: type[Task], row: dict[str, Any], options: dict[str, Any] | None, tmp_path: Path
) -> None:
    write_lines(tmp_path / "rows.jsonl", [row] * 5)
    matches = task.recognize(str(tmp_path / "rows.jsonl"))
    if options is None:
        assert matches == []
    else:
        assert options.items() <= matches[0].options.items()


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_the_recipes_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).parents[1]
    monkeypatch.chdir(folder.parents[1])
    recipe = load_recipe(folder / "recipes" / f"{name}.toml", load_registry())
    assert recipe.objective is not None
    assert recipe.objective.name == name
    splits = recipe.task.load()
    examples = [recipe.task.to_example(row) for rows in splits.values() for row in rows]
    assert len(examples) == len({example.source for example in examples}) == 72


@pytest.mark.parametrize(("file", "objective"), [("answers", 'name = "dpo"'), ("rated_answers", "")])
def test_init_writes_a_valid_recipe(
    file: str, objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(__file__).parents[1] / "recipes" / "data" / f"{file}.jsonl"
    shutil.copy(data, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["init", data.name, "--model", "pocket-decoder", "--yes"]) == 0, capsys.readouterr().err
    assert objective in (tmp_path / f"{file}.toml").read_text(encoding="utf-8")


def test_the_core_knows_the_components_of_this_plugin() -> None:
    registered = {(entry.kind, entry.name) for entry in load_registry().entries if "preference" in entry.distribution}
    known = {
        (kind, name)
        for kind, names in FIRST_PARTY_OTHERS.items()
        for name, distribution in names.items()
        if distribution == "peftkit-preference"
    }
    assert registered == known
