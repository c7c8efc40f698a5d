"""The verb ``verify``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.compare.gather import run_folders
from peftkit.errors import InputError, listed
from peftkit.plugins import load_registry

if TYPE_CHECKING:
    from peftkit.runner.verification import Check, Verification


def verify_runs(paths: Sequence[str], *, load_model: bool, as_json: bool) -> int:
    """Prints what recomputing the runs gave, each as it is done; 1 where a value differs.

    Raises:
        InputError: there are no runs, or nothing of any could be recomputed.
    """
    folders = run_folders(map(Path, paths))
    if not folders:
        raise InputError(f"there is no run in {listed(paths)}")
    found = []
    for verification in verifications(folders, load_model=load_model):
        found.append(verification)
        if not as_json:
            print("\n".join(_page(verification)), flush=True)
    if as_json:
        print(json.dumps({"format": 1, "runs": [_as_json(each) for each in found]}, indent=2, allow_nan=False))
    if any(each.of("differs") for each in found):
        return 1
    if not any(each.of("agrees") for each in found):
        raise InputError("nothing could be recomputed")
    return 0


def verifications(folders: Sequence[Path], *, load_model: bool = True) -> Iterator[Verification]:
    """What recomputing each of the runs gives."""
    from peftkit.runner.verification import verify_run  # torch: only for what verifies

    registry = load_registry()
    for folder in folders:
        yield verify_run(folder, registry, load_model=load_model)


def _page(found: Verification) -> Iterator[str]:
    """A table of what was recomputed, and below it what differs and what could not be."""
    yield f"{found.path}: {found.verdict}"
    parts = list(dict.fromkeys(check.what for check in found.checks))
    wide = max(map(len, parts))
    yield f"  {'':<{wide}}{'agree':>8}{'differ':>8}{'not recomputable':>18}"
    for part in parts:
        counts = [sum(c.what == part for c in found.of(s)) for s in ("agrees", "differs", "not recomputable")]
        agree, differ, missing = (f"{count:,}" if count else "" for count in counts)
        yield f"  {part:<{wide}}{agree:>8}{differ:>8}{missing:>18}".rstrip()
    for check in found.of("differs"):
        yield f"  differs: {check.what} {check.name}{_values(check)}"
    for text in found.missing:
        yield f"  not recomputable: {text}"
    for note in found.notes:
        yield f"  note: {note}"


def _values(check: Check) -> str:
    reason = f": {check.reason}" if check.reason else ""
    if check.stored is None and check.found is None:
        return reason
    within = f" (tolerance {check.tolerance:.1g})" if check.tolerance else ""
    return f": stored {check.stored}, recomputed {check.found}{within}{reason}"


def _as_json(found: Verification) -> dict[str, Any]:
    checks = [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in map(asdict, found.checks)
    ]
    return {"run": str(found.path), "verdict": found.verdict, "checks": checks, "notes": list(found.notes)}
