"""The verb ``report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftkit.cli.comparing import gathered
from peftkit.errors import RunError


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
) -> int:
    """Writes the page, and figures where a folder for them is named; prints what was written.

    Raises:
        InputError: there are no runs, or they cannot be compared.
        RunError: a file cannot be written, or matplotlib is not installed.
    """
    found = gathered(paths, pool, match)
    options = {"by": by, "metric": metric, "baseline": baseline, "margin": margin}
    if output:
        from peftkit.compare.report import report

        page = report(found, title=title, **options)
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
    return 0
