"""Loads and checks plugins, and registers their components and presets with the distribution they come from."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Any, Literal, cast

import pluggy

from peftkit import hookspecs
from peftkit.components import Callback, Component, Meter, Method, Metric, Objective, Preset, Task
from peftkit.components.class_checks import check_class, check_name, check_options, component_name
from peftkit.components.method_names import find_left_out, suggest_method
from peftkit.components.preset import preset_class
from peftkit.entry_points import BUILTIN_DISTRIBUTION, distribution_of, licence_of, select_plugins
from peftkit.errors import PluginError, closest, comma_separated, did_you_mean, summarize_error

Kind = Literal["method", "task", "objective", "metric", "meter", "callback"]
FIRST_PARTY: Mapping[str, str] = {
    "lora_xs": "peftkit-lora-xs",
    **dict.fromkeys(
        (
            *("adapter_plus", "adapters_ia3", "adapters_lora", "adapters_prefix_tuning", "adapters_prompt_tuning"),
            *("adapters_union", "bottleneck", "compacter", "compacter_plus_plus", "direft", "invertible_bottleneck"),
            *("houlsby", "loreft", "mam", "noreft", "parallel_adapters", "pfeiffer", "unipelt"),
        ),
        "peftkit-adapters",
    ),
}
"""Components of peftkit's own plugins, for a hint where the plugin is not installed."""

