"""Changes to the files of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftkit.verify import Verification

SUMMARY = "summary.json"


def in_json(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Changes a JSON file."""

    def changed(path: Path) -> None:
        document = json.loads((path / name).read_text())
        change(document)
        (path / name).write_text(json.dumps(document))

    return changed


def in_lines(name: str, line: int, change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Changes one line of a file of JSON objects."""

    def changed(path: Path) -> None:
        rows = [json.loads(each) for each in (path / name).read_text().splitlines()]
        change(rows[line])
        (path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    return changed


def set_to(*keys: str, to: Any) -> Callable[[Any], None]:
    """Sets an inner value; a function gets the current value."""

    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = to(document[keys[-1]]) if callable(to) else to

    return change


def names(verification: Verification) -> list[tuple[str, str]]:
    return [(check.group, check.name) for check in verification.with_status("differs")]
