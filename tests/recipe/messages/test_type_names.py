from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import AliasChoices, BaseModel, Field
from pydantic.fields import FieldInfo

from peftkit.plugins import Registry
from peftkit.recipe.messages.type_names import (
    aliases,
    describe_field,
    describe_type,
    field_for,
    format_value,
    known_keys,
    literals,
    model_for,
    takes_dates,
)
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.tables.train_config import BudgetConfig, TrainConfig


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (int, "a whole number"),
        (bool, "true or false"),
        (float | None, "a number"),
        (int | float | str, "a number, or a text in quotes"),
        (list[str] | str, "a text in quotes, or a list of texts in quotes"),
        (tuple[str, ...] | str | None, "a text in quotes, or a list of texts in quotes"),
        (Literal["a"], "'a'"),
        (Literal["a", 2, True], "one of 'a', 2, true"),
        (bool | Literal["x", "y"], "true or false, or one of 'x', 'y'"),
        (tuple[float, int], "a list of 2: a number, a whole number"),
        (list[Literal["a", "b"]], "a list, each one of 'a', 'b'"),
        (list[Annotated[int, Field(gt=0)]], "a list, each a whole number, above 0"),
        (Sequence[float], "a list of numbers"),
        (list, "a list"),
        (dict, "a table"),
        (dict[str, int], "a table of whole numbers"),
        (Mapping[str, list[int]], "a table"),
        (BudgetConfig, "a table"),
        (Path, "a path in quotes"),
        (datetime.date, "a date"),
        (Colour, "one of 'red', 'blue'"),
        (Any, "any value"),
        (bytes, "bytes"),
    ],
)
def test_describe_type(annotation: Any, expected: str) -> None:
    assert describe_type(annotation) == expected


class Options(BaseModel):
    low: int = Field(default=1, ge=1, le=2**40)
    even: float = Field(default=2, multiple_of=0.5, lt=1e-5)
    code: str = Field(default="", pattern="^[a-z]+$", min_length=1, max_length=4)
    pair: list[int] = Field(default=[], min_length=2)
    short: int = Field(default=1, validation_alias=AliasChoices("short", "s"))
    odd: int = Field(default=1, alias="lambda")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("low", "a whole number, at least 1, at most 1099511627776"),
        ("even", "a number, below 1e-05, a multiple of 0.5"),
        ("code", "a text in quotes, not empty, of length 4 or less, matching ^[a-z]+$"),
        ("pair", "a list of whole numbers, of length 2 or more"),
    ],
)
def test_describe_field_has_the_limits(key: str, expected: str) -> None:
    assert sorted(describe_field(Options.model_fields[key]).split(", ")) == sorted(expected.split(", "))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "true"),
        ("it's", '"it\'s"'),
        (1.0, "1.0"),
        (float("nan"), "nan"),
        ([1, "a", [False]], "[1, 'a', [false]]"),
        ({"a": 1}, "a table"),
        ([{}], "[a table]"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        ("x" * 99, "'" + "x" * 58 + "…"),
        (2**63, "a number beyond 64 bits"),
        (-(2**63), "-9223372036854775808"),
    ],
)
def test_format_value(value: object, expected: str) -> None:
    assert format_value(value) == expected


def test_format_value_of_huge_integers() -> None:
    assert format_value(16**9999) == format_value(-(16**9999)) == "a number beyond 64 bits"


def test_aliases_and_known_keys() -> None:
    names = {name: aliases(name, field) for name, field in Options.model_fields.items()}
    assert (names["low"], names["short"], names["odd"]) == (["low"], ["short", "s"], ["odd", "lambda"])
    assert known_keys(Options) == ["low", "even", "code", "pair", "short", "s", "odd", "lambda"]
    assert known_keys(Recipe)[:2] == ["extends", "format"]


def test_field_for_finds_fields_by_path(registry: Registry) -> None:
    lora = registry.find("method", "lora").component
    components = {("method",): lora, ("metric", 1): registry.find("metric", "rouge").component}

    def words(*path: str | int) -> str | None:
        field: FieldInfo | None = field_for(path, components)
        return field and describe_field(field)

    assert words("run", "seed") == "a whole number, at least 0, below 4294967296"
    assert words("train", "budget", "epochs") == "a number, at least 1e-06"
    assert words("train", "optimizer_options", "x", 0) == "a number"
    assert words("method", "alpha") == "a whole number, above 0"
    assert words("method", "target_modules", 3) == "a text in quotes"
    assert words("method", "rank_pattern", "a.b") == "a whole number"
    assert words("metric", 1, "use_stemmer") == "true or false"
    assert words("metric", 0, "use_stemmer") is None
    assert words("none") is words("run", "none") is words("run", "seed", "x") is words("method", "r", 0) is None
    assert model_for((), components) is Recipe
    assert model_for(("train",), components) is TrainConfig
    assert model_for(("method",), components) is lora
    assert model_for(("run", "seed"), components) is model_for(("none",), components) is None


def test_literals_and_takes_dates() -> None:
    assert literals(bool | Literal["x", 1] | list[Literal["y"]]) == ["x", "y"]
    assert takes_dates(datetime.date | None)
    assert takes_dates(dict[str, Any])
    assert not takes_dates(list[str] | int)
