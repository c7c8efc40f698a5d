"""Reads and writes the JSON of run directories: errors name the file, and NaN becomes null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftkit.errors import InputError


def to_json(value: Mapping[str, Any], indent: int | None = None, *, escape: bool = False) -> str:
    """Write an object as JSON; NaN and infinity, which JSON lacks, become null.

    Args:
        value: The object.
        indent: Spaces per level; None for a single line.
        escape: Whether to escape characters that ASCII lacks.

    Returns:
        The text.
    """
    return json.dumps(_finite(value), indent=indent, ensure_ascii=escape, allow_nan=False)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def read_json_lines(path: Path) -> list[Any]:
    """Read a file with one JSON value per line.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
