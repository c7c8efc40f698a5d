"""Writes the tables of docs/learning-rates.md from what the methods declare: python scripts/learning_rates.py

The plugins of this repository are included; their libraries need not be installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ("peftkit-adapters", "peftkit-lora-xs")
sys.path[:0] = [str(ROOT), *(str(ROOT / "plugins" / plugin) for plugin in PLUGINS)]

from peftkit import Method, Range  # noqa: E402 - from this tree
from peftkit.components import search_space  # noqa: E402 - from this tree
from peftkit.components.preset import preset_class  # noqa: E402 - from this tree

PAGE = ROOT / "docs" / "learning-rates.md"
KEY = "train.learning_rate"
MODULES = {"peftkit": "peftkit.methods", **{plugin: plugin.replace("-", "_") for plugin in PLUGINS}}
FAMILIES = ("WEIGHTS", "ROTATIONS", "MATRICES", "VECTORS", "SCALES", "PROMPTS")


def methods(distribution: str) -> Sequence[type[Method]]:
    """The methods and presets that a distribution of this repository registers."""
    module = import_module(MODULES[distribution])
    classes = (getattr(method, "component", method) for method in module.register_methods())
    registered = {name_of(method): method for method in classes}
    presets = getattr(module, "register_presets", list)()
    return [*registered.values(), *(preset_class(preset, registered[preset.method]) for preset in presets)]


def name_of(method: type[Method]) -> str:
    return str(method.model_fields["name"].default)


def format_rate(value: float) -> str:
    """Format a learning rate: 1e-5, 0.0003, 0.1."""
    return f"{value:g}".replace("e-0", "e-")


def format_range(rates: Range) -> str:
    return f"{format_rate(rates.low)} – {format_rate(rates.high)}"


def range_of(method: type[Method]) -> Range:
    rates = method.search_space[KEY]
    assert isinstance(rates, Range)
    return rates


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))


def families() -> str:
    """Each range with the methods that are tuned over it."""
    every = sorted(chain.from_iterable(methods(distribution) for distribution in MODULES), key=name_of)
    rows = []
    for family in FAMILIES:
        rates = getattr(search_space, family)[KEY]
        rows.append(
            (f"`{family}`", format_range(rates), ", ".join(f"`{name_of(m)}`" for m in every if range_of(m) == rates))
        )
    return table(("range", "learning rates", "methods"), rows)


def sources(distribution: str) -> str:
    """The methods of a distribution with their published learning rates."""

    def rows() -> Iterator[Sequence[str]]:
        for method in methods(distribution):
            first = (f"`{name_of(method)}`", format_range(range_of(method)))
            for each in method.published_rates:
                yield *first, ", ".join(map(format_rate, each.rates)), each.optimizer or "not stated", each.source
                first = ("", "")

    return table(("method", "search range", "published", "optimizer", "source"), rows())


def tables() -> dict[str, str]:
    """The tables, by the names of their markers in the page."""
    return {"ranges": families(), **{distribution: sources(distribution) for distribution in MODULES}}


def update(page: str) -> str:
    """Replace the tables of the page."""
    for name, text in tables().items():
        marker = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert marker.search(page), f"{PAGE.name} has no markers for the table {name!r}"
        page = marker.sub(lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}", page)  # type: ignore[misc]
    return page


if __name__ == "__main__":
    PAGE.write_text(update(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
