"""The verb ``report``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.cli.comparing import gathered
from peftkit.cli.verifying import verifications
from peftkit.errors import InputError, RunError

if TYPE_CHECKING:
    from peftkit.runner.verification import Verification


def write_report(
    paths: Sequence[str],
    *,
    by: str,
    metric: str | None,
    baseline: str,
    margin: float | None,
    pool: Sequence[str],
    match: str | None,
    title: str,
    output: str,
    figures: str,
    forms: Sequence[str],
    verify: bool,
) -> int:
    """Writes the page, and figures where a folder for them is named; prints what was written.

    Returns:
        1 where the runs were verified and a value differs, else 0.

    Raises:
        InputError: there are no runs, they cannot be compared, or they are verified without a page that says so.
        RunError: a file cannot be written, or matplotlib is not installed.
    """
    if verify and not output:
        raise InputError("--verified is for the page; name one with --output")
    found = gathered(paths, pool, match)
    options = {"by": by, "metric": metric, "baseline": baseline, "margin": margin}
    verified: dict[Path, Verification] | None = None
    if output:
        from peftkit.compare.report import report

        if verify:
            folders = [run.path for section in found for of in section.runs.values() for run in of.values()]
            verified = {each.path: each for each in verifications(folders)}
        page = report(found, title=title, verified=verified, **options)
        try:
            Path(output).parent.mkdir(parents=True, exist_ok=True)
            Path(output).write_text(page, encoding="utf-8")
        except OSError as error:
            raise RunError(f"{output} cannot be written: {error.strerror}") from error
        print(output)
    if figures:
        from peftkit.compare.figures import draw

        for file in draw(found, Path(figures), forms or ("svg",), **options):  # type: ignore[arg-type]
            print(file)
    differing = [each for each in (verified or {}).values() if each.of("differs")]
    for each in differing:
        print(f"{each.path}: {each.verdict}", file=sys.stderr)
    return 1 if differing else 0
