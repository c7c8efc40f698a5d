from __future__ import annotations

import pytest

from peftkit.errors import (
    InputError,
    PeftkitError,
    PluginError,
    Problem,
    RecipeError,
    RunError,
    comma_separated,
    did_you_mean,
    similar_file,
    summarize_error,
)


def test_exit_codes_of_errors() -> None:
    codes = {kind: kind.exit_code for kind in (PeftkitError, RunError, InputError, PluginError, RecipeError)}
    assert codes == {PeftkitError: 1, RunError: 1, InputError: 2, PluginError: 2, RecipeError: 2}


def test_a_recipe_error_lists_all_problems() -> None:
    error = RecipeError(iter([Problem("a.toml", 3, "run.seed", "x"), Problem("--set", None, "", "y")]))
    assert str(error) == "a.toml:3: run.seed: x\n--set: y"
    assert len(error.problems) == 2


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("lorra", ["vera", "lora"], "lora"),
        ("LORA", ["vera", "lora"], "lora"),
        ("adamw", ["adamw", "AdamW"], "adamw"),
        ("rank", ["bias", "r"], "r"),
        ("lr", ["optimizer", "learning_rate"], "learning_rate"),
        ("rate", ["optimizer", "learning_rate"], "learning_rate"),
        ("epoch", ["steps", "epochs"], "epochs"),
        ("zzz", ["steps", "epochs"], None),
        ("", ["steps"], None),
        ("x", [], None),
    ],
)
def test_suggestions_of_similar_names(word: str, known: list[str], expected: str | None) -> None:
    assert did_you_mean(word, iter(known)) == (f" (did you mean {expected!r}?)" if expected else "")


def test_comma_separated_and_summarize_error() -> None:
    assert (comma_separated(["a", "b"]), comma_separated([])) == ("a, b", "nothing")
    assert summarize_error(ValueError("a\n  b")) == "ValueError: a b"
    assert summarize_error(SystemExit()) == "SystemExit"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nothere.toml", ""),
        ("recipee.toml", " (did you mean 'recipe.toml'?)"),
        ("rows.csv", " (did you mean 'rows.jsonl'?)"),
    ],
)
def test_files_are_similar_by_their_names_without_extensions(name: str, expected: str) -> None:
    assert similar_file(name, ["w16_more.toml", "recipe.toml", "rows.jsonl"]) == expected
