"""Loads and checks plugins, and registers their components and presets with the distribution they come from."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Any, cast

import pluggy

from peftkit import hookspecs
from peftkit.components import Component, Method, Preset
from peftkit.components.component import LazyComponent
from peftkit.components.preset import preset_class
from peftkit.distributed.environment_variables import is_main_process
from peftkit.errors import PluginError, comma_separated, did_you_mean, summarize_error
from peftkit.garbage_collection import paused_gc
from peftkit.plugins.class_checks import check_class, check_name, check_options, component_name, describe_class_error
from peftkit.plugins.entry_points import BUILTIN_DISTRIBUTION, distribution_of, licence_of, select_plugins
from peftkit.plugins.registry import BASE_CLASSES, Entry, Kind, PluginFailure, Registry

log = logging.getLogger("peftkit.plugins")

HOOKS = (*(f"register_{kind}s" for kind in BASE_CLASSES), "register_presets")


@dataclass(frozen=True, slots=True)
class Plugin:
    """An installed plugin.

    Attributes:
        name: The names of its distribution and entry point, such as ``peftkit-energy:energy``.
        distribution: The name of the distribution.
        version: The version of the distribution.
        licence: The licence in the distribution's metadata; empty if there is none.
        failures: What of it cannot be used, and why.
        is_excluded: Whether ``PEFTKIT_PLUGINS`` excludes it.
        entries: Its components and presets.
        unavailable: By the name of each of its presets whose method is not installed, the name of that method.
    """

    name: str
    distribution: str
    version: str
    licence: str
    failures: tuple[PluginFailure, ...] = ()
    is_excluded: bool = False
    entries: tuple[Entry, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)


def load_registry(only: str | None = None, points: Iterable[EntryPoint] | None = None) -> Registry:
    """Load the plugins of the entry-point group ``peftkit``.

    What is invalid is left out: a plugin that cannot be imported, a hook that is misspelled or raises, a class that
    does not pass its checks, a name that is registered twice. A warning is logged, and a recipe that names it is
    rejected with the reason.

    Args:
        only: Names of distributions or entry points, separated by commas. Only these are loaded beside the built-in
            components. The default is the environment variable ``PEFTKIT_PLUGINS``; if it is unset, all are loaded.
        points: The entry points to load, instead of the installed ones.

    Returns:
        The registered components, and what cannot be used.

    Raises:
        InputError: ``only`` names a plugin that is not installed.
    """
    selected, excluded = select_plugins(points, only)
    with paused_gc():
        registry = _Loader(selected).registry([name for name, _ in excluded])
    if is_main_process():
        for failure in registry.failures:
            _warn(failure)
    return registry


@cache
def _warn(failure: PluginFailure) -> None:
    """Log a failure once."""
    log.warning("%s", failure)


def list_plugins(only: str | None = None, points: Iterable[EntryPoint] | None = None) -> list[Plugin]:
    """Return the installed plugins, including those that ``load_registry`` excludes or that cannot be used.

    Args:
        only: As for ``load_registry``.
        points: As for ``load_registry``.

    Returns:
        The plugins, sorted by name.

    Raises:
        InputError: ``only`` names a plugin that is not installed.
    """
    selected, excluded = select_plugins(points, only)
    loader = _Loader(selected)
    registry = loader.registry([])
    plugins = [Plugin(name, *distribution_of(p), licence_of(p), is_excluded=True) for name, p in excluded]
    for name, point in selected:
        failures = tuple(failure for failure in registry.failures if failure.plugin == name)
        entries = tuple(entry for entry in registry.entries if entry.plugin == name)
        unavailable = loader.unavailable.get(name, {})
        plugin = Plugin(name, *distribution_of(point), licence_of(point), failures, False, entries, unavailable)
        plugins.append(plugin)
    return sorted(plugins, key=lambda plugin: plugin.name)


class _Loader:
    """Imports plugins, calls their hooks, and collects their components, presets and failures.

    Args:
        selected: The entry points with their names.
    """

    def __init__(self, selected: Sequence[tuple[str, EntryPoint]]) -> None:
        self.failures: list[PluginFailure] = []
        self.versions: dict[str, tuple[str, str]] = {}
        self.entries: dict[tuple[Kind, str], list[Entry]] = {}  # those that have a name
        self.unavailable: dict[str, dict[str, str]] = {}
        self._managers: dict[str, pluggy.PluginManager] = {}
        self._names: dict[int, str] = {}
        for name, point in selected:
            try:
                self._managers[name] = self._import(name, point)
                self.versions[name] = distribution_of(point)
            except PluginError as error:
                self.failures.append(PluginFailure(name, str(error)))
        for kind in BASE_CLASSES:
            self._add_components(kind)
        self._add_presets()
        for key in self.entries:
            self._report_duplicates(*key)

    def registry(self, excluded: Sequence[str]) -> Registry:
        """Return what was loaded.

        Args:
            excluded: The plugins that were not.
        """
        order = list(BASE_CLASSES)
        chosen = {key: _choose(entries) for key, entries in self.entries.items()}
        entries = [entry for entry in chosen.values() if entry]
        unavailable = {name: method for presets in self.unavailable.values() for name, method in presets.items()}
        return Registry(
            tuple(sorted(entries, key=lambda entry: (order.index(entry.kind), entry.name))),
            tuple(dict.fromkeys(self.failures)),
            MappingProxyType(dict(sorted(self.versions.values()))),
            tuple(excluded),
            MappingProxyType(unavailable),
        )

    def _import(self, name: str, point: EntryPoint) -> pluggy.PluginManager:
        """Import a plugin and find its hooks.

        Raises:
            PluginError: It cannot be imported or is not valid.
        """
        try:
            module = point.load()
        except (Exception, SystemExit) as error:  # any error: recipes that do not need the plugin must run
            raise PluginError(describe_class_error(error) or summarize_error(error)) from error
        if first := self._names.get(id(module)):
            raise PluginError(f"it is the same module as the plugin {first}; exclude one with PEFTKIT_PLUGINS")
        self._names[id(module)] = name
        manager = pluggy.PluginManager("peftkit")
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(module, name)
            manager.check_pending()  # else misspelled hooks would be ignored
        except (pluggy.PluginValidationError, TypeError, ValueError) as error:
            guess = re.search(r"unknown hook '(\w+)'", str(error))
            near = did_you_mean(guess[1], HOOKS) if guess else ""
            raise PluginError(f"{summarize_error(error)}{near}") from error
        if not manager.get_hookcallers(module):
            raise PluginError(
                "it implements no hook; its entry point must name a module with one of "
                f"{comma_separated(HOOKS)}, under @hookimpl"
            )
        return manager

    def _call_hook(self, hook: str, part: str) -> Iterator[tuple[str, Any]]:
        """Yield what the plugins return, each item with the plugin's name."""
        for plugin, manager in sorted(self._managers.items()):
            for implementation in getattr(manager.hook, hook).get_hookimpls():
                try:
                    items = _as_list(implementation.function(), hook)
                except PluginError as error:
                    self.failures.append(PluginFailure(plugin, str(error), part))
                except (Exception, SystemExit) as error:
                    self.failures.append(PluginFailure(plugin, f"{hook} failed: {summarize_error(error)}", part))
                else:
                    yield from ((plugin, item) for item in items)

    def _add_components(self, kind: Kind) -> None:
        hook = f"register_{kind}s"
        for plugin, item in self._call_hook(hook, f"the {kind}s"):
            part, component = f"a {kind}", None
            try:
                if isinstance(item, LazyComponent):
                    name = item.name
                else:
                    _check_base(hook, item, BASE_CLASSES[kind])
                    name = component_name(item.__name__, item)
                part, component = f"the {kind} {name!r}", (kind, name)
                entry = Entry(kind, name, item, *self.versions[plugin], plugin)
                _check_entry(entry)
            except PluginError as error:
                self.failures.append(PluginFailure(plugin, str(error), part, component))
            else:
                self.entries.setdefault((kind, name), []).append(entry)

    def _add_presets(self) -> None:
        """Add the classes of presets to the methods."""
        chosen = {name: _choose(entries) for (kind, name), entries in self.entries.items() if kind == "method"}
        methods = {name: entry for name, entry in chosen.items() if entry}
        for plugin, preset in self._call_hook("register_presets", "the presets"):
            part, component = "a preset", None
            try:
                _check_preset(preset)
                part, component = f"the preset {preset.name!r}", ("method", preset.name)
                if preset.method not in methods:
                    self.unavailable.setdefault(plugin, {})[preset.name] = preset.method
                    continue
                build = partial(_build_preset, preset, methods[preset.method])
                lazy = LazyComponent(preset.name, preset.description, build, preset)
                entry = Entry("method", preset.name, lazy, *self.versions[plugin], plugin)
                _check_entry(entry)
            except PluginError as error:
                self.failures.append(
                    PluginFailure(plugin, str(error), part, cast("tuple[Kind, str] | None", component))
                )
            else:
                self.entries.setdefault(("method", preset.name), []).append(entry)

    def _report_duplicates(self, kind: Kind, name: str) -> None:
        entries = self.entries[kind, name]
        if len(entries) == 1 or _overriding(entries):
            return
        for entry in [entry for entry in entries if not _is_built_in(entry)] or entries:
            others = dict.fromkeys(other.distribution for other in entries if other is not entry)
            error = f"{comma_separated([*others])} registers this name too; uninstall one, or exclude it with "
            if entry.distribution in others:
                error = "it is registered twice; remove one, or exclude it with "
            part = f"the {'preset' if entry.preset else kind} {name!r}"
            self.failures.append(PluginFailure(entry.plugin, f"{error}PEFTKIT_PLUGINS", part, (kind, name)))