BASE_CLASSES: Mapping[Kind, type[Component]] = {
    "method": Method,
    "task": Task,
    "objective": Objective,
    "metric": Metric,
    "meter": Meter,
    "callback": Callback,
}
HOOKS = (*(f"register_{kind}s" for kind in BASE_CLASSES), "register_presets")


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

    @property
    def preset(self) -> Preset | None:
        """The preset, if the component is one."""
        return self.component.preset if issubclass(self.component, Method) else None


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
        entries: Its components and presets.
        unavailable: By the name of each of its presets whose method is not installed, the name of that method.
    """

    name: str
    distribution: str
    version: str
    licence: str
    error: str = ""
    is_excluded: bool = False
    entries: tuple[Entry, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Registry:
    """The installed components, sorted by kind and name."""

    entries: tuple[Entry, ...]
    failures: tuple[Failure, ...] = ()
    distributions: Mapping[str, str] = field(default_factory=dict)
    """The versions of the distributions whose plugins were loaded."""
    excluded: tuple[str, ...] = ()
    """The plugins that ``PEFTKIT_PLUGINS`` excludes."""
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """By the name of each preset whose method is not installed, the name of that method."""

    def all(self, kind: Kind, *, presets: bool = True) -> Mapping[str, Entry]:
        """Returns the components of one kind.

        Args:
            kind: ``method``, ``task``, ``objective``, ``metric``, ``meter`` or ``callback``.
            presets: Whether methods include presets.

        Returns:
            The entries by name.
        """
        return MappingProxyType({e.name: e for e in self.entries if e.kind == kind and (presets or not e.preset)})

    def find(self, kind: Kind, name: str) -> Entry:
        """Returns the component with a kind and name.

        Args:
            kind: ``method``, ``task``, ``objective``, ``metric``, ``meter`` or ``callback``.
            name: The name in a recipe.

        Returns:
            The entry.

        Raises:
            PluginError: There is none. The message lists the installed ones, a similar name, and why it may be missing.
        """
        known = self.all(kind)
        if name in known:
            return known[name]
        guess = self.suggest(name, kind)
        text = f"no {kind} is called {name!r}{guess}; installed: {comma_separated(list(known))}"
        raise PluginError(text + self.why_missing(name))

    def suggest(self, name: str, kind: Kind | None = None) -> str:
        """Returns a suggestion for an unknown name: by meaning for a method, by spelling for others.

        Args:
            name: The unknown name.
            kind: The kind of component; by default any.

        Returns:
            `` (did you mean 'x'?)``, where x may be in a plugin that is not installed; empty if none is similar.
        """
        guess = self._guess(name, kind)
        if find_left_out(name):
            return f" (the closest is {guess!r})"
        return f" (did you mean {guess!r}?)" if guess else ""

    def _guess(self, name: str, kind: Kind | None) -> str:
        entries = [entry for entry in self.entries if kind in (None, entry.kind)]
        if kind in (None, "method"):
            if name in FIRST_PARTY or name in self.unavailable:  # it is the right name
                return ""
            methods = {e.name: e.component.also_called for e in entries if issubclass(e.component, Method)}
            if guess := suggest_method(name, {**dict.fromkeys(FIRST_PARTY, ()), **methods}):
                return guess
        return closest(name, [entry.name for entry in entries])

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
        if left_out := find_left_out(name):
            reasons.append(left_out[1])
        method = self.unavailable.get(name)
        if method:
            reasons.append(f"it is a preset of {method}, which is not installed")
        guess = self._guess(name, "method")
        for wanted, subject in ((name, "it"), (method, method), (guess, repr(guess))):
            if (distribution := FIRST_PARTY.get(wanted or "")) and distribution not in self.distributions:
                reasons.append(f"{subject} is in the distribution {distribution}")
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
    selected, excluded = select_plugins(points, only)
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
    selected, excluded = select_plugins(points, only)
    methods: dict[str, Entry] = {}
    for each in selected:
        with suppress(PluginError):  # reported below
            methods |= _load([each], ()).all("method", presets=False)
    plugins = [Plugin(name, *distribution_of(p), licence_of(p), is_excluded=True) for name, p in excluded]
    for name, point in selected:
        plugin = Plugin(name, *distribution_of(point), licence_of(point))
        try:
            registry = _load([(name, point)], (), methods)
            error = registry.failures[0].error if registry.failures else ""
            plugin = replace(plugin, entries=registry.entries, error=error, unavailable=registry.unavailable)
        except PluginError as error_of_hook:
            plugin = replace(plugin, error=str(error_of_hook).removeprefix(f"{name}: "))
        plugins.append(plugin)
    return sorted(plugins, key=lambda plugin: plugin.name)


def _load(
    selected: Sequence[tuple[str, EntryPoint]], left_out: Sequence[str], preset_bases: Mapping[str, Entry] | None = None
) -> Registry:
    """Load plugins; ``preset_bases`` are methods of other plugins that their presets may stand for."""
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
        versions[name] = distribution_of(point)
    components = {kind: _entries(manager, kind, versions) for kind in BASE_CLASSES}
    unavailable = _add_presets(manager, components["method"], versions, preset_bases or {})
    entries = [entry for kind in BASE_CLASSES for _, entry in sorted(components[kind].items())]
    distributions = MappingProxyType(dict(sorted(versions.values())))
    return Registry(tuple(entries), tuple(failures), distributions, tuple(left_out), MappingProxyType(unavailable))


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


def _entries(manager: pluggy.PluginManager, kind: Kind, versions: Mapping[str, tuple[str, str]]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for plugin, where, components in _call_hook(manager, f"register_{kind}s"):
        for component in components:
            _check_base(where, component, BASE_CLASSES[kind])
            label = f"{plugin}: {component.__name__}"
            entry = Entry(kind, component_name(label, component), component, *versions[plugin])
            _check_entry(label, entry)
            _add(entries, entry, plugin)
    return entries


def _add_presets(
    manager: pluggy.PluginManager,
    methods: dict[str, Entry],
    versions: Mapping[str, tuple[str, str]],
    preset_bases: Mapping[str, Entry],
) -> dict[str, str]:
    """Add the classes of presets to the methods; return the others with the method that each lacks."""
    bases, unavailable = {**preset_bases, **methods}, {}
    for plugin, where, presets in _call_hook(manager, "register_presets"):
        for preset in presets:
            if not isinstance(preset, Preset):
                raise PluginError(f"{where} returned {preset!r}, which is not a peftkit.Preset")
            label = f"{plugin}: the preset {preset.name!r}"
            check_name(label, preset.name)
            texts = {key: getattr(preset, key) for key in ("method", "summary", "paper")}
            if missing := [key for key, text in texts.items() if not isinstance(text, str) or not text.strip()]:
                raise PluginError(f"{label} must have a text for {comma_separated(missing)}")
            if preset.method not in bases:
                unavailable[preset.name] = preset.method
                continue
            try:
                component = preset_class(preset, cast("type[Method]", bases[preset.method].component))
            except PluginError as error:
                raise PluginError(f"{label} {error}") from error
            entry = Entry("method", preset.name, component, *versions[plugin])
            _check_entry(label, entry)
            _add(methods, entry, plugin)
    return unavailable


def _check_entry(label: str, entry: Entry) -> None:
    check_class(label, entry.component)
    if entry.distribution != BUILTIN_DISTRIBUTION:  # the built-in ones have a test, since this takes longer
        check_options(label, entry.component)


def _add(entries: dict[str, Entry], entry: Entry, plugin: str) -> None:
    present = entries.get(entry.name)
    if present is None or _is_overridable(present, entry):
        entries[entry.name] = entry
    elif not _is_overridable(entry, present):
        raise PluginError(
            f"the {entry.kind} {entry.name!r} is registered twice, by {present.distribution} and by "
            f"{entry.distribution} ({plugin}); uninstall one, or exclude it with PEFTKIT_PLUGINS"
        )


def _is_overridable(built_in: Entry, other: Entry) -> bool:
    """Whether a built-in component allows a plugin to override it."""
    return built_in.distribution == BUILTIN_DISTRIBUTION != other.distribution and built_in.component.overridable


def _call_hook(manager: pluggy.PluginManager, hook: str) -> Iterator[tuple[str, str, list[Any]]]:
    """Yield each plugin that implements a hook, where that is for messages, and what it returns."""
    # Call each implementation, to know which plugin raised.
    for implementation in sorted(getattr(manager.hook, hook).get_hookimpls(), key=lambda i: str(i.plugin_name)):
        where = f"{implementation.plugin_name}: {hook}"
        try:
            returned = implementation.function()
            is_one = isinstance(returned, type | Component | Preset)
            is_list = isinstance(returned, Iterable) and not isinstance(returned, type | str | Component)
            items = list(returned) if is_list else [returned]
        except (Exception, SystemExit) as error:
            raise PluginError(f"{where} failed: {summarize_error(error)}") from error
        if not is_list and not is_one:
            form = "preset or a list of presets" if hook == "register_presets" else "class or a list of classes"
            raise PluginError(f"{where} returned {returned!r}; it must return a {form}")
        yield implementation.plugin_name, where, items


def _check_base(where: str, item: Any, base: type[Component]) -> None:
    if not (isinstance(item, type) and issubclass(item, base)):
        raise PluginError(
            f"{where} returned {item!r}, which is not a subclass of peftkit.{base.__name__}{_hint(item, base)}"
        )


def _hint(item: object, base: type[Component]) -> str:
    if isinstance(item, base):
        return "; return the class itself"
    if isinstance(item, Preset):
        return "; register it with register_presets"
    kinds = [kind for kind, other in BASE_CLASSES.items() if isinstance(item, type) and issubclass(item, other)]
    return f"; register it with register_{kinds[0]}s" if kinds else ""
