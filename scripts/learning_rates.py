"""Writes the tables of docs/learning-rates.md from what the methods declare: python scripts/learning_rates.py

Of the plugins in this repository too, whose libraries need not be installed.
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

from peftkit import Between, Method, search_space  # noqa: E402 - of this tree

PAGE = ROOT / "docs" / "learning-rates.md"
KEY = "train.learning_rate"
MODULES = {"peftkit": "peftkit.methods", **{plugin: plugin.replace("-", "_") for plugin in PLUGINS}}
FAMILIES = ("WEIGHTS", "ROTATIONS", "MATRICES", "VECTORS", "SCALES", "PROMPTS")


def methods(distribution: str) -> Sequence[type[Method]]:
    """The methods that a distribution of this repository registers."""
    found: Sequence[type[Method]] = import_module(MODULES[distribution]).register_methods()
    return found


def name_of(method: type[Method]) -> str:
    return str(method.model_fields["name"].default)


def number(value: float) -> str:
    """A learning rate as people write it: 1e-5, 0.0003, 0.1."""
    return f"{value:g}".replace("e-0", "e-")


def span(of: Between) -> str:
    return f"{number(of.low)} – {number(of.high)}"


def range_of(method: type[Method]) -> Between:
    of = method.search[KEY]
    assert isinstance(of, Between)
    return of


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))


def families() -> str:
    """Each range with the methods that are tuned over it."""
    every = sorted(chain.from_iterable(methods(distribution) for distribution in MODULES), key=name_of)
    rows = []
    for family in FAMILIES:
        of = getattr(search_space, family)[KEY]
        rows.append((f"`{family}`", span(of), ", ".join(f"`{name_of(m)}`" for m in every if range_of(m) == of)))
    return table(("range", "learning rates", "methods"), rows)


def sources(distribution: str) -> str:
    """The methods of a distribution with the learning rates that they were published with."""

    def rows() -> Iterator[Sequence[str]]:
        for method in methods(distribution):
            first = (f"`{name_of(method)}`", span(range_of(method)))
            for each in method.published_rates:
                yield *first, ", ".join(map(number, each.rates)), each.optimizer or "not stated", each.source
                first = ("", "")

    return table(("method", "search range", "published", "optimizer", "source"), rows())


def tables() -> dict[str, str]:
    """The tables by the names of their places in the page."""
    return {"ranges": families(), **{distribution: sources(distribution) for distribution in MODULES}}


def filled(page: str) -> str:
    """The page with its tables made anew."""
    for name, text in tables().items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert place.search(page), f"{PAGE.name} has no place for the table {name!r}"
        page = place.sub(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page)  # type: ignore[misc]
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
