"""Finds, loads and checks plugins, and returns one frozen ``Registry`` that knows which distribution gave what."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

import pluggy

from peftkit import hookspecs
from peftkit.components import Component, Meter, Method, Metric, Task, TaskKind
from peftkit.errors import InputError, PluginError, did_you_mean, listed, one_line

GROUP = "peftkit"
OWN = "peftkit"
"""The distribution of the built-in components; ``PEFTKIT_PLUGINS`` never leaves it out."""

Kind = Literal["method", "task", "metric", "meter"]
SHIPPED: Mapping[str, str] = {
    "lora_xs": "peftkit-lora-xs",
    **dict.fromkeys(
        (
            *("adapter_plus", "adapters_ia3", "adapters_lora", "adapters_prefix_tuning", "adapters_prompt_tuning"),
            *("adapters_union", "bottleneck", "compacter", "compacter_plus_plus", "direft", "invertible_bottleneck"),
            *("loreft", "mam", "noreft", "parallel_adapters", "unipelt"),
        ),
        "peftkit-adapters",
    ),
}
"""Components of distributions that come with peftkit and are installed apart: a recipe may name them without."""

BASES: Mapping[Kind, type[Component]] = {"method": Method, "task": Task, "metric": Metric, "meter": Meter}
NAME = re.compile(r"[a-z][a-z0-9_]*")
"""What a component may be called."""
HOOKS = tuple(f"register_{kind}s" for kind in BASES)


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered component class and where it comes from."""

    kind: Kind
    name: str
    component: type[Component]
    distribution: str
    version: str

    @property
    def summary(self) -> str:
        """The first paragraph of the class's text, on one line."""
        return " ".join((inspect.getdoc(self.component) or "").split("\n\n")[0].split())


@dataclass(frozen=True, slots=True)
class Failure:
    """A plugin that could not be imported: harmless until a recipe names what it would have given."""

    plugin: str
    error: str


@dataclass(frozen=True, slots=True)
class Registry:
    """What is installed, by kind and name, in the order of the names."""

    entries: tuple[Entry, ...]
    failures: tuple[Failure, ...] = ()
    distributions: Mapping[str, str] = field(default_factory=dict)
    """The version of every distribution whose plugins were loaded."""
    left_out: tuple[str, ...] = ()
    """The plugins that ``PEFTKIT_PLUGINS`` leaves out."""

    def of(self, kind: Kind) -> Mapping[str, Entry]:
        """Returns the components of one kind.

        Args:
            kind: ``method``, ``task``, ``metric`` or ``meter``.

        Returns:
            The entries by name.
        """
        return MappingProxyType({e.name: e for e in self.entries if e.kind == kind})

    def find(self, kind: Kind, name: str) -> Entry:
        """Returns the component with a kind and name.

        Args:
            kind: ``method``, ``task``, ``metric`` or ``meter``.
            name: The name in a recipe.

        Returns:
            The entry.

        Raises:
            PluginError: There is none. The message lists the installed ones, a similar name, and plugins that failed.
        """
        known = self.of(kind)
        if name in known:
            return known[name]
        text = f"no {kind} is called {name!r}{did_you_mean(name, known)}; installed: {listed(list(known))}"
        raise PluginError(text + self.absent(name))

    def absent(self, name: str) -> str:
        """Returns why a name may not be registered.

        Args:
            name: The name in a recipe.

        Returns:
            Reasons that begin with ``; ``, or an empty text if there are none.
        """
        reasons = [f"the plugin {f.plugin} could not be imported: {f.error}" for f in self.failures]
        if self.left_out:
            reasons.append(f"PEFTKIT_PLUGINS leaves out {listed(self.left_out)}")
        if (shipped := SHIPPED.get(name)) and shipped not in self.distributions:
            reasons.append(f"it is in the distribution {shipped}")
        return "".join(f"; {reason}" for reason in reasons)


def load_registry(only: str | None = None, points: Iterable[EntryPoint] | None = None) -> Registry:
    """Loads the plugins of the entry-point group ``peftkit``.

    Args:
        only: Names of distributions or entry points, separated by commas. Only these are loaded beside the built-in
            components. The default is the environment variable ``PEFTKIT_PLUGINS``; if it is unset, all are loaded.
        points: The entry points to load, instead of the installed ones.

    Returns:
        The registered components.

    Raises:
        PluginError: A name is registered twice, or a hook is misspelt, raises, or returns something else than classes.
        InputError: ``only`` names a plugin that is not installed.
    """
    if only is None:
        only = os.environ.get("PEFTKIT_PLUGINS")
    manager = pluggy.PluginManager("peftkit")
    manager.add_hookspecs(hookspecs)
    failures: list[Failure] = []
    versions: dict[str, tuple[str, str]] = {}
    chosen, left_out = _chosen(points if points is not None else entry_points(group=GROUP), only)
    for name, point in chosen:
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:  # of whatever kind: recipes that do not need it must run
            failures.append(Failure(name, one_line(error)))
            continue
        _register(manager, plugin, name)
        versions[name] = _distribution(point)
    entries = [entry for kind in BASES for entry in _entries(manager, kind, versions)]
    return Registry(tuple(entries), tuple(failures), MappingProxyType(dict(sorted(versions.values()))), left_out)


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name or "unknown", point.dist.version or "0") if point.dist else ("unknown", "0")


