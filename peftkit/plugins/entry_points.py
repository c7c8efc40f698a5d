"""Finds the entry points of plugins, and selects them by ``PEFTKIT_PLUGINS``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, entry_points

from peftkit.errors import InputError, comma_separated, did_you_mean

GROUP = "peftkit"
BUILTIN_DISTRIBUTION = "peftkit"
"""The distribution of the built-in components, which is loaded whatever ``PEFTKIT_PLUGINS`` is."""


def distribution_of(point: EntryPoint) -> tuple[str, str]:
    """Return the name and version of an entry point's distribution."""
    return _name_and_version(point.dist) if point.dist else ("unknown", "0")


@lru_cache(maxsize=64)
def _name_and_version(distribution: Distribution) -> tuple[str, str]:
    metadata = distribution.metadata  # a property that parses a file, as are name and version
    return metadata["Name"] or "unknown", metadata["Version"] or "0"


def licence_of(point: EntryPoint) -> str:
    """Return the licence in the metadata of an entry point's distribution: a name, or the first line of a text."""
    metadata = point.dist.metadata if point.dist else None
    if metadata is None:
        return ""
    classifiers = [text.split(" :: ")[-1] for text in metadata.get_all("Classifier", []) if text.startswith("License")]
    named = [metadata[key] for key in ("License-Expression", "License") if key in metadata]
    return next((text.strip().splitlines()[0].strip() for text in [*named, *classifiers] if text.strip()), "")


def select_plugins(
    points: Iterable[EntryPoint] | None, only: str | None
) -> tuple[list[tuple[str, EntryPoint]], list[tuple[str, EntryPoint]]]:
    """Select entry points by the names of distributions or entry points.

    Args:
        points: The entry points to select from; by default the installed ones.
        only: The names, separated by commas; by default those in ``PEFTKIT_PLUGINS``, or all if it is unset.

    Returns:
        The selected entry points with their names, ``distribution:name``, and the excluded ones, both sorted.

    Raises:
        InputError: ``only`` names a plugin that is not installed.
    """
    installed: dict[str, EntryPoint] = {}
    for point in points if points is not None else entry_points(group=GROUP):
        # Of duplicates the first, which is the one that Python imports.
        installed.setdefault(f"{distribution_of(point)[0]}:{point.name}", point)
    if only is None:
        only = os.environ.get("PEFTKIT_PLUGINS")
    if only is None:
        return sorted(installed.items()), []
    wanted = {_canonical_name(word): word.strip() for word in only.split(",") if word.strip()}
    aliases = {name: {_canonical_name(part) for part in (name, *name.split(":"))} for name in installed}
    known = {alias for each in aliases.values() for alias in each}
    if missing := [word for name, word in wanted.items() if name not in known]:
        text = ", ".join(f"{word!r}{did_you_mean(word, known)}" for word in missing)
        raise InputError(f"PEFTKIT_PLUGINS: not installed: {text}; installed: {comma_separated(sorted(installed))}")
    wanted_names = {*wanted, _canonical_name(BUILTIN_DISTRIBUTION)}
    selected = {name for name in installed if aliases[name] & wanted_names}
    parts: tuple[list[tuple[str, EntryPoint]], list[tuple[str, EntryPoint]]] = [], []
    for name, point in sorted(installed.items()):
        parts[name not in selected].append((name, point))
    return parts


def _canonical_name(name: str) -> str:
    """Normalize the name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
