"""Finds, loads and checks plugins, and registers their components with the distribution they come from."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Literal

import pluggy

from peftkit import hookspecs
from peftkit.components import Component, Meter, Method, Metric, Task
from peftkit.components.class_checks import check_class, check_options, component_name
from peftkit.errors import InputError, PluginError, comma_separated, did_you_mean, summarize_error

GROUP = "peftkit"
BUILTIN_DISTRIBUTION = "peftkit"
"""The distribution of the built-in components, which is loaded whatever ``PEFTKIT_PLUGINS`` is."""

Kind = Literal["method", "task", "metric", "meter"]
FIRST_PARTY: Mapping[str, str] = {
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
"""Components of peftkit's own plugins, for a hint where the plugin is not installed."""

BASE_CLASSES: Mapping[Kind, type[Component]] = {"method": Method, "task": Task, "metric": Metric, "meter": Meter}
HOOKS = tuple(f"register_{kind}s" for kind in BASE_CLASSES)


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
        """The first paragraph of the class's docstring, on one line."""
        return " ".join((inspect.getdoc(self.component) or "").split("\n\n")[0].split())


@dataclass(frozen=True, slots=True)
class Failure:
    """A plugin that could not be imported; reported when a recipe names a component that is not installed."""

    plugin: str
    error: str


@dataclass(frozen=True, slots=True)
class Plugin:
    """An installed plugin.

    Attributes:
        name: The names of its distribution and entry point, such as ``peftkit-energy:energy``.
        distribution: The name of the distribution.
        version: The version of the distribution.
        licence: The licence in the distribution's metadata; empty if there is none.
        error: Why it cannot be loaded; empty if it can.
        is_excluded: Whether ``PEFTKIT_PLUGINS`` excludes it.
        entries: Its components.
    """

    name: str
    distribution: str
    version: str
    licence: str
    error: str = ""
    is_excluded: bool = False
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Registry:
    """The installed components, sorted by kind and name."""

    entries: tuple[Entry, ...]
    failures: tuple[Failure, ...] = ()
    distributions: Mapping[str, str] = field(default_factory=dict)
    """The versions of the distributions whose plugins were loaded."""
    excluded: tuple[str, ...] = ()
    """The plugins that ``PEFTKIT_PLUGINS`` excludes."""

    def all(self, kind: Kind) -> Mapping[str, Entry]:
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
        known = self.all(kind)
        if name in known:
            return known[name]
        text = f"no {kind} is called {name!r}{did_you_mean(name, known)}; installed: {comma_separated(list(known))}"
        raise PluginError(text + self.why_missing(name))

    def why_missing(self, name: str) -> str:
        """Returns why a name may not be registered.

        Args:
            name: The name in a recipe.

        Returns:
            Reasons that begin with ``; ``, or an empty text if there are none.
        """
        reasons = [f"the plugin {f.plugin} could not be imported: {f.error}" for f in self.failures]
        if self.excluded:
            reasons.append(f"PEFTKIT_PLUGINS excludes {comma_separated(self.excluded)}")
        if (distribution := FIRST_PARTY.get(name)) and distribution not in self.distributions:
            reasons.append(f"it is in the distribution {distribution}")
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
    selected, excluded = _select_plugins(points, only)
    return _load(selected, [name for name, _ in excluded])


def list_plugins(only: str | None = None, points: Iterable[EntryPoint] | None = None) -> list[Plugin]:
    """Return the installed plugins, including those that ``load_registry`` excludes or rejects.

    Args:
        only: As for ``load_registry``.
        points: As for ``load_registry``.

    Returns:
        The plugins, sorted by name.

    Raises:
        InputError: ``only`` names a plugin that is not installed.
    """
    selected, excluded = _select_plugins(points, only)
    plugins = []
    for name, point in [*selected, *excluded]:
        plugin = Plugin(name, *_distribution(point), _licence(point))
        if (name, point) in excluded:
            plugin = replace(plugin, is_excluded=True)
        else:
            try:
                registry = _load([(name, point)], ())
                error = registry.failures[0].error if registry.failures else ""
                plugin = replace(plugin, entries=registry.entries, error=error)
            except PluginError as error_of_hook:
                plugin = replace(plugin, error=str(error_of_hook).removeprefix(f"{name}: "))
        plugins.append(plugin)
    return sorted(plugins, key=lambda plugin: plugin.name)


def _load(selected: Sequence[tuple[str, EntryPoint]], left_out: Sequence[str]) -> Registry:
    manager = pluggy.PluginManager("peftkit")
    manager.add_hookspecs(hookspecs)
    failures: list[Failure] = []
    versions: dict[str, tuple[str, str]] = {}
    for name, point in selected:
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:  # any error: recipes that do not need the plugin must run
            failures.append(Failure(name, summarize_error(error)))
            continue
        _register(manager, plugin, name)
        versions[name] = _distribution(point)
    entries = [entry for kind in BASE_CLASSES for entry in _entries(manager, kind, versions)]
    return Registry(tuple(entries), tuple(failures), MappingProxyType(dict(sorted(versions.values()))), tuple(left_out))


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name or "unknown", point.dist.version or "0") if point.dist else ("unknown", "0")


