"""Finds, loads and checks plugins, and registers their components and presets with the distribution they come from."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Literal, cast, get_args, get_origin

import pluggy

from peftkit import hookspecs
from peftkit.components import Callback, Component, Meter, Method, Metric, Preset, Task, TaskKind
from peftkit.components.method_names import find_left_out, suggest_method
from peftkit.components.preset import preset_class
from peftkit.errors import InputError, PluginError, closest, comma_separated, did_you_mean, summarize_error

GROUP = "peftkit"
BUILTIN_DISTRIBUTION = "peftkit"
"""The distribution of the built-in components, which is loaded whatever ``PEFTKIT_PLUGINS`` is."""

Kind = Literal["method", "task", "metric", "meter", "callback"]
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
    "metric": Metric,
    "meter": Meter,
    "callback": Callback,
}
NAME = re.compile(r"[a-z][a-z0-9_]*")
"""The form of component names."""
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
            kind: ``method``, ``task``, ``metric``, ``meter`` or ``callback``.
            presets: Whether methods include presets.

        Returns:
            The entries by name.
        """
        return MappingProxyType({e.name: e for e in self.entries if e.kind == kind and (presets or not e.preset)})

    def find(self, kind: Kind, name: str) -> Entry:
        """Returns the component with a kind and name.

        Args:
            kind: ``method``, ``task``, ``metric``, ``meter`` or ``callback``.
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
            if guess := suggest_method(name, methods):
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
    if only is None:
        only = os.environ.get("PEFTKIT_PLUGINS")
    manager = pluggy.PluginManager("peftkit")
    manager.add_hookspecs(hookspecs)
    failures: list[Failure] = []
    versions: dict[str, tuple[str, str]] = {}
    selected, left_out = _select_plugins(points if points is not None else entry_points(group=GROUP), only)
    for name, point in selected:
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:  # any error: recipes that do not need the plugin must run
            failures.append(Failure(name, summarize_error(error)))
            continue
        _register(manager, plugin, name)
        versions[name] = _distribution(point)
    components = {kind: _entries(manager, kind, versions) for kind in BASE_CLASSES}
    unavailable = _add_presets(manager, components["method"], versions)
    entries = [entry for kind in BASE_CLASSES for _, entry in sorted(components[kind].items())]
    distributions = MappingProxyType(dict(sorted(versions.values())))
    return Registry(tuple(entries), tuple(failures), distributions, left_out, MappingProxyType(unavailable))


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name or "unknown", point.dist.version or "0") if point.dist else ("unknown", "0")


def _select_plugins(
    points: Iterable[EntryPoint], only: str | None
) -> tuple[list[tuple[str, EntryPoint]], tuple[str, ...]]:
    """Return the selected entry points, sorted by ``distribution:name``, and the names of the others."""
    installed: dict[str, EntryPoint] = {}
    for point in points:  # of duplicates the first, which is the one that Python imports
        installed.setdefault(f"{_distribution(point)[0]}:{point.name}", point)
    if only is None:
        return sorted(installed.items()), ()
    wanted = {_canonical_name(word): word.strip() for word in only.split(",") if word.strip()}
    aliases = {name: {_canonical_name(part) for part in (name, *name.split(":"))} for name in installed}
    known = {alias for each in aliases.values() for alias in each}
    if missing := [word for name, word in wanted.items() if name not in known]:
        text = ", ".join(f"{word!r}{did_you_mean(word, known)}" for word in missing)
        raise InputError(f"PEFTKIT_PLUGINS: not installed: {text}; installed: {comma_separated(sorted(installed))}")
    wanted_names = {*wanted, _canonical_name(BUILTIN_DISTRIBUTION)}
    selected = [name for name in sorted(installed) if aliases[name] & wanted_names]
    return [(name, installed[name]) for name in selected], tuple(sorted(installed.keys() - selected))


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


def _entries(manager: pluggy.PluginManager, kind: Kind, versions: Mapping[str, tuple[str, str]]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for plugin, where, components in _call_hook(manager, f"register_{kind}s"):
        for component in components:
            _check_class(where, component, BASE_CLASSES[kind])
            name = _component_name(f"{plugin}: {component.__name__}", component)
            _check_attributes(f"{plugin}: {component.__name__}", component)
            _add(entries, Entry(kind, name, component, *versions[plugin]), plugin)
    return entries


def _add_presets(
    manager: pluggy.PluginManager, methods: dict[str, Entry], versions: Mapping[str, tuple[str, str]]
) -> dict[str, str]:
    """Add the classes of presets to the methods; return the others with the method that each lacks."""
    bases, unavailable = dict(methods), {}
    for plugin, where, presets in _call_hook(manager, "register_presets"):
        for preset in presets:
            if not isinstance(preset, Preset):
                raise PluginError(f"{where} returned {preset!r}, which is not a peftkit.Preset")
            label = f"{plugin}: the preset {preset.name!r}"
            _check_name(label, preset.name)
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
            _add(methods, Entry("method", preset.name, component, *versions[plugin]), plugin)
    return unavailable


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
            is_list = isinstance(returned, Iterable) and not isinstance(returned, type | str | Component)
            items = list(returned) if is_list else []
        except (Exception, SystemExit) as error:
            raise PluginError(f"{where} failed: {summarize_error(error)}") from error
        if not is_list:
            what = "presets" if hook == "register_presets" else "classes"
            raise PluginError(f"{where} returned {returned!r}; it must return a list of {what}")
        yield implementation.plugin_name, where, items


def _check_class(where: str, item: Any, base: type[Component]) -> None:
    if not (isinstance(item, type) and issubclass(item, base)):
        hint = "; return the class itself" if isinstance(item, base) else ""
        raise PluginError(f"{where} returned {item!r}, which is not a subclass of peftkit.{base.__name__}{hint}")


def _component_name(where: str, component: type[Component]) -> str:
    annotation = component.model_fields["name"].annotation
    name = component.model_fields["name"].default
    if get_origin(annotation) is not Literal or get_args(annotation) != (name,):
        raise PluginError(f'{where} must declare its name as: name: Literal["x"] = "x"')
    _check_name(where, name)
    return str(name)


def _check_name(where: str, name: Any) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise PluginError(f"{where} has the name {name!r}; names have lower-case letters, digits and underscores")


def _check_attributes(where: str, component: type[Component]) -> None:
    """Check the class attributes, so that errors do not wait for a recipe that uses the class."""
    kinds = get_args(TaskKind)
    rules: list[tuple[str, str, Callable[[Any], bool]]] = []
    if issubclass(component, Task):
        rules += [
            ("kind", f"one of {comma_separated(kinds)}", lambda v: v in kinds),
            ("metrics", "a tuple of the names of metrics", _are_texts),
            ("selection_metric", "the name of a metric's value", lambda v: isinstance(v, str)),
        ]
    if issubclass(component, Metric):
        rules += [
            ("kinds", f"a tuple of {comma_separated(kinds)}", lambda v: _are_texts(v) and set(v) <= set(kinds)),
            ("values", "a tuple of texts", _are_texts),
        ]
    for attribute, form, is_valid in rules:
        value = getattr(component, attribute, None)
        if attribute in component.model_fields or not is_valid(value):
            raise PluginError(f"{where} must have the class attribute (not an option) {attribute}: {form}")


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(v, str) for v in value)
