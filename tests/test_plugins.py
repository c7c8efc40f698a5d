"""The registry, from made-up entry points in a manager of its own each time."""

from __future__ import annotations

import itertools
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import create_model

from peftkit import Meter, Method, Metric, Task, hookimpl
from peftkit.components import Component
from peftkit.errors import InputError, PluginError
from peftkit.plugins import Registry, load_registry


class Made(Distribution):
    """A distribution that lies on no disk."""

    def __init__(self, name: str | None, version: str) -> None:
        self.texts = {"METADATA": f"Metadata-Version: 2.1\n{f'Name: {name}' if name else ''}\nVersion: {version}\n"}

    def read_text(self, filename: str) -> str | None:
        return self.texts.get(filename)

    def locate_file(self, path: Any) -> Any:
        return Path(path)


Install = Callable[..., EntryPoint]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes an entry point to a module of the given names; what is no module is raised when it is imported."""
    numbers = itertools.count()

    def point(distribution: str | None, name: str = "plugin", version: str = "1.0", **contents: Any) -> EntryPoint:
        module = types.ModuleType(f"made_up_{next(numbers)}")
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        # As importlib.metadata does it; a new attribute on something immutable.
        made = EntryPoint(name, module.__name__, "peftkit")
        vars(made)["dist"] = Made(distribution, version)
        return made

    return point


def component(name: str, base: type[Component] = Method) -> Any:
    attributes = {}
    if issubclass(base, Task):
        attributes = {"kind": "generation", "metrics": (), "selection_metric": "loss"}
    made = create_model(name.title(), __base__=base, name=(Literal[name], name), __doc__=f"The {name}.\n\nMore.")
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


def hook(name: str, returned: Any) -> Any:
    return hookimpl(specname=name)(lambda: returned)


def methods(*classes: Any) -> Any:
    return hook("register_methods", list(classes))


def registry(*points: EntryPoint, only: str | None = None) -> Registry:
    return load_registry(only, points)


def names(found: Registry) -> list[str]:
    return [f"{e.kind} {e.name}" for e in found.entries]


def test_what_is_registered_is_known_with_its_distribution(install: Install) -> None:
    a = component("a")
    found = registry(install("peftkit-a", "x", "2.5", register_methods=methods(a)))
    [entry] = found.entries
    assert (entry.kind, entry.name, entry.component) == ("method", "a", a)
    assert (entry.distribution, entry.version, entry.summary) == ("peftkit-a", "2.5", "The a.")
    assert dict(found.distributions) == {"peftkit-a": "2.5"}
    assert (found.failures, found.excluded) == ((), ())
    assert found.find("method", "a") is found.all("method")["a"] is entry


def test_all_kinds_come_from_one_module(install: Install) -> None:
    hooks: dict[str, Any] = {}
    for kind, base in (("methods", Method), ("tasks", Task), ("metrics", Metric), ("meters", Meter)):
        made = component("same", base)
        hooks[kind] = hook(f"register_{kind}", [made])
    found = registry(install("d", **hooks))
    assert names(found) == ["method same", "task same", "metric same", "meter same"]


def test_no_order_of_installation_changes_anything(install: Install) -> None:
    points = [install(f"d{n}", "x", register_methods=methods(component(f"b{n}"), component(f"a{n}"))) for n in range(3)]
    found = [registry(*order) for order in itertools.permutations(points)]
    assert names(found[0]) == [f"method {letter}{n}" for letter in "ab" for n in range(3)]
    assert all(each == found[0] for each in found)


def test_the_built_ins_are_all_there() -> None:
    found = load_registry("")
    assert set(found.distributions) == {"peftkit"}
    assert {"full", "lora", "prefix_tuning", "vera"} <= set(found.all("method"))
    assert {"wordnet_topic", "wordnet_mcq", "wordnet_distractors"} <= set(found.all("task"))
    assert {"accuracy", "rouge", "bleu"} <= set(found.all("metric"))
    assert {"clock", "peak_memory"} <= set(found.all("meter"))
    assert all(e.summary.endswith(".") or "." in e.summary for e in found.entries)


# ---- distributions


def test_a_name_twice_names_both_distributions(install: Install) -> None:
    points = [install(d, register_methods=methods(component("a"))) for d in ("peftkit-one", "peftkit-two")]
    for order in (points, points[::-1]):
        with pytest.raises(
            PluginError, match=r"the method 'a' is registered twice, by peftkit-one and by peftkit-two \("
        ):
            registry(*order)


def test_a_built_in_may_give_way_to_one_other_of_its_name(install: Install) -> None:
    own, other, third = component("a"), component("a"), component("a")
    own.overridable = True
    points = [install(d, register_methods=methods(c)) for d, c in (("peftkit", own), ("x", other), ("a", third))]
    for order in (points[:2], points[1::-1]):
        assert registry(*order).all("method")["a"].component is other
    assert registry(points[0]).all("method")["a"].component is own
    with pytest.raises(PluginError, match="registered twice"):
        registry(*points)
    own.overridable, other.overridable = False, True
    with pytest.raises(PluginError, match="registered twice"):
        registry(*points[:2])


def test_a_name_twice_in_one_hook_is_refused(install: Install) -> None:
    with pytest.raises(PluginError, match="registered twice, by d and by d"):
        registry(install("d", register_methods=methods(component("a"), component("a"))))


def test_entry_points_of_one_name_in_two_distributions_are_both_loaded(install: Install) -> None:
    points = [install(d, "same", register_methods=methods(component(n))) for d, n in (("d1", "a"), ("d2", "b"))]
    assert names(registry(*points)) == ["method a", "method b"]


def test_of_two_versions_of_a_distribution_the_first_counts(install: Install) -> None:
    points = [install("d", version=v, register_methods=methods(component(n))) for v, n in (("1", "old"), ("2", "new"))]
    found = registry(*points)
    assert (names(found), dict(found.distributions)) == (["method old"], {"d": "1"})


def test_one_module_under_two_names_is_refused(install: Install) -> None:
    point = install("d1", register_methods=methods(component("a")))
    other = EntryPoint("again", point.value, "peftkit")
    vars(other)["dist"] = Made("d2", "1")
    with pytest.raises(PluginError, match="the plugins d1:plugin and d2:again are the same module"):
        registry(point, other)


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
    """Takes what no hook gives."""
    return []


def unmarked() -> list[type[Method]]:
    """Not marked as a hook."""
    return []


class Silent(Method):
    """Names itself wrongly."""

    name: str = "silent"


class Twofold(Method):
    """Has two names."""

    name: Literal["a", "b"] = "a"


class Nameless(Method):
    """Has a name without a default."""

    name: Literal["nameless"]


class Loud(Method):
    """Has a name that no recipe's key could be."""

    name: Literal["Loud Name"] = "Loud Name"


