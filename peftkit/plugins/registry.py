"""The installed components, and why others are missing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from peftkit.components import Callback, Component, Meter, Method, Metric, Objective, Preset, Task
from peftkit.components.component import LazyComponent
from peftkit.components.method_suggestions import find_left_out, find_typo, suggest_method
from peftkit.errors import PluginError, closest, comma_separated

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
"""Methods of peftkit's own plugins, for a hint where the plugin is not installed."""
FIRST_PARTY_OTHERS: Mapping[Kind, Mapping[str, str]] = {
    "task": dict.fromkeys(("preference_pairs", "unpaired_preference"), "peftkit-preference"),
    "objective": dict.fromkeys(("dpo", "kto", "simpo"), "peftkit-preference"),
    "metric": dict.fromkeys(("logps_accuracy", "reward_accuracy", "reward_auc", "reward_margin"), "peftkit-preference"),
    "meter": {"energy": "peftkit-energy"},
}
"""Other components of these plugins."""

BASE_CLASSES: Mapping[Kind, type[Component]] = {
    "method": Method,
    "task": Task,
    "objective": Objective,
    "metric": Metric,
    "meter": Meter,
    "callback": Callback,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered component class and where it comes from."""

    kind: Kind
    name: str
    source: type[Component] | LazyComponent
    distribution: str
    version: str
    plugin: str = ""
    """The names of the distribution and the entry point."""

    @property
    def component(self) -> type[Component]:
        """The class."""
        return self.source.component if isinstance(self.source, LazyComponent) else self.source

    @property
    def summary(self) -> str:
        """The first paragraph of the class's docstring, on one line."""
        lazy = isinstance(self.source, LazyComponent)
        text = self.source.summary if lazy else inspect.getdoc(self.source)  # type: ignore[union-attr]
        return " ".join((text or "").split("\n\n")[0].split())

    @property
    def preset(self) -> Preset | None:
        """The preset, if the component is one."""
        if isinstance(self.source, LazyComponent):
            return self.source.preset
        return self.source.preset if issubclass(self.source, Method) else None


@dataclass(frozen=True, slots=True)
class PluginFailure:
    """A plugin or component that cannot be used; a recipe that needs it is rejected.

    Attributes:
        plugin: The names of its distribution and entry point, such as ``peftkit-energy:energy``.
        error: Why it cannot be used.
        part: The part of the plugin that cannot be used, such as ``the method 'x'``; empty for the whole plugin.
        component: The kind and name of a component that recipes can name; None if it is not known.
    """

    plugin: str
    error: str
    part: str = ""
    component: tuple[Kind, str] | None = None

    def __str__(self) -> str:
        """What cannot be used, and why."""
        part = f"{self.part} of " if self.part else ""
        return f"{part}the plugin {self.plugin} cannot be used: {self.error}"

    def as_json(self) -> dict[str, Any]:
        """Return the values of a JSON document, with the kind and name of the component, or null."""
        kind, name = self.component or (None, None)
        return {"plugin": self.plugin, "error": self.error, "kind": kind, "name": name}


@dataclass(frozen=True, slots=True)
class Registry:
    """The installed components, sorted by kind and name."""

    entries: tuple[Entry, ...]
    failures: tuple[PluginFailure, ...] = ()
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
            PluginError: There is none. The message has a similar name and why it may be missing, or lists the installed
                components.
        """
        known = self.all(kind)
        if name in known:
            return known[name]
        if failures := [str(failure) for failure in self.failures if failure.component == (kind, name)]:
            raise PluginError("; ".join(failures))
        guess, reasons = self.suggest(name, kind), self.why_missing(name, kind)
        text = f"no {kind} is called {name!r}{guess}"
        if kind == "method" and (guess or self._explain(name)):  # it is none of the sixty
            raise PluginError(f"{text}{reasons}; to list all, run: peftkit list methods")
        raise PluginError(f"{text}; installed: {comma_separated(list(known))}{reasons}")

    def suggest(self, name: str, kind: Kind | None = None) -> str:
        """Returns a suggestion for an unknown name: by meaning for a method, by spelling for others.

        Args:
            name: The unknown name.
            kind: The kind of component; by default any.

        Returns:
            `` (did you mean 'x'?)``, where x may be in a plugin that is not installed; empty if none is similar.
        """
        guess = self._guess(name, kind)
        if guess and kind in (None, "method") and find_left_out(name):
            return f" (the closest is {guess!r})"
        return f" (did you mean {guess!r}?)" if guess else ""

    def _guess(self, name: str, kind: Kind | None) -> str:
        entries = [entry for entry in self.entries if kind in (None, entry.kind)]
        if kind in (None, "method"):
            if name in FIRST_PARTY or name in self.unavailable:  # it is the right name
                return ""
            methods = {e.name: e.component.also_called for e in entries if issubclass(e.component, Method)}
            known = {**dict.fromkeys(FIRST_PARTY, ()), **methods}
            guess = suggest_method(name, known) or find_typo(name, known)
            if guess or find_left_out(name):
                return guess
        others = [each for k in FIRST_PARTY_OTHERS if kind in (None, k) for each in FIRST_PARTY_OTHERS[k]]
        if name in others:
            return ""
        return closest(name, [*(entry.name for entry in entries if entry.kind != "method"), *others])

    def why_missing(self, name: str, kind: Kind | None = None) -> str:
        """Returns why a name may not be registered.

        Args:
            name: The name in a recipe.
            kind: The kind of component; by default any.

        Returns:
            Reasons that begin with ``; ``, or an empty text if there are none.
        """
        reasons = self._explain(name) if kind in (None, "method") else []
        reasons += self._explain_other(name, kind)
        reasons += [str(each) for each in self.failures if each.component is None or each.component[1] == name]
        if self.excluded:
            reasons.append(f"PEFTKIT_PLUGINS excludes {comma_separated(self.excluded)}")
        return "".join(f"; {reason}" for reason in reasons)

    def _explain_other(self, name: str, kind: Kind | None) -> list[str]:
        """Returns which distribution has a component that is no method, or one with a similar name."""
        guess = self._guess(name, kind)
        for each, names in FIRST_PARTY_OTHERS.items():
            for wanted, subject in ((name, "it"), (guess, repr(guess))):
                distribution = names.get(wanted) if kind in (None, each) else None
                if distribution and distribution not in self.distributions:
                    return [f"{subject} is in the distribution {distribution}"]
        return []

    def _explain(self, name: str) -> list[str]:
        """Returns what is known of the name of a method that is not installed."""
        reasons = []
        if left_out := find_left_out(name):
            reasons.append(left_out[1])
        method = self.unavailable.get(name)
        if method:
            reasons.append(f"it is a preset of {method}, which is not installed")
        guess = self._guess(name, "method")
        for wanted, subject in ((name, "it"), (method, method), (guess, repr(guess))):
            if (distribution := FIRST_PARTY.get(wanted or "")) and distribution not in self.distributions:
                reasons.append(f"{subject} is in the distribution {distribution}")
        return reasons
