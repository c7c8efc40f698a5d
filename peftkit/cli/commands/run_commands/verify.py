"""``peftkit verify``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import plugins
from peftkit.cli.arguments import add_runs
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError, comma_separated

if TYPE_CHECKING:
    from peftkit.verify import Check, Verification


class VerifyCommand(SubCommand):
    """Recomputes what run directories record."""

    name = "verify"
    help = "Recompute the scores, losses, curves, MACs and digests of runs. Exits with 1 if a value differs."
    examples = (
        ("Verify all runs in a folder", "peftkit verify runs"),
        ("Verify one run without loading its model", "peftkit verify runs/quickstart-1 --no-model"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_runs(parser)
        parser.add_argument("--no-model", action="store_true", help="Load no weights: skip the saved model.")

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.compare.input.load_runs import run_folders

        folders = run_folders(map(Path, args.runs))
        if not folders:
            raise InputError(f"there is no run in {comma_separated(args.runs)}")
        verifications = []
        for verification in verify_each(folders, load_model=not args.no_model):
            verifications.append(verification)
            if not args.json:
                print("\n".join(_page(verification)), flush=True)
        if args.json:
            self.print_json({"runs": [_document(each) for each in verifications]}, version=2)
        if any(each.with_status("differs") for each in verifications):
            return 1
        if not any(each.with_status("agrees") for each in verifications):
            raise InputError("nothing could be recomputed")
        return 0


def verify_each(folders: Sequence[Path], *, load_model: bool = True) -> Iterator[Verification]:
    """Verifies runs one after the other.

    Args:
        folders: Run directories.
        load_model: Whether to load the saved model too.
    """
    from peftkit.verify import verify_run

    registry = plugins.load_registry()
    for folder in folders:
        yield verify_run(folder, registry, load_model=load_model)


def _page(verification: Verification) -> Iterator[str]:
    """A table of counts, and below it what differs and what could not be recomputed."""
    yield f"{verification.path}: {verification.verdict}"
    parts = list(dict.fromkeys(check.group for check in verification.checks))
    width = max(map(len, parts))
    yield f"  {'':<{width}}{'agree':>8}{'differ':>8}{'not recomputable':>18}"
    for part in parts:
        statuses: list[str] = [check.status for check in verification.checks if check.group == part]
        counts = map(statuses.count, ("agrees", "differs", "not recomputable"))
        agree, differ, missing = (f"{count:,}" if count else "" for count in counts)
        yield f"  {part:<{width}}{agree:>8}{differ:>8}{missing:>18}".rstrip()
    for check in verification.with_status("differs"):
        yield f"  differs: {check.group} {check.name}{_values(check)}"
    for text in verification.missing:
        yield f"  not recomputable: {text}"
    for note in verification.notes:
        yield f"  note: {note}"


def _values(check: Check) -> str:
    reason = f": {check.reason}" if check.reason else ""
    if check.stored is None and check.recomputed is None:
        return reason
    tolerance = f" (tolerance {check.tolerance:.1g})" if check.tolerance else ""
    return f": stored {check.stored}, recomputed {check.recomputed}{tolerance}{reason}"


def _document(verification: Verification) -> dict[str, Any]:
    checks = [
        {
            "part": check.group,
            "name": check.name,
            "status": check.status,
            "stored": check.stored,
            "recomputed": check.recomputed,
            "tolerance": check.tolerance,
            "reason": check.reason,
        }
        for check in verification.checks
    ]
    return {
        "run": str(verification.path),
        "verdict": verification.verdict,
        "checks": checks,
        "notes": list(verification.notes),
    }