class Aimless(Task):
    """Says nothing of itself."""

    name: Literal["aimless"] = "aimless"


class Optional(Aimless):
    """Makes its kind an option."""

    kind: str = "generation"  # type: ignore[misc, assignment]


class Plain(Aimless):
    """Names its metrics in one text."""

    kind: ClassVar[Any] = "generation"
    metrics: ClassVar[Any] = "accuracy"


class Odd(Metric):
    """Scores what there is not."""

    name: Literal["odd"] = "odd"
    kinds: ClassVar[Any] = ("generation", "regression")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt": (
        {"register_method": register_method},
        r"d:plugin is not valid: .*unknown hook 'register_method' .*\(did you mean 'register_methods'\?\)",
    ),
    "arguments": ({"register_methods": with_arguments}, "d:plugin is not valid: .*config"),
    "unmarked": (
        {"register_methods": unmarked},
        "d:plugin implements no hook: .* register_methods, .* under @hookimpl",
    ),
    "nothing": ({}, "d:plugin implements no hook"),
    "raises": ({"register_methods": raising(KeyError("boo"))}, "d:plugin: register_methods failed: KeyError: 'boo'"),
    "exits": ({"register_methods": raising(SystemExit(3))}, "d:plugin: register_methods failed: SystemExit: 3"),
    "none": (
        {"register_methods": returning(None)},
        "d:plugin: register_methods returned None; it must return a list of classes",
    ),
    "text": ({"register_methods": returning("ab")}, "register_methods returned 'ab'; it must return a list"),
    "class": ({"register_methods": returning(component("a"))}, "returned <class .*A'>; it must return a list"),
    "object alone": (
        {"register_methods": returning(component("a")())},
        "returned A\\(name='a'\\); it must return a list",
    ),
    "object": (
        {"register_methods": returning([component("a")()])},
        r"returned A\(name='a'\), .*; return the class itself",
    ),
    "no class": ({"register_methods": returning([3])}, "returned 3, which is not a subclass of peftkit.Method$"),
    "wrong base": (
        {"register_methods": returning([component("a", Metric)])},
        "which is not a subclass of peftkit.Method",
    ),
    "no literal": (
        {"register_methods": returning([Silent])},
        'd:plugin: Silent must declare its name as: name: Literal\\["x"\\]',
    ),
    "two names": ({"register_methods": returning([Twofold])}, "Twofold must declare its name as"),
    "no default": ({"register_methods": returning([Nameless])}, "Nameless must declare its name as"),
    "base itself": ({"register_methods": returning([Method])}, "Method must declare its name as"),
    "odd name": ({"register_methods": returning([Loud])}, "has the name 'Loud Name'; names have lower-case letters"),
    "task": (
        {"t": hook("register_tasks", [Aimless])},
        r"Aimless must have the class attribute \(not an option\) kind: one of classification",
    ),
    "option": (
        {"t": hook("register_tasks", [Optional])},
        r"Optional must have the class attribute \(not an option\) kind",
    ),
    "metrics": ({"t": hook("register_tasks", [Plain])}, "Plain must have the class attribute .* metrics: a tuple of"),
    "kinds": (
        {"m": hook("register_metrics", [Odd])},
        "Odd must have the class attribute .* kinds: a tuple of classification, ",
    ),
}


