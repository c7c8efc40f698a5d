"""The components of checks: the built-in ones and those under test, whatever else is installed."""

from __future__ import annotations

from collections.abc import Iterator

from peftkit.components import Component, Objective, Task
from peftkit.plugins import BASE_CLASSES, Entry, Registry, load_registry
from peftkit.plugins.entry_points import BUILTIN_DISTRIBUTION


def registry_of(*components: Component) -> Registry:
    """Return the built-in components, the classes of some components, and what tasks among them need.

    Other installed plugins have no part in a check: a meter or an objective of theirs could change its result.

    Args:
        *components: The components; they replace built-in ones of the same names.

    Returns:
        The components. Of other plugins, it has the metrics that a task names and the objectives for its kind, if it
        has a kind of its own.
    """
    built_in = load_registry("")
    entries = {(entry.kind, entry.name): entry for entry in built_in.entries}
    for component in components:
        kind = next(kind for kind, base in BASE_CLASSES.items() if isinstance(component, base))
        entries[kind, component.name] = Entry(kind, component.name, type(component), BUILTIN_DISTRIBUTION, "0")
    for task in components:
        if isinstance(task, Task):
            entries |= {(entry.kind, entry.name): entry for entry in _needed(task, Registry(tuple(entries.values())))}
    return Registry(tuple(entries.values()), distributions=built_in.distributions)


def _needed(task: Task, registry: Registry) -> Iterator[Entry]:
    """Yield the installed components without which a task cannot run."""
    missing = [name for name in task.metrics if name not in registry.all("metric")]
    has_objective = any(_is_for(entry, task) for entry in registry.all("objective").values())
    if missing or not has_objective:
        installed = load_registry()
        yield from (entry for name, entry in installed.all("metric").items() if name in missing)
        objectives = installed.all("objective").values()
        yield from (entry for entry in objectives if not has_objective and _is_for(entry, task))


def _is_for(entry: Entry, task: Task) -> bool:
    return issubclass(entry.component, Objective) and entry.component.task_kind == task.kind
