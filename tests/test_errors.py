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
    summarize_error,
)


def test_the_exit_code_says_whose_fault_it_is() -> None:
    codes = {kind: kind.exit_code for kind in (PeftkitError, RunError, InputError, PluginError, RecipeError)}
    assert codes == {PeftkitError: 1, RunError: 1, InputError: 2, PluginError: 2, RecipeError: 2}


def test_a_recipe_error_holds_all_problems_one_a_line() -> None:
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
def test_what_was_probably_meant(word: str, known: list[str], expected: str | None) -> None:
    assert did_you_mean(word, iter(known)) == (f" (did you mean {expected!r}?)" if expected else "")


def test_lists_and_exceptions_in_one_line() -> None:
    assert (comma_separated(["a", "b"]), comma_separated([])) == ("a, b", "nothing")
    assert summarize_error(ValueError("a\n  b")) == "ValueError: a b"
    assert summarize_error(SystemExit()) == "SystemExit"
