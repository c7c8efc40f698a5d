"""Lists and describes the installed components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from peftkit.api.text_output import html_paragraphs, html_table, text_table
from peftkit.errors import InputError, comma_separated
from peftkit.plugins import Entry, Kind, load_registry

if TYPE_CHECKING:
    import pandas as pd

HEAD = ("name", "distribution", "summary")


@dataclass(frozen=True, repr=False)
class ComponentList(Sequence[str]):
    """The names of components, shown with their descriptions."""

    _entries: tuple[Entry, ...]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> ComponentList: ...
    def __getitem__(self, index: int | slice) -> str | ComponentList:
        return ComponentList(self._entries[index]) if isinstance(index, slice) else self._entries[index].name

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def table(self) -> pd.DataFrame:
        """One row per component."""
        import pandas as pd

        return pd.DataFrame(self._rows(), columns=[*HEAD])

    def _rows(self) -> list[tuple[str, str, str]]:
        return [(entry.name, entry.distribution, entry.summary) for entry in self._entries]

    def __repr__(self) -> str:
        return text_table(HEAD, self._rows())

    def _repr_html_(self) -> str:
        return html_table(HEAD, self._rows())


@dataclass(frozen=True, repr=False)
class ComponentDescription:
    """What a component is, its options, and what it is incompatible with."""

    _entry: Entry

    @property
    def document(self) -> dict[str, Any]:
        """The description as JSON values, with the keys of ``peftkit show --json``."""
        from peftkit.analysis.component_description import describe_component

        return describe_component(self._entry)

    @property
    def options(self) -> pd.DataFrame:
        """One row per option."""
        import pandas as pd

        return pd.DataFrame(self.document["options"])

    def __repr__(self) -> str:
        from peftkit.analysis.component_description import component_page

        return component_page(self._entry)

    def _repr_html_(self) -> str:
        document = self.document
        head = ("option", "type", "default", "description")
        rows = [
            (
                " or ".join([option["name"], *option["aliases"]]),
                option["type"],
                "required" if option["required"] else "" if option["default"] is None else repr(option["default"]),
                option["description"],
            )
            for option in document["options"]
        ]
        title = f"{document['name']} ({document['kind']}, from {document['distribution']} {document['version']})"
        parts = [html_paragraphs([title, *document["description"].split("\n\n")]), html_table(head, rows)]
        return "".join([*parts, html_paragraphs(f"incompatible: {text}" for text in document["incompatibilities"])])


def list_methods() -> ComponentList:
    """List the installed methods."""
    return _list("method")


def list_tasks() -> ComponentList:
    """List the installed tasks."""
    return _list("task")


def list_objectives() -> ComponentList:
    """List the installed objectives."""
    return _list("objective")


def list_metrics() -> ComponentList:
    """List the installed metrics."""
    return _list("metric")


def _list(kind: Kind) -> ComponentList:
    return ComponentList(tuple(load_registry().all(kind).values()))


def describe(name: str, kind: str | None = None) -> ComponentDescription:
    """Describe a component: its options, defaults and incompatibilities.

    Args:
        name: The name in a recipe.
        kind: The kind of component, such as ``method`` or ``task``; None if only one component has the name.

    Returns:
        The description.

    Raises:
        InputError: There is no such component, or several kinds have the name.
    """
    from peftkit.analysis.component_description import find_components

    entries = find_components(name, load_registry())
    kinds = [entry.kind for entry in entries]
    chosen = [entry for entry in entries if kind in (None, entry.kind)]
    if len(chosen) != 1:
        raise InputError(f"{name!r} is the name of a {comma_separated(kinds)}; set kind to one of them")
    return ComponentDescription(chosen[0])
