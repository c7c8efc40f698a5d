"""Presets: their classes, as recipes and the registry use them."""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from typing import Any, ClassVar, Literal

import pytest
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from peftkit import Method, Preset, PublishedRate, hookimpl
from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.components.preset import format_toml, preset_class
from peftkit.components.search_space import SCALES
from peftkit.errors import PluginError
from peftkit.plugins import Registry, list_plugins, load_registry


class Table(BaseModel):
    """An option that is a table."""

    rho: float = 1.0
    steps: int = 3


class Base(Method):
    """The method that presets stand for."""

    name: Literal["base"] = "base"
    r: int = Field(default=8, gt=0, validation_alias=AliasChoices("r", "rank"))
    """The rank."""
    flag: bool = False
    """A flag."""
    names: tuple[str, ...] | None = None
    """Names."""
    table: Table | None = None
    """A table."""
    published_rates = (PublishedRate((1e-3,), "Doe et al. (2026): table 1"),)
    tiny_options: ClassVar[Mapping[str, Any]] = {"r": 2}

    def apply(self, model: Any, context: Any) -> Any:
        return model


def preset(**changes: Any) -> Preset:
    given = {"name": "p", "method": "base", "summary": "A preset", "paper": "P, Doe et al., 2026", "fixed": {"r": 4}}
    return Preset(**{**given, **changes})


def load(text: str = "{}", **changes: Any) -> Any:
    return preset_class(preset(**changes), Base).model_validate_json(text, strict=True)


def test_a_preset_is_a_method_with_its_own_name_and_defaults() -> None:
    built = preset_class(preset(defaults={"names": ["q"], "table": {"rho": 2}}), Base)
    method: Any = built()
    assert isinstance(method, Base)
    assert method.model_dump(mode="json") == {
        "name": "p",
        "r": 4,
        "flag": False,
        "names": ["q"],
        "table": {"rho": 2.0, "steps": 3},
    }
    assert built.model_validate_json(method.model_dump_json(), strict=True) == method
    assert Base().model_dump() == {"name": "base", "r": 8, "flag": False, "names": None, "table": None}
    assert option_descriptions(built)["names"] == "Names."
    assert built.tiny_options == {"r": 2}


def test_its_docstring_has_its_line_the_paper_and_what_it_stands_for() -> None:
    built = preset_class(preset(defaults={"table": {"rho": 2.5}}, recipe={"model.quantization": "4bit"}), Base)
    first, second = (built.__doc__ or "").split("\n\n")
    assert first == "A preset (P, Doe et al., 2026)."
    assert 'base with r = 4, table = {rho = 2.5}, model.quantization = "4bit"' in second


def test_defaults_can_be_overridden_and_fixed_options_cannot() -> None:
    assert load('{"names": ["k"], "flag": true}', defaults={"names": ["q"]}).names == ("k",)
    assert load('{"r": 4}').r == load('{"rank": 4}').r == 4
    for text in ('{"r": 5}', '{"rank": 5}'):
        with pytest.raises(ValidationError, match="'p' is base with r = 4; leave r out, or use base"):
            load(text)
    with pytest.raises(ValidationError, match="valid integer"):
        load('{"r": "4"}')
    with pytest.raises(ValidationError, match="Input should be 'p'"):
        load('{"name": "base"}')


def test_a_value_that_would_undo_the_preset_is_rejected() -> None:
    changes: dict[str, Any] = {"fixed": {}, "defaults": {"r": 16}, "forbidden": {"r": 1}}
    assert [load(text, **changes).r for text in ("{}", '{"r": 2}')] == [16, 2]
    with pytest.raises(ValidationError, match="'p' with r = 1 is plain base; set another value, or use base"):
        load('{"r": 1}', **changes)


def test_the_schema_gives_fixed_options_their_value() -> None:
    properties = preset_class(preset(), Base).model_json_schema()["properties"]
    assert properties["name"]["const"] == "p"
    assert (properties["r"]["const"], properties["r"]["default"]) == (4, 4)


def test_rates_and_search_space_are_its_own() -> None:
    assert preset_class(preset(), Base).published_rates == ()
    assert preset_class(preset(), Base).search_space == Base.search_space
    rates = (PublishedRate((1e-2,), "Doe et al. (2026): table 2"),)
    built = preset_class(preset(published_rates=rates, search_space=SCALES), Base)
    assert (built.published_rates, built.search_space) == (rates, SCALES)


