from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from peftkit import Method
from peftkit.plugins import FIRST_PARTY, Entry, Registry
from peftkit.recipe.json_schema import recipe_schema
from peftkit.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(file for file in ROOT.rglob("*.toml") if file.parent.name != "sweeps")


class BitFit(Method):
    """Train the biases only."""

    name: Literal["bitfit"] = "bitfit"
    share: float = 1.0
    """The share of them."""


@pytest.fixture(scope="module")
def schema(registry: Registry) -> dict[str, Any]:
    extended = replace(
        registry, entries=(*registry.entries, Entry("method", "bitfit", BitFit, "peftkit-bitfit", "1.0"))
    )
    # As printed.
    document: dict[str, Any] = json.loads(json.dumps(recipe_schema(extended)))
    return document


def fits(value: Any, rule: dict[str, Any], root: dict[str, Any]) -> bool:
    """A validator for the JSON Schema keywords that pydantic uses here."""
    if "$ref" in rule and not fits(value, root["$defs"][rule["$ref"].rsplit("/", 1)[1]], root):
        return False
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    kind = rule.get("type")
    if kind == "null" or (
        kind and (not isinstance(value, types[kind]) or (isinstance(value, bool) and kind != "boolean"))
    ):
        return False
    if isinstance(value, dict):
        properties = rule.get("properties", {})
        if rule.get("additionalProperties") is False and value.keys() - properties.keys():
            return False
        if set(rule.get("required", ())) - value.keys():
            return False
        if not all(fits(inner, properties[key], root) for key, inner in value.items() if key in properties):
            return False
    if isinstance(value, list) and not all(fits(inner, rule.get("items", {}), root) for inner in value):
        return False
    if "const" in rule and value != rule["const"]:
        return False
    if "enum" in rule and value not in rule["enum"]:
        return False
    if "not" in rule and fits(value, rule["not"], root):
        return False
    if "if" in rule and not fits(value, rule.get("then" if fits(value, rule["if"], root) else "else", {}), root):
        return False
    if not all(fits(value, each, root) for each in rule.get("allOf", ())):
        return False
    return "anyOf" not in rule or any(fits(value, arm, root) for arm in rule["anyOf"])


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from [inner] if key == "$ref" else refs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from refs(inner)


def test_the_schema_has_a_title_and_resolvable_references(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "peftkit recipe"
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert schema["properties"].keys() == {"extends", *Recipe.model_fields}
    references = set(refs(schema))
    assert references
    assert references <= {f"#/$defs/{name}" for name in schema["$defs"]}


def test_the_schema_has_the_options_of_every_component(schema: dict[str, Any], registry: Registry) -> None:
    for kind in ("method", "task", "objective", "metric"):
        place = schema["properties"][kind]
        union = place["items"] if kind == "metric" else place
        names = {schema["$defs"][ref.rsplit("/", 1)[1]]["properties"]["name"]["const"] for ref in refs(union)}
        assert names == {*registry.all(kind), *(["bitfit"] if kind == "method" else [])}
    option = schema["$defs"]["BitFit"]["properties"]["share"]
    assert (option["type"], option["default"], option["description"]) == ("number", 1.0, "The share of them.")
    lora = schema["$defs"]["Lora"]["properties"]
    assert lora["alpha"] == lora["lora_alpha"]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_schema_accepts_all_recipes(file: Path, schema: dict[str, Any]) -> None:
    data = tomllib.loads(file.read_text(encoding="utf-8"))
    if data.get("method", {}).get("name") in FIRST_PARTY:  # the plugin may not be installed
        data["method"] = {"name": "bitfit"}
    assert fits(data, schema, schema) == (
        file.parent.name != "bases" or "extends" in data
    )  # a base lacks what others add
    assert fits({"extends": "base.toml", **data}, schema, schema)


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("", True),
        ("r = 8\nalpha = 3", True),
        ("rank = 8", False),
        ("r = '8'", False),
        ("share = 0.5", False),
        ("[train]\nlr = 1", False),
        ("[train.budget]\nepoch = 1", False),
        ("[[metric]]\nname = 'bleu'", True),
        ("[[metric]]\nname = 'blue'", False),
        ("[[metric]]", False),
        ("[foo]", False),
    ],
)
def test_the_schema_accepts_valid_recipes_only(
    added: str, expected: bool, valid_recipe: str, schema: dict[str, Any]
) -> None:
    assert fits(tomllib.loads(valid_recipe + added), schema, schema) == expected


def test_a_wrong_option_breaks_the_rule_of_its_component_alone(schema: dict[str, Any]) -> None:
    rule = schema["properties"]["method"]
    assert "anyOf" not in rule, "an editor would show that no arm fits"
    broken = [each for each in rule["allOf"] if not fits({"name": "lora", "rank": 8}, each, schema)]
    assert [each["if"]["properties"]["name"]["const"] for each in broken] == ["lora"]
    assert not fits({"name": "Lorra"}, rule["properties"]["name"], schema)
    assert rule["properties"]["name"]["description"]


def test_required_keys_may_come_from_a_base(schema: dict[str, Any]) -> None:
    assert not fits({}, schema, schema)
    assert fits({"extends": "base.toml"}, schema, schema)
    assert fits({"extends": "base.toml", "method": {"r": 8}, "model": {"dtype": "float32"}}, schema, schema)
    assert not fits({"model": {"name": "x"}, "task": {"name": "wordnet_mcq"}, "method": {"r": 8}}, schema, schema)


def test_the_schema_of_an_empty_registry() -> None:
    document = recipe_schema(Registry(()))
    assert document["properties"]["task"]["type"] == "object"
