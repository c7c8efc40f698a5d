"""The registry, loaded from fake entry points."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from peftkit import Meter, Method, Metric, Objective, Task, hookimpl
from peftkit.components import Component
from peftkit.errors import InputError, PluginError
from peftkit.plugins import list_plugins, load_registry
from tests.plugins.conftest import FakeDistribution, Install, component, hook, methods, names, registry


def test_an_entry_has_its_component_and_distribution(install: Install) -> None:
    a = component("a")
    loaded = registry(install("peftkit-a", "x", "2.5", register_methods=methods(a)))
    [entry] = loaded.entries
    assert (entry.kind, entry.name, entry.component) == ("method", "a", a)
    assert (entry.distribution, entry.version, entry.summary) == ("peftkit-a", "2.5", "The a.")
    assert dict(loaded.distributions) == {"peftkit-a": "2.5"}
    assert (loaded.failures, loaded.excluded) == ((), ())
    assert loaded.find("method", "a") is loaded.all("method")["a"] is entry


def test_one_module_may_register_all_kinds(install: Install) -> None:
    bases = {"methods": Method, "tasks": Task, "objectives": Objective, "metrics": Metric, "meters": Meter}
    hooks: Any = {kind: hook(f"register_{kind}", [component("same", base)]) for kind, base in bases.items()}
    loaded = registry(install("d", **hooks))
    assert names(loaded) == ["method same", "task same", "objective same", "metric same", "meter same"]


def test_the_order_of_installation_does_not_matter(install: Install) -> None:
    points = [install(f"d{n}", "x", register_methods=methods(component(f"b{n}"), component(f"a{n}"))) for n in range(3)]
    registries = [registry(*order) for order in itertools.permutations(points)]
    assert names(registries[0]) == [f"method {letter}{n}" for letter in "ab" for n in range(3)]
    assert all(each == registries[0] for each in registries)


def test_the_built_in_components_are_registered() -> None:
    loaded = load_registry("")
    assert set(loaded.distributions) == {"peftkit"}
    assert {"full", "lora", "prefix_tuning", "vera"} <= set(loaded.all("method"))
    assert {"wordnet_topic", "wordnet_mcq", "wordnet_distractors"} <= set(loaded.all("task"))
    assert {"label_ranking", "choice_ranking", "classification_head"} <= set(loaded.all("objective"))
    assert {"accuracy", "rouge", "bleu"} <= set(loaded.all("metric"))
    assert {"clock", "peak_memory"} <= set(loaded.all("meter"))
    assert all(e.summary.endswith(".") or "." in e.summary for e in loaded.entries)


# ---- distributions


def test_a_duplicate_name_is_an_error_that_names_both_distributions(install: Install) -> None:
    points = [install(d, register_methods=methods(component("a"))) for d in ("peftkit-one", "peftkit-two")]
    for order in (points, points[::-1]):
        loaded = registry(*order, install("d", register_methods=methods(component("b"))))
        assert names(loaded) == ["method b"]
        with pytest.raises(PluginError) as caught:
            loaded.find("method", "a")
        assert str(caught.value) == (
            "the method 'a' of the plugin peftkit-one:plugin cannot be used: peftkit-two registers this name too; "
            "uninstall one, or exclude it with PEFTKIT_PLUGINS; the method 'a' of the plugin peftkit-two:plugin cannot "
            "be used: peftkit-one registers this name too; uninstall one, or exclude it with PEFTKIT_PLUGINS"
        )


def test_an_overridable_built_in_is_replaced_by_one_other(install: Install) -> None:
    built_in, other, third = component("a"), component("a"), component("a")
    built_in.overridable = True
    points = [install(d, register_methods=methods(c)) for d, c in (("peftkit", built_in), ("x", other), ("a", third))]
    for order in (points[:2], points[1::-1]):
        assert registry(*order).all("method")["a"].component is other
    assert registry(points[0]).all("method")["a"].component is built_in
    assert [failure.plugin for failure in registry(*points).failures] == ["a:plugin", "x:plugin"]
    built_in.overridable, other.overridable = False, True
    refused = registry(*points[:2])
    assert names(refused) == []
    [failure] = refused.failures
    assert str(failure).startswith("the method 'a' of the plugin x:plugin cannot be used: peftkit registers this name")


def test_a_duplicate_name_in_one_hook_is_an_error(install: Install) -> None:
    loaded = registry(install("d", register_methods=methods(component("a"), component("a"))))
    assert names(loaded) == []
    [failure] = loaded.failures
    assert "'a' of the plugin d:plugin cannot be used: it is registered twice; remove one" in str(failure)


def test_a_plugin_takes_no_built_in_meter_away(install: Install) -> None:
    built_in, other = component("a", Meter), component("a", Meter)
    points = [install(d, m=hook("register_meters", [c])) for d, c in (("peftkit", built_in), ("x", other))]
    loaded = registry(*points)
    assert loaded.all("meter")["a"].component is built_in
    assert [failure.plugin for failure in loaded.failures] == ["x:plugin"]


def test_equal_entry_point_names_of_two_distributions_are_both_loaded(install: Install) -> None:
    points = [install(d, "same", register_methods=methods(component(n))) for d, n in (("d1", "a"), ("d2", "b"))]
    assert names(registry(*points)) == ["method a", "method b"]


def test_the_first_of_two_versions_of_a_distribution_is_used(install: Install) -> None:
    points = [install("d", version=v, register_methods=methods(component(n))) for v, n in (("1", "old"), ("2", "new"))]
    loaded = registry(*points)
    assert (names(loaded), dict(loaded.distributions)) == (["method old"], {"d": "1"})


def test_one_module_with_two_entry_points_is_an_error(install: Install) -> None:
    point = install("d1", register_methods=methods(component("a")))
    other = EntryPoint("again", point.value, "peftkit")
    vars(other)["dist"] = FakeDistribution("d2", "1")
    loaded = registry(point, other)
    assert names(loaded) == ["method a"]
    [failure] = loaded.failures
    assert "d2:again cannot be used: it is the same module as the plugin d1:plugin; exclude one" in str(failure)


@pytest.mark.parametrize("name", [None, "d"])
def test_a_distribution_without_a_name_is_unknown(name: str | None, install: Install) -> None:
    point = install(name, register_methods=methods(component("a")))
    assert registry(point).entries[0].distribution == (name or "unknown")
    assert registry(EntryPoint("x", point.value, "peftkit")).entries[0].distribution == "unknown"


# ---- hooks


def raising(error: BaseException) -> Any:
    @hookimpl
    def register_methods() -> Any:
        raise error

    return register_methods


def returning(value: Any) -> Any:
    return hook("register_methods", value)


@hookimpl
def register_method() -> list[type[Method]]:
    """Misspelt."""
    return []


@hookimpl
def with_arguments(config: Any) -> list[type[Method]]:
    """Has a parameter, which hooks do not pass."""
    return []


def unmarked() -> list[type[Method]]:
    """Not marked as a hook."""
    return []


class Silent(Method):
    """Declares its name as a plain string."""

    name: str = "silent"


class Twofold(Method):
    """Has two names."""

    name: Literal["a", "b"] = "a"


class Nameless(Method):
    """Has a name without a default."""

    name: Literal["nameless"]


class Loud(Method):
    """Has a name that is not a valid recipe key."""

    name: Literal["Loud Name"] = "Loud Name"


class Aimless(Task):
    """Declares neither its kind nor its metrics."""

    name: Literal["aimless"] = "aimless"


class Optional(Aimless):
    """Declares its kind as an option."""

    kind: str = "generation"  # type: ignore[misc, assignment]


class Plain(Aimless):
    """Declares its metrics as one string."""

    kind: ClassVar[Any] = "generation"
    metrics: ClassVar[Any] = "accuracy"


class Odd(Metric):
    """Declares a kind of task that is not a name."""

    name: Literal["odd"] = "odd"
    kinds: ClassVar[Any] = ("generation", "Free Text")


class Homeless(Objective):
    """Declares no family of models."""

    name: Literal["homeless"] = "homeless"
    task_kind = "regression"
    families: ClassVar[Any] = ()


class Suffixed(Homeless):
    """Declares no prediction without a suffix."""

    families: ClassVar[Any] = ("decoder",)
    prediction_suffixes: ClassVar[Any] = ("_norm",)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt": (
        {"register_method": register_method},
        r"^the plugin d:plugin cannot .*unknown hook 'register_method' .*\(did you mean 'register_methods'\?\)",
    ),
    "arguments": ({"register_methods": with_arguments}, "^the plugin d:plugin cannot be used: .*config"),
    "unmarked": (
        {"register_methods": unmarked},
        "d:plugin cannot be used: it implements no hook; .* register_methods, .* under @hookimpl",
    ),
    "nothing": ({}, "d:plugin cannot be used: it implements no hook"),
    "raises": (
        {"register_methods": raising(KeyError("boo"))},
        "^the methods of the plugin d:plugin cannot be used: register_methods failed: KeyError: 'boo'",
    ),
    "exits": ({"register_methods": raising(SystemExit(3))}, "cannot be used: register_methods failed: SystemExit: 3"),
    "none": (
        {"register_methods": returning(None)},
        "d:plugin cannot be used: register_methods returned None; it must return a class or a list of classes",
    ),
    "text": ({"register_methods": returning("ab")}, "register_methods returned 'ab'; it must return a class or a list"),
    "object alone": (
        {"register_methods": returning(component("a")())},
        r"returned A\(name='a'\), .*; return the class itself",
    ),
    "object": (
        {"register_methods": returning([component("a")()])},
        r"returned A\(name='a'\), .*; return the class itself",
    ),
    "no class": ({"register_methods": returning([3])}, "returned 3, which is not a subclass of peftkit.Method$"),
    "wrong base": (
        {"register_methods": returning([component("a", Metric)])},
        "which is not a subclass of peftkit.Method; register it with register_metrics$",
    ),
    "no literal": (
        {"register_methods": returning([Silent])},
        '^a method of the plugin d:plugin cannot be used: Silent must declare its name as: name: Literal\\["x"\\]',
    ),
    "two names": ({"register_methods": returning([Twofold])}, "Twofold must declare its name as"),
    "no default": ({"register_methods": returning([Nameless])}, "Nameless must declare its name as"),
    "base itself": ({"register_methods": returning([Method])}, "Method must declare its name as"),
    "odd name": ({"register_methods": returning([Loud])}, "has the name 'Loud Name'; names have lower-case letters"),
    "task": (
        {"t": hook("register_tasks", [Aimless])},
        r"Aimless must have the class attribute \(not an option\) kind: the kind of task, such as classification",
    ),
    "option": (
        {"t": hook("register_tasks", [Optional])},
        r"Optional must have the class attribute \(not an option\) kind",
    ),
    "metrics": ({"t": hook("register_tasks", [Plain])}, "Plain must have the class attribute .* metrics: a tuple of"),
    "kinds": (
        {"m": hook("register_metrics", [Odd])},
        "Odd must have the class attribute .* kinds: a tuple of kinds of task, such as classification",
    ),
    "no family": (
        {"o": hook("register_objectives", [Homeless])},
        "Homeless must have the class attribute .* families: a tuple of encoder-decoder, decoder, encoder",
    ),
    "family": (
        {"o": hook("register_objectives", [type("Far", (Homeless,), {"families": ("decoder", "diffusion")})])},
        "Far must have the class attribute .* families: ",
    ),
    "suffixes": (
        {"o": hook("register_objectives", [Suffixed])},
        'Suffixed must have the class attribute .* prediction_suffixes: a tuple of texts that starts with ""',
    ),
}


@pytest.mark.parametrize(("contents", "words"), BAD.values(), ids=BAD)
def test_an_invalid_plugin_is_an_error_that_names_it(contents: dict[str, Any], words: str, install: Install) -> None:
    others = [install("other", register_methods=methods(component("good")), register_tasks=None)]
    loaded = registry(install("d", **contents), *others)
    [failure] = loaded.failures
    assert re.search(words, str(failure))
    assert "\n" not in str(failure)
    assert loaded.find("method", "good").distribution == "other"
    with pytest.raises(PluginError, match=re.escape(str(failure))):  # so that recipes get the reason
        loaded.find(*(failure.component or ("method", "missing")))


def test_an_entry_point_to_a_class_is_an_error(install: Install) -> None:
    point = install("d", A=component("a"))
    entry_point = EntryPoint("x", f"{point.value}:A", "peftkit")
    [failure] = registry(entry_point).failures
    assert "x cannot be used: it implements no hook; its entry point must name a module" in str(failure)


def test_a_hook_may_return_one_class_or_any_collection(install: Install) -> None:
    def several() -> Iterator[type[Component]]:
        yield component("a")
        yield component("b")

    loaded = registry(
        install("d1", register_methods=hookimpl(specname="register_methods")(several)),
        install("d2", register_methods=returning((component("c"),))),
        install("d3", register_methods=returning(())),
        install("d4", register_methods=returning(component("d"))),
    )
    assert names(loaded) == ["method a", "method b", "method c", "method d"]


# ---- import failures and excluded plugins


def test_a_missing_attribute_is_an_import_failure(install: Install) -> None:
    loaded = registry(EntryPoint("x", f"{install('d').value}:none", "peftkit"))
    assert loaded.failures[0].error.startswith("AttributeError")


def test_an_interrupt_during_import_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interrupted_for_test.py").write_text("raise KeyboardInterrupt", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        registry(EntryPoint("x", "interrupted_for_test", "peftkit"))


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (None, ["own", "one", "two"]),
        ("", ["own"]),
        ("peftkit-one", ["own", "one"]),
        ("Peftkit_One", ["own", "one"]),
        ("peftkit-two:second", ["own", "two"]),
        ("second, first,", ["own", "one", "two"]),
        ("peftkit", ["own"]),
    ],
)
def test_peftkit_plugins_selects_the_loaded_plugins(
    only: str | None, expected: list[str], install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [
        install("peftkit", "methods", register_methods=methods(component("own"))),
        install("peftkit-one", "first", register_methods=methods(component("one"))),
        install("peftkit-two", "second", register_methods=methods(component("two"))),
    ]
    loaded = registry(*points, only=only)
    assert set(loaded.all("method")) == set(expected)
    if only is not None:
        monkeypatch.setenv("PEFTKIT_PLUGINS", only)
    assert registry(*points) == loaded
    if "two" not in expected:
        with pytest.raises(PluginError, match=r"PEFTKIT_PLUGINS excludes .*peftkit-two:second"):
            loaded.find("method", "two")


def test_excluded_plugins_are_not_imported(install: Install) -> None:
    broken = EntryPoint("b", "none_such_module", "peftkit")
    assert registry(broken, only="").failures == ()


def test_unknown_names_in_peftkit_plugins_are_an_error(install: Install) -> None:
    point = install("peftkit-one", "first", register_methods=methods(component("one")))
    with pytest.raises(InputError) as caught:
        registry(point, only="peftkit-on,first,zzz")
    assert str(caught.value) == (
        "PEFTKIT_PLUGINS: not installed: 'peftkit-on' (did you mean 'peftkit-one'?), 'zzz'; "
        "installed: peftkit-one:first"
    )


# ---- what remains of a plugin with invalid components


class Inapt(Method):
    """Has a hook with other arguments."""

    name: Literal["inapt"] = "inapt"

    def apply(self, model: Any) -> Any:  # type: ignore[override]
        return model


def test_the_other_components_of_a_plugin_can_be_used(install: Install) -> None:
    loaded = registry(
        install(
            "d",
            register_methods=methods(component("good"), Inapt, component("better")),
            t=hook("register_tasks", [Aimless]),
            m=hook("register_metrics", component("metric", Metric)),
        )
    )
    assert names(loaded) == ["method better", "method good", "metric metric"]
    assert [failure.component for failure in loaded.failures] == [("method", "inapt"), ("task", "aimless")]
    assert str(loaded.failures[0]) == (
        "the method 'inapt' of the plugin d:plugin cannot be used: Inapt must define apply(self, model, context), not "
        "apply(self, model)"
    )
    with pytest.raises(PluginError) as caught:
        loaded.find("method", "inapt")
    assert str(caught.value) == str(loaded.failures[0])
    with pytest.raises(PluginError) as caught:
        loaded.find("method", "other")  # that they are invalid is no reason for another missing name
    assert "cannot be used" not in str(caught.value)


def test_a_failing_hook_leaves_the_others(install: Install) -> None:
    loaded = registry(
        install("d", register_methods=raising(OSError()), t=hook("register_metrics", component("m", Metric)))
    )
    assert names(loaded) == ["metric m"]
    assert str(loaded.failures[0]).startswith(
        "the methods of the plugin d:plugin cannot be used: register_methods failed"
    )


def test_failures_are_logged_once(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    points = [install("a-distribution", register_methods=methods(Inapt))]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            loaded = registry(*points)
    assert [record.message for record in caplog.records] == [str(loaded.failures[0])]


def test_only_the_first_of_several_processes_logs_failures(
    install: Install, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    registry(install("yet-another-distribution", register_methods=methods(Inapt)))
    assert caplog.records == []


# ---- the list of plugins


def test_plugins_are_listed_with_licence_state_and_components(install: Install) -> None:
    points = [
        install("peftkit-two", "second", "2.0", register_methods=methods(component("two"))),
        install("peftkit-one", "first", register_methods=methods(component("one"))),
        EntryPoint("broken", "none_such_module", "peftkit"),
        install("peftkit-odd", "odd", register_methods=methods(component("a", Metric))),
    ]
    for point, lines in zip(points, ("License-Expression: MIT", "License: GPL\n  text", "", ""), strict=True):
        if point.dist and lines:
            point.dist.texts["METADATA"] += f"{lines}\n"  # type: ignore[attr-defined]
    listed = {plugin.name: plugin for plugin in list_plugins("first,odd,broken", points)}
    assert sorted(listed) == list(listed)
    assert [(p.distribution, p.version, p.licence) for p in listed.values()][1:] == [
        ("peftkit-one", "1.0", "GPL"),
        ("peftkit-two", "2.0", "MIT"),
        ("unknown", "0", ""),
    ]
    assert [p.is_excluded for p in listed.values()] == [False, False, True, False]
    assert [entry.name for p in listed.values() for entry in p.entries] == ["one"]
    errors = {name: [failure.error for failure in plugin.failures] for name, plugin in listed.items()}
    assert errors["unknown:broken"] == ["ModuleNotFoundError: No module named 'none_such_module'"]
    [error] = errors["peftkit-odd:odd"]
    assert error.endswith("is not a subclass of peftkit.Method; register it with register_metrics")
    assert list_plugins(points=[]) == []