def _build_preset(preset: Preset, method: Entry) -> type[Component]:
    return preset_class(preset, cast("type[Method]", method.component))


def _choose(entries: Sequence[Entry]) -> Entry | None:
    """Return the component that has a name; None if it is registered twice."""
    if len(entries) == 1:
        return entries[0]
    built_in = [entry for entry in entries if _is_built_in(entry)]
    if built_in and built_in[0].kind == "meter":  # all runs have it, so that a plugin must not take it away
        return built_in[0]
    return _overriding(entries)


def _overriding(entries: Sequence[Entry]) -> Entry | None:
    """Return the component that replaces an overridable built-in one; None if it is not the only one."""
    others = [entry for entry in entries if not _is_built_in(entry)]
    overridable = [entry for entry in entries if _is_built_in(entry) and entry.component.overridable]
    return others[0] if len(entries) == 2 and len(others) == len(overridable) == 1 else None


def _is_built_in(entry: Entry) -> bool:
    return entry.distribution == BUILTIN_DISTRIBUTION


def _as_list(returned: Any, hook: str) -> list[Any]:
    is_one = isinstance(returned, type | Component | Preset)
    if isinstance(returned, Iterable) and not isinstance(returned, type | str | Component):
        return list(returned)
    if not is_one:
        form = "preset or a list of presets" if hook == "register_presets" else "class or a list of classes"
        raise PluginError(f"{hook} returned {returned!r}; it must return a {form}")
    return [returned]