def _chosen(points: Iterable[EntryPoint], only: str | None) -> tuple[list[tuple[str, EntryPoint]], tuple[str, ...]]:
    """The wanted entry points by ``distribution:name``, sorted, for their order must not matter; and the others."""
    found: dict[str, EntryPoint] = {}
    for point in points:  # the first of several, as Python imports the first that it finds
        found.setdefault(f"{_distribution(point)[0]}:{point.name}", point)
    if only is None:
        return sorted(found.items()), ()
    wanted = {_same(word): word.strip() for word in only.split(",") if word.strip()}
    ways = {name: {_same(way) for way in (name, *name.split(":"))} for name in found}
    known = {way for each in ways.values() for way in each}
    if missing := [word for same, word in wanted.items() if same not in known]:
        text = ", ".join(f"{word!r}{did_you_mean(word, known)}" for word in missing)
        raise InputError(f"PEFTKIT_PLUGINS names what is not installed: {text}; installed: {listed(sorted(found))}")
    chosen = [name for name in sorted(found) if ways[name] & wanted.keys() or _same(OWN) in ways[name]]
    return [(name, found[name]) for name in chosen], tuple(sorted(found.keys() - chosen))


def _same(name: str) -> str:
    """A distribution's name in the form in which two spellings of it are equal."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _register(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    if first := manager.get_name(plugin):
        raise PluginError(f"the plugins {first} and {name} are the same module; leave one out with PEFTKIT_PLUGINS")
    try:
        manager.register(plugin, name)
        manager.check_pending()  # else a misspelt hook would be passed over in silence
    except (pluggy.PluginValidationError, TypeError, ValueError) as error:
        guess = re.search(r"unknown hook '(\w+)'", str(error))
        near = did_you_mean(guess[1], HOOKS) if guess else ""
        raise PluginError(f"the plugin {name} is not valid: {one_line(error)}{near}") from error
    if not manager.get_hookcallers(plugin):
        raise PluginError(
            f"the plugin {name} implements no hook: its entry point must name a module with one of "
            f"{listed(HOOKS)}, under @hookimpl"
        )


def _entries(manager: pluggy.PluginManager, kind: Kind, versions: Mapping[str, tuple[str, str]]) -> list[Entry]:
    found: dict[str, Entry] = {}
    caller = getattr(manager.hook, f"register_{kind}s")
    # Implementations are called one by one: pluggy's own call would not say which plugin raised.
    for implementation in sorted(caller.get_hookimpls(), key=lambda i: str(i.plugin_name)):
        plugin = implementation.plugin_name
        for component in _classes(f"{plugin}: register_{kind}s", implementation.function, BASES[kind]):
            name = _name(f"{plugin}: {component.__name__}", component)
            _check_attributes(f"{plugin}: {component.__name__}", component)
            distribution, version = versions[plugin]
            entry, present = Entry(kind, name, component, distribution, version), found.get(name)
            if present is None or _gives_way(present, entry):
                found[name] = entry
            elif not _gives_way(entry, present):
                raise PluginError(
                    f"the {kind} {name!r} is registered twice, by {present.distribution} and by {distribution} "
                    f"({plugin}); uninstall one, or leave it out with PEFTKIT_PLUGINS"
                )
    return [entry for _, entry in sorted(found.items())]


def _gives_way(built_in: Entry, other: Entry) -> bool:
    """Whether the first is a built-in component whose name the other may take."""
    return built_in.distribution == OWN != other.distribution and built_in.component.gives_way


def _classes(where: str, function: Callable[[], Any], base: type[Component]) -> list[type[Component]]:
    try:
        returned = function()
        several = isinstance(returned, Iterable) and not isinstance(returned, type | str | Component)
        items = list(returned) if several else []
    except (Exception, SystemExit) as error:
        raise PluginError(f"{where} failed: {one_line(error)}") from error
    if not several:
        raise PluginError(f"{where} returned {returned!r}; it must return a list of classes")
    for item in items:
        if not (isinstance(item, type) and issubclass(item, base)):
            hint = "; return the class itself" if isinstance(item, base) else ""
            raise PluginError(f"{where} returned {item!r}, which is not a sub-class of peftkit.{base.__name__}{hint}")
    return items


def _name(where: str, component: type[Component]) -> str:
    annotation = component.model_fields["name"].annotation
    name = component.model_fields["name"].default
    if get_origin(annotation) is not Literal or get_args(annotation) != (name,):
        raise PluginError(f'{where} must declare its name as: name: Literal["x"] = "x"')
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise PluginError(f"{where} has the name {name!r}; a name is lower-case letters, digits and underscores")
    return name


def _check_attributes(where: str, component: type[Component]) -> None:
    """Refuses a class whose attributes would fail only once a recipe uses it."""
    kinds = get_args(TaskKind)
    needs: list[tuple[str, str, Callable[[Any], bool]]] = []
    if issubclass(component, Task):
        needs += [
            ("kind", f"one of {listed(kinds)}", lambda v: v in kinds),
            ("metrics", "a tuple of the names of metrics", _are_texts),
            ("selects", "the name of a metric's value", lambda v: isinstance(v, str)),
        ]
    if issubclass(component, Metric):
        needs += [
            ("kinds", f"a tuple of {listed(kinds)}", lambda v: _are_texts(v) and set(v) <= set(kinds)),
            ("values", "a tuple of texts", _are_texts),
        ]
    for attribute, form, right in needs:
        value = getattr(component, attribute, None)
        if attribute in component.model_fields or not right(value):
            raise PluginError(f"{where} must have the class attribute (not an option) {attribute}: {form}")


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(v, str) for v in value)
