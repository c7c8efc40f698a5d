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
from peftkit.components import Component, Meter, Method, Metric, Task
from peftkit.errors import InputError, PluginError, did_you_mean, listed

GROUP = "peftkit"
OWN = "peftkit"
"""The distribution of the built-in components; ``PEFTKIT_PLUGINS`` never leaves it out."""

Kind = Literal["method", "task", "metric", "meter"]
BASES: Mapping[Kind, type[Component]] = {"method": Method, "task": Task, "metric": Metric, "meter": Meter}


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
    """The version of every distribution that registered something."""

    def of(self, kind: Kind) -> Mapping[str, Entry]:
        """The entries of one kind by name."""
        return MappingProxyType({e.name: e for e in self.entries if e.kind == kind})

    def find(self, kind: Kind, name: str) -> Entry:
        """The entry of that kind and name.

        Raises:
            PluginError: there is none; the message lists what there is, a near name, and plugins that failed.
        """
        known = self.of(kind)
        if name in known:
            return known[name]
        text = f"no {kind} is called {name!r}{did_you_mean(name, known)}; installed: {listed(list(known))}"
        for failure in self.failures:
            text += f"; the plugin {failure.plugin} could not be imported: {failure.error}"
        raise PluginError(text)


def load_registry(only: str | None = None, points: Iterable[EntryPoint] | None = None) -> Registry:
    """Loads the plugins of the entry-point group ``peftkit``.

    Args:
        only: names of distributions or entry points, separated by commas, that limit what is loaded beside the
            built-ins; the default is the environment variable ``PEFTKIT_PLUGINS``; unset means all.
        points: the entry points to load, instead of those that are installed.

    Raises:
        PluginError: a name is registered twice, a hook is misspelt, raises, or returns what it should not.
        InputError: ``only`` names a plugin that is not installed.
    """
    if only is None:
        only = os.environ.get("PEFTKIT_PLUGINS")
    manager = pluggy.PluginManager("peftkit")
    manager.add_hookspecs(hookspecs)
    failures: list[Failure] = []
    versions: dict[str, tuple[str, str]] = {}
    for name, point in _chosen(points if points is not None else entry_points(group=GROUP), only):
        try:
            plugin = point.load()
        except Exception as error:  # whatever a foreign module raises: recipes that do not need it must run
            failures.append(Failure(name, f"{type(error).__name__}: {error}"))
            continue
        try:
            manager.register(plugin, name)
            manager.check_pending()  # else a misspelt hook would be passed over in silence
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError(f"the plugin {name} is not valid: {_one_line(error)}") from error
        versions[name] = _distribution(point)
    entries = [entry for kind in BASES for entry in _entries(manager, kind, versions)]
    return Registry(tuple(entries), tuple(failures), MappingProxyType(dict(sorted(versions.values()))))


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "0")


def _chosen(points: Iterable[EntryPoint], only: str | None) -> list[tuple[str, EntryPoint]]:
    """The wanted entry points by ``distribution:name``, sorted: the order of installation must not matter."""
    found = {f"{_distribution(p)[0]}:{p.name}": p for p in points}
    if only is None:
        return sorted(found.items())
    wanted = {w.strip() for w in only.split(",")} - {""}
    known = {part for name in found for part in name.split(":")} | set(found)
    if missing := sorted(wanted - known):
        text = f"PEFTKIT_PLUGINS names {missing[0]!r}, which is not installed{did_you_mean(missing[0], known)}"
        raise InputError(f"{text}; installed: {listed(sorted(found))}")
    return sorted((n, p) for n, p in found.items() if {n, *n.split(":")} & wanted or n.split(":")[0] == OWN)


def _entries(manager: pluggy.PluginManager, kind: Kind, versions: Mapping[str, tuple[str, str]]) -> list[Entry]:
    found: dict[str, Entry] = {}
    caller = getattr(manager.hook, f"register_{kind}s")
    # Implementations are called one by one: pluggy's own call would not say which plugin raised.
    for implementation in sorted(caller.get_hookimpls(), key=lambda i: str(i.plugin_name)):
        plugin = implementation.plugin_name
        for component in _classes(f"{plugin}: register_{kind}s", implementation.function, BASES[kind]):
            name = _name(f"{plugin}: {component.__name__}", component)
            distribution, version = versions[plugin]
            if name in found:
                first = found[name].distribution
                raise PluginError(
                    f"the {kind} {name!r} is registered twice, by {first} and by {distribution} ({plugin}); "
                    "uninstall one, or leave it out with PEFTKIT_PLUGINS"
                )
            found[name] = Entry(kind, name, component, distribution, version)
    return [entry for _, entry in sorted(found.items())]


def _classes(where: str, function: Callable[[], Any], base: type[Component]) -> list[type[Component]]:
    try:
        returned = list(function())
    except Exception as error:
        raise PluginError(f"{where} failed: {type(error).__name__}: {_one_line(error)}") from error
    for item in returned:
        if not (isinstance(item, type) and issubclass(item, base)):
            raise PluginError(f"{where} returned {item!r}, which is not a sub-class of peftkit.{base.__name__}")
    return returned


def _name(where: str, component: type[Component]) -> str:
    annotation = component.model_fields["name"].annotation
    name = component.model_fields["name"].default
    if get_origin(annotation) is not Literal or get_args(annotation) != (name,):
        raise PluginError(f'{where} must declare its name as: name: Literal["x"] = "x"')
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise PluginError(f"{where} has the name {name!r}; a name is lower-case letters, digits and underscores")
    return name


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
