"""The JSON Schema of sweeps."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from peftkit.plugins import Registry
from peftkit.sweep.sweep_schema import sweep_schema, write_schemas
from tests.recipe.test_json_schema import fits

SWEEPS = sorted((Path(__file__).parents[2] / "recipes/sweeps").glob("*.toml"))


@pytest.fixture(scope="module")
def schema(registry: Registry) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(sweep_schema(registry)))
    return document


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_all_sweeps_fit_but_for_methods_that_are_not_installed(file: Path, schema: dict[str, Any]) -> None:
    data = tomllib.loads(file.read_text(encoding="utf-8"))
    known = schema["properties"]["axes"]["properties"]["method"]["items"]["else"]["enum"]
    names = [each if isinstance(each, str) else each["name"] for each in data["axes"].get("method", [])]
    data["axes"]["method"] = [
        each for name, each in zip(names, data["axes"].get("method", []), strict=True) if name in known
    ]
    assert fits(data, schema, schema)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ('method = ["full", "all", { name = "lora", r = 4 }]', True),
        ('method = ["fulll"]', False),
        ('method = [{ name = "lora", rank = 4 }]', False),
        ('seed = ["one"]', False),
        ('"train.batch_size" = [8, 16]', True),
        ("[set]\ntrain.batch_size = 16", True),
        ("[set]\ntrain.batch_sise = 16", False),
        ("[tune]\ntrials = 5\n[tune.set]\nevaluate.every = '100%'", True),
        ("[tune]\ntrials = 5\n[tune.set]\nevaluate.evry = '100%'", False),
        ("[tune]\ntrails = 5", False),
        ("[local]\njobs = 0.5", False),
    ],
)
def test_wrong_keys_and_values_do_not_fit(text: str, expected: bool, schema: dict[str, Any]) -> None:
    data = tomllib.loads(
        f'name = "x"\nrecipe = "x.toml"\n[axes]\nseed = [1]\n{text}'
        if "seed" not in text
        else f'name = "x"\nrecipe = "x.toml"\n[axes]\n{text}'
    )
    assert fits(data, schema, schema) == expected


def test_both_schemas_are_written(tmp_path: Path, registry: Registry) -> None:
    titles = [json.loads(path.read_text(encoding="utf-8"))["title"] for path in write_schemas(tmp_path, registry)]
    assert titles == ["peftkit recipe", "peftkit sweep"]


def test_a_schema_without_methods() -> None:
    assert fits({"name": "x", "recipe": "y", "axes": {"seed": [1]}}, *[sweep_schema(Registry(()))] * 2)