def _licence(point: EntryPoint) -> str:
    """Return the licence in the metadata of an entry point's distribution: a name, or the first line of a text."""
    metadata = point.dist.metadata if point.dist else None
    if metadata is None:
        return ""
    classifiers = [text.split(" :: ")[-1] for text in metadata.get_all("Classifier", []) if text.startswith("License")]
    named = [metadata[key] for key in ("License-Expression", "License") if key in metadata]
    return next((text.strip().splitlines()[0].strip() for text in [*named, *classifiers] if text.strip()), "")


def _select_plugins(
    points: Iterable[EntryPoint] | None, only: str | None
) -> tuple[list[tuple[str, EntryPoint]], list[tuple[str, EntryPoint]]]:
    """Return the selected entry points with their names, ``distribution:name``, and the excluded ones, both sorted."""
    installed: dict[str, EntryPoint] = {}
    for point in points if points is not None else entry_points(group=GROUP):
        # Of duplicates the first, which is the one that Python imports.
        installed.setdefault(f"{_distribution(point)[0]}:{point.name}", point)
    if only is None:
        only = os.environ.get("PEFTKIT_PLUGINS")
    if only is None:
        return sorted(installed.items()), []
    wanted = {_canonical_name(word): word.strip() for word in only.split(",") if word.strip()}
    aliases = {name: {_canonical_name(part) for part in (name, *name.split(":"))} for name in installed}
    known = {alias for each in aliases.values() for alias in each}
    if missing := [word for name, word in wanted.items() if name not in known]:
        text = ", ".join(f"{word!r}{did_you_mean(word, known)}" for word in missing)
        raise InputError(f"PEFTKIT_PLUGINS: not installed: {text}; installed: {comma_separated(sorted(installed))}")
    wanted_names = {*wanted, _canonical_name(BUILTIN_DISTRIBUTION)}
    selected = {name for name in installed if aliases[name] & wanted_names}
    parts: tuple[list[tuple[str, EntryPoint]], list[tuple[str, EntryPoint]]] = [], []
    for name, point in sorted(installed.items()):
        parts[name not in selected].append((name, point))
    return parts


def _canonical_name(name: str) -> str:
    """Normalize the name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _register(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    if first := manager.get_name(plugin):
        raise PluginError(f"the plugins {first} and {name} are the same module; exclude one with PEFTKIT_PLUGINS")
    try:
        manager.register(plugin, name)
        manager.check_pending()  # else misspelt hooks would be ignored
    except (pluggy.PluginValidationError, TypeError, ValueError) as error:
        guess = re.search(r"unknown hook '(\w+)'", str(error))
        near = did_you_mean(guess[1], HOOKS) if guess else ""
        raise PluginError(f"the plugin {name} is not valid: {summarize_error(error)}{near}") from error
    if not manager.get_hookcallers(plugin):
        raise PluginError(
            f"the plugin {name} implements no hook: its entry point must name a module with one of "
            f"{comma_separated(HOOKS)}, under @hookimpl"
        )


def _entries(manager: pluggy.PluginManager, kind: Kind, versions: Mapping[str, tuple[str, str]]) -> list[Entry]:
    entries: dict[str, Entry] = {}
    caller = getattr(manager.hook, f"register_{kind}s")
    # Call each implementation, to know which plugin raised.
    for implementation in sorted(caller.get_hookimpls(), key=lambda i: str(i.plugin_name)):
        plugin = implementation.plugin_name
        for component in _classes(f"{plugin}: register_{kind}s", implementation.function, BASE_CLASSES[kind]):
            where = f"{plugin}: {component.__name__}"
            name = component_name(where, component)
            check_class(where, component)
            distribution, version = versions[plugin]
            if distribution != BUILTIN_DISTRIBUTION:  # the built-in ones have a test, since this takes longer
                check_options(where, component)
            entry, present = Entry(kind, name, component, distribution, version), entries.get(name)
            if present is None or _is_overridable(present, entry):
                entries[name] = entry
            elif not _is_overridable(entry, present):
                raise PluginError(
                    f"the {kind} {name!r} is registered twice, by {present.distribution} and by {distribution} "
                    f"({plugin}); uninstall one, or exclude it with PEFTKIT_PLUGINS"
                )
    return [entry for _, entry in sorted(entries.items())]


def _is_overridable(built_in: Entry, other: Entry) -> bool:
    """Whether a built-in component allows a plugin to override it."""
    return built_in.distribution == BUILTIN_DISTRIBUTION != other.distribution and built_in.component.overridable


def _classes(where: str, function: Callable[[], Any], base: type[Component]) -> list[type[Component]]:
    try:
        returned = function()
        is_list = isinstance(returned, Iterable) and not isinstance(returned, type | str | Component)
        items = list(returned) if is_list else [returned]
    except (Exception, SystemExit) as error:
        raise PluginError(f"{where} failed: {summarize_error(error)}") from error
    if not is_list and not isinstance(returned, type | Component):
        raise PluginError(f"{where} returned {returned!r}; it must return a class or a list of classes")
    for item in items:
        if not (isinstance(item, type) and issubclass(item, base)):
            raise PluginError(
                f"{where} returned {item!r}, which is not a subclass of peftkit.{base.__name__}{_hint(item, base)}"
            )
    return items


def _hint(item: object, base: type[Component]) -> str:
    if isinstance(item, base):
        return "; return the class itself"
    kinds = [kind for kind, other in BASE_CLASSES.items() if isinstance(item, type) and issubclass(item, other)]
    return f"; register it with register_{kinds[0]}s" if kinds else ""