@pytest.mark.parametrize(("contents", "words"), BAD.values(), ids=BAD)
def test_a_plugin_that_breaks_the_rules_is_named(contents: dict[str, Any], words: str, install: Install) -> None:
    with pytest.raises(PluginError, match=words) as caught:
        registry(install("d", **contents))
    assert "d:plugin" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_entry_point_to_a_class_is_refused(install: Install) -> None:
    point = install("d", A=component("a"))
    made = EntryPoint("x", f"{point.value}:A", "peftkit")
    with pytest.raises(PluginError, match="x implements no hook: its entry point must name a module"):
        registry(made)


def test_a_hook_may_return_any_collection(install: Install) -> None:
    def several() -> Iterator[type[Component]]:
        yield component("a")
        yield component("b")

    found = registry(
        install("d1", register_methods=hookimpl(specname="register_methods")(several)),
        install("d2", register_methods=returning((component("c"),))),
        install("d3", register_methods=returning(())),
    )
    assert names(found) == ["method a", "method b", "method c"]


# ---- plugins that cannot be imported, and those that are left out


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import none_such_module", "ModuleNotFoundError: No module named 'none_such_module'"),
        ("raise SystemExit('no\\n  way')", "SystemExit: no way"),
        ("(", "SyntaxError"),
        ("from peftkit import Method\nclass A(Method):\n    name = 'a'", "PydanticUserError: "),
    ],
)
def test_what_cannot_be_imported_is_quoted_only_where_something_is_missing(
    code: str, words: str, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_for_test.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    broken = EntryPoint("b", "broken_for_test", "peftkit")
    vars(broken)["dist"] = Made("peftkit-broken", "1")
    found = registry(broken, install("d", register_methods=methods(component("alpha"))))
    assert found.find("method", "alpha").distribution == "d"
    [failure] = found.failures
    assert failure.plugin == "peftkit-broken:b"
    assert failure.error.startswith(words)
    assert "\n" not in failure.error
    with pytest.raises(PluginError) as caught:
        found.find("method", "alpah")
    assert str(caught.value) == (
        "no method is called 'alpah' (did you mean 'alpha'?); installed: alpha; "
        f"the plugin peftkit-broken:b could not be imported: {failure.error}"
    )


def test_a_missing_attribute_of_a_module_is_a_failure_to_import(install: Install) -> None:
    found = registry(EntryPoint("x", f"{install('d').value}:none", "peftkit"))
    assert found.failures[0].error.startswith("AttributeError")


def test_an_interrupt_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interrupted_for_test.py").write_text("raise KeyboardInterrupt", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        registry(EntryPoint("x", "interrupted_for_test", "peftkit"))


def test_a_component_that_is_shipped_apart_says_where_it_is(install: Install) -> None:
    with pytest.raises(
        PluginError, match=r"called 'parallel_adapters'; installed: nothing; .* distribution peftkit-adapters$"
    ):
        registry().find("method", "parallel_adapters")


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
def test_peftkit_plugins_limits_what_is_loaded_beside_the_built_ins(
    only: str | None, expected: list[str], install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [
        install("peftkit", "methods", register_methods=methods(component("own"))),
        install("peftkit-one", "first", register_methods=methods(component("one"))),
        install("peftkit-two", "second", register_methods=methods(component("two"))),
    ]
    found = registry(*points, only=only)
    assert set(found.all("method")) == set(expected)
    if only is not None:
        monkeypatch.setenv("PEFTKIT_PLUGINS", only)
    assert registry(*points) == found
    if "two" not in expected:
        with pytest.raises(PluginError, match=r"PEFTKIT_PLUGINS excludes .*peftkit-two:second"):
            found.find("method", "two")


def test_what_is_left_out_is_not_even_imported(install: Install) -> None:
    broken = EntryPoint("b", "none_such_module", "peftkit")
    assert registry(broken, only="").failures == ()


def test_peftkit_plugins_names_what_is_not_installed(install: Install) -> None:
    point = install("peftkit-one", "first", register_methods=methods(component("one")))
    with pytest.raises(InputError) as caught:
        registry(point, only="peftkit-on,first,zzz")
    assert str(caught.value) == (
        "PEFTKIT_PLUGINS: not installed: 'peftkit-on' (did you mean 'peftkit-one'?), 'zzz'; "
        "installed: peftkit-one:first"
    )
