"""Draws the picture of docs/architecture.md from the imports of the packages.

    python scripts/architecture_picture.py            # print the Mermaid diagram
    python scripts/architecture_picture.py --write    # write it to docs/architecture.md

An arrow means "imports". Arrows that follow from longer paths are left out, so that the picture stays readable;
``lint-imports`` checks all of them.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import grimp

DOCUMENT = Path(__file__).parents[1] / "docs" / "architecture.md"
BEGIN, END = "<!-- picture: scripts/architecture_picture.py --write -->\n", "<!-- end of picture -->\n"
LEFT_OUT = {"__main__", "errors"}
"""The entry point, and the errors, which every package imports."""


def imports_of_packages() -> dict[str, set[str]]:
    """The top-level packages and modules that each of them imports."""
    graph = grimp.build_graph("peftkit", exclude_type_checking_imports=True)
    top = {module.split(".")[1] for module in graph.modules if "." in module} - LEFT_OUT
    imports: dict[str, set[str]] = {name: set() for name in top}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            if "." in module and "." in imported:
                one, other = module.split(".")[1], imported.split(".")[1]
                if one != other and {one, other} <= top:
                    imports[one].add(other)
    return imports


def without_shortcuts(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """Transitive reduction: leave out arrows between packages that a longer path connects."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for name in imports[todo.pop()] - seen:
                seen.add(name)
                todo.append(name)
        return seen

    below = {name: reachable(name) for name in imports}
    return {
        name: {other for other in others if not any(other in below[third] for third in others - {other})}
        for name, others in imports.items()
    }


def draw() -> str:
    """The picture as a Mermaid diagram."""
    arrows = without_shortcuts(imports_of_packages())
    lines = ["```mermaid", "flowchart TD"]
    lines += [f"    {one} --> {other}" for one in sorted(arrows) for other in sorted(arrows[one])]
    return "\n".join([*lines, "```", ""])


def with_picture(document: str) -> str:
    """Replace the picture in the document."""
    return re.sub(f"(?<={BEGIN}).*(?={END})", lambda _: draw(), document, flags=re.DOTALL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the picture to docs/architecture.md")
    if parser.parse_args().write:
        DOCUMENT.write_text(with_picture(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(draw(), end="")
