"""Writes the table of suites in docs/tasks.md from the tasks.

python scripts/documents/suite_table.py            # print the table
python scripts/documents/suite_table.py --write    # write it to docs/tasks.md
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftkit.tasks.hub_suites import SUITES, suite_tasks

DOCUMENT = Path(__file__).parents[2] / "docs" / "tasks.md"
BEGIN, END = "<!-- table: scripts/documents/suite_table.py --write -->\n", "<!-- end of table -->\n"
HEAD = "| task | rows of the published splits | prompt | selection metric |\n|---|---|---|---|\n"


def rows() -> Iterator[str]:
    """A line for each dataset; those of a suite that differ in nothing that is shown share one."""
    for suite, lazy in zip(SUITES, suite_tasks(), strict=True):
        registered = lazy.component
        cells: dict[tuple[str, ...], list[str]] = {}
        for subset, each in suite.sets.items():
            task: Any = registered.class_for({"subset": subset})
            prompt = each.template.replace(" to German", " to …") if suite.name == "opus_100" else each.template
            prompt = re.sub(r"translate English to \w+:", "translate English to …:", prompt)
            prompt = "`{}`".format(prompt.replace("\n", "\\n")) if prompt else "the text alone"
            sizes = ", ".join(f"{split} {number:,}" for split, number in each.sizes.items()) or "not checked"
            cells.setdefault((sizes, prompt, f"`{task.selection_metric}`"), []).append(subset)
        for first, (shown, subsets) in zip([True, *[False] * len(cells)], cells.items(), strict=False):
            names = ", ".join(f"`{subset}`" for subset in subsets if subset)
            label = f"`{suite.name}`" if first else "…"
            yield f"| {label}{', ' if names else ''}{names} | {' | '.join(shown)} |"


def notes() -> Iterator[str]:
    """A line for each suite: where the data come from, its splits and its licence."""
    for suite, lazy in zip(SUITES, suite_tasks(), strict=True):
        task: Any = lazy.component
        link = f"[{suite.paper}](https://huggingface.co/datasets/{task.hub_id})"
        yield f"* `{suite.name}` ({link}): {suite.note} Licence: {suite.licence}."


def table() -> str:
    """The table and the notes below it."""
    return "\n".join([HEAD + "\n".join(rows()), "", *notes(), ""])


def with_table(document: str) -> str:
    """Replace the table in the document."""
    return re.sub(f"(?<={BEGIN}).*(?={END})", lambda _: table(), document, flags=re.DOTALL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table to docs/tasks.md")
    if parser.parse_args().write:
        DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table(), end="")
