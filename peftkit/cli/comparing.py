"""The verb ``compare``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftkit.compare.across import across as put_together
from peftkit.compare.across import written as written_across
from peftkit.compare.comparison import compare
from peftkit.compare.gather import Section, find_runs, sections
from peftkit.compare.matching import matched, parse_match
from peftkit.compare.regret import written as written_regrets
from peftkit.compare.tables import written
from peftkit.errors import InputError, RunError


def compare_runs(
    paths: Sequence[str],
    *,
    by: str,
    metric: str | None,
    baseline: str,
    shares: Sequence[float],
    budgets: Sequence[float] | None,
    margin: float | None,
    pool: Sequence[str],
    regret: bool,
    across: bool,
    match: str | None,
    form: str,
    wide: bool,
    output: str,
) -> int:
    """Prints what the runs say of their methods, there or over all tasks, or what tuning tried; or writes it to a file.

    Raises:
        InputError: there are no runs, they cannot be compared, a form that is no text is to be printed, or shares or
            budgets are asked for over all tasks.
        RunError: the file cannot be written.
    """
    if form == "parquet" and not output:
        raise InputError("--format parquet is no text: name a file with --output")
    if across and (shares or budgets):
        raise InputError("--across takes no --share and no --budget: costs to a score are of one task and model")
    found = gathered(paths, pool, match)
    if regret:
        text = written_regrets(found, form)
    elif across:
        text = written_across(put_together(found, by=by, metric=metric, baseline=baseline), form)
    else:
        options: Any = {"by": by, "metric": metric, "baseline": baseline, "budgets": budgets, "margin": margin}
        text = written([compare(each, shares=shares or (0.95,), **options) for each in found], form, wide=wide)
    if not output:
        print(text.decode(), end="")
        return 0
    try:
        Path(output).write_bytes(text)
    except OSError as error:
        raise RunError(f"{output} cannot be written: {error.strerror}") from error
    return 0


def gathered(paths: Sequence[str], pool: Sequence[str], match: str | None = None) -> list[Section]:
    """The runs below the paths by task and model; what is left out is named on stderr.

    Args:
        paths: run directories, or folders of them.
        pool: what may differ.
        match: the parameters or memory at which methods are compared; None to compare all that there is.

    Raises:
        InputError: there are no runs, or they cannot be compared, or none is within the match.
    """
    wanted = None if match is None else parse_match(match)
    runs, problems = find_runs(map(Path, paths))
    kept: list[Section] = []
    unmatched: list[str] = []
    for section in sections(runs, pool):
        try:
            kept.append(matched(section, wanted) if wanted else section)
        except InputError as error:
            unmatched.append(str(error))
    if not kept:
        raise InputError("\n".join(unmatched))
    for problem in (*problems, *unmatched):
        print(f"left out: {problem}", file=sys.stderr)
    return kept