def test_a_preset_without_options_is_another_name_for_its_method() -> None:
    built = preset_class(preset(fixed={}), Base)
    assert str(built.preset) == "base"
    assert inspect.getdoc(built) == (
        "A preset (P, Doe et al., 2026).\n\nAnother name: base. All options of base apply."
    )
    assert built().model_dump(exclude={"name"}) == Base().model_dump(exclude={"name"})
    assert built.published_rates == Base.published_rates != ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fixed": {"rr": 4}}, r"base has no option 'rr' \(did you mean 'r'\?\)"),
        ({"fixed": {"name": "q"}}, "base has no option 'name'"),
        ({"fixed": {"r": "4"}}, 'r = "4" is not valid: Input should be a valid integer'),
        ({"fixed": {"r": 0}}, "r = 0 is not valid: Input should be greater than 0"),
        ({"defaults": {"r": 5}}, "r must be in either fixed or defaults"),
        ({"forbidden": {"flag": True}}, "flag must be in either fixed or defaults"),
        ({"defaults": {"table": object()}}, "is not valid: Object of type object is not JSON serializable"),
    ],
)
def test_an_invalid_preset_is_an_error(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PluginError, match=words):
        preset_class(preset(**changes), Base)


def test_values_are_written_as_in_toml() -> None:
    assert format_toml({"a": True, "b": ["x"], "c": {"d": 1.5}}) == '{a = true, b = ["x"], c = {d = 1.5}}'


# ---- registration


Install = Callable[..., EntryPoint]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Creates an entry point to a module with these methods and presets."""

    def point(name: str, methods: Any = None, presets: Any = None) -> EntryPoint:
        module = types.ModuleType(f"made_up_{name}")
        if methods is not None:
            vars(module)["register_methods"] = hookimpl(specname="register_methods")(lambda: methods)
        if presets is not None:
            vars(module)["register_presets"] = hookimpl(specname="register_presets")(lambda: presets)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return EntryPoint(name, module.__name__, "peftkit")

    return point


def registry(*points: EntryPoint) -> Registry:
    return load_registry(None, points)


def test_a_preset_of_another_plugins_method_is_registered_in_any_order(install: Install) -> None:
    points = [install("a", presets=[preset()]), install("b", methods=[Base])]
    for order in (points, points[::-1]):
        loaded = registry(*order)
        entry = loaded.find("method", "p")
        assert (entry.kind, entry.preset, entry.summary) == ("method", preset(), "A preset (P, Doe et al., 2026).")
        assert list(loaded.all("method")) == ["base", "p"]
        assert list(loaded.all("method", presets=False)) == ["base"]


def test_a_hook_may_return_one_preset(install: Install) -> None:
    assert list(registry(install("a", [Base], preset())).all("method")) == ["base", "p"]


def test_a_preset_is_listed_with_its_plugin(install: Install) -> None:
    points = [install("a", presets=[preset(), preset(name="h", method="bottleneck")]), install("b", [Base])]
    first, second = list_plugins(points=points)
    assert [entry.name for entry in first.entries] == ["p"]
    assert (first.failures, dict(first.unavailable)) == ((), {"h": "bottleneck"})
    assert [entry.name for entry in second.entries] == ["base"]


def test_a_preset_without_its_method_says_what_is_missing(install: Install) -> None:
    loaded = registry(install("a", presets=[preset(), preset(name="h", method="bottleneck")]))
    assert dict(loaded.unavailable) == {"p": "base", "h": "bottleneck"}
    with pytest.raises(PluginError, match=r"called 'p'; it is a preset of base, which is not installed; to list all, "):
        loaded.find("method", "p")
    with pytest.raises(PluginError, match=r"bottleneck is in the distribution peftkit-adapters; to list all, "):
        loaded.find("method", "h")


def test_a_preset_is_suggested_by_its_other_names(install: Install) -> None:
    loaded = registry(install("a", [Base], [preset(also_called=("quick start",))]))
    for word in ("quick_start", "Quick-Start", "a quick start"):
        with pytest.raises(PluginError, match=r"\(did you mean 'p'\?\)"):
            loaded.find("method", word)


@pytest.mark.parametrize(
    ("presets", "words"),
    [
        (
            "p",
            "^the presets of the plugin unknown:a cannot .* returned 'p'; it must return a preset or a list of presets",
        ),
        ([Base], "returned <class .*Base'>, which is not a peftkit.Preset"),
        (
            [preset(name="A B")],
            "^a preset of the plugin .*: the preset has the name 'A B'; names have lower-case letters",
        ),
        ([preset(summary=" ", paper="")], "cannot be used: it must have a text for summary, paper"),
        ([preset(fixed={"x": 1})], "^the preset 'p' of the plugin unknown:a cannot be used: base has no option 'x'"),
        ([preset(), preset()], "^the preset 'p' of .* is registered twice"),
        ([preset(name="base")], "'base' of .* is registered twice"),
        ([preset(), preset(name="q", method="p")], None),
    ],
)
def test_invalid_presets_name_the_plugin(presets: Any, words: str | None, install: Install) -> None:
    point = install("a", [Base], presets)
    if words is None:  # a preset of a preset
        assert dict(registry(point).unavailable) == {"q": "p"}
        return
    loaded = registry(point)
    assert "p" not in loaded.all("method")
    assert re.search(words, str(loaded.failures[0]))