def _check_entry(entry: Entry) -> None:
    if _is_built_in(entry):  # they have a test, since this takes longer than importing them
        return
    label = f"the preset {entry.name!r}" if entry.preset else entry.component.__name__
    check_class(label, entry.component)
    check_options(label, entry.component)


def _check_preset(preset: Any) -> None:
    if not isinstance(preset, Preset):
        raise PluginError(f"register_presets returned {preset!r}, which is not a peftkit.Preset")
    check_name("the preset", preset.name)
    texts = {key: getattr(preset, key) for key in ("method", "summary", "paper")}
    if missing := [key for key, text in texts.items() if not isinstance(text, str) or not text.strip()]:
        raise PluginError(f"it must have a text for {comma_separated(missing)}")


def _check_base(hook: str, item: Any, base: type[Component]) -> None:
    if not (isinstance(item, type) and issubclass(item, base)):
        raise PluginError(
            f"{hook} returned {item!r}, which is not a subclass of peftkit.{base.__name__}{_hint(item, base)}"
        )


def _hint(item: object, base: type[Component]) -> str:
    if isinstance(item, base):
        return "; return the class itself"
    if isinstance(item, Preset):
        return "; register it with register_presets"
    kinds = [kind for kind, other in BASE_CLASSES.items() if isinstance(item, type) and issubclass(item, other)]
    return f"; register it with register_{kinds[0]}s" if kinds else ""
