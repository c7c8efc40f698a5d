"""The verb ``sweep``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from peftkit.compare.comparison import compare
from peftkit.compare.gather import find_runs, sections
from peftkit.compare.tables import wrapped
from peftkit.errors import InputError
from peftkit.plugins import Registry, load_registry
from peftkit.runs import tuning_edges
from peftkit.sweep.grid import Grid, expand
from peftkit.sweep.running import Failure, Sweep, clock, final_recipes, found, recorded
from peftkit.sweep.tables import read_sweep
from peftkit.sweep.tuning import check_tuning
from peftkit.sweep.workers import Workers


def run_sweep(
    file: str,
    overrides: Sequence[str],
    only: Sequence[str],
    *,
    what: str,
    jobs: int | None,
    executor: str,
    trial: bool,
    as_json: bool,
) -> int:
    """Runs, plans or looks at a sweep.

    Raises:
        PeftkitError: its file or its recipes are wrong, or it was interrupted.
    """
    registry = load_registry()
    grid = expand(Path(file), read_sweep(Path(file)), registry, overrides, only)
    check_tuning(grid, registry, overrides)
    if what == "plan":
        return _plan(grid, registry, overrides, trial=trial, as_json=as_json)
    if what == "status":
        return _status(grid, registry, overrides, as_json=as_json)
    _tell_refused(grid)
    if executor == "slurm":
        from peftkit.sweep.cluster import submit

        jobs_made = submit(grid, overrides)
        print(f"submitted {len(jobs_made)} jobs: {', '.join(job.job_id for job in jobs_made)}")
        return 0
    sweep = Sweep(grid, registry, Workers(jobs or grid.table.local.jobs, grid.table.local.launch), _say, overrides)
    print(
        f"{grid.table.name}: {sweep.progress.total} runs in {grid.folder}, {sweep.workers.jobs} at a time", flush=True
    )
    failures = sweep.run()
    print(f"{sweep.progress.done} of {sweep.progress.total}: {sweep.progress.found} found, {len(failures)} failed")
    _tell(failures)
    for label, where in sweep.at_edge.items():
        print(f"tuning stopped at the edge of its range: {label}: {', '.join(where)}")
    _print_verdicts(grid)
    return 1 if failures else 0


def _print_verdicts(grid: Grid) -> None:
    """Prints what the sweep's runs recommend, for each task and model."""
    try:
        runs, _ = find_runs([grid.folder])
        for section in sections(runs):
            verdict = compare(section).verdict
            print(f"\n{verdict.task} with {verdict.model}:")
            print("\n".join(wrapped(verdict.sentences)))
        print(f"\nThe whole comparison: peftkit compare {grid.folder}")
    except InputError as error:  # such as runs that may not be pooled: the sweep itself has done its work
        print(f"\nno verdict: {error}")


def _say(text: str) -> None:
    print(text, flush=True)


def _tell(failures: Sequence[Failure]) -> None:
    for failure in failures:
        print(f"failed: {failure.label}: {failure.where}", file=sys.stderr)
        print("".join(f"    {line}\n" for line in failure.last_lines), end="", file=sys.stderr)


def _tell_refused(grid: Grid) -> None:
    for each in grid.refused:
        print(f"left out: {each.label}: {each.reason}", file=sys.stderr)


def _plan(grid: Grid, registry: Registry, overrides: Sequence[str], *, trial: bool, as_json: bool) -> int:
    from peftkit.sweep.planning import plan

    made = plan(grid, registry, overrides, trial=trial, say=lambda text: print(f"counting {text}", file=sys.stderr))
    code = 1 if any(each.problem for each in made.studies) else 0
    if as_json:
        print(json.dumps({"format": 1, **asdict(made), "gmacs": made.gmacs, "seconds": made.seconds}, indent=2))
        return code
    _tell_refused(grid)
    heads = ("study", "seeds", "finished", "trials", "GMACs", "training here")
    rows = [
        (
            each.label,
            ", ".join(map(str, each.seeds)),
            str(each.finished),
            str(each.trials),
            each.problem.splitlines()[0] if each.problem else _gmacs(each.gmacs),
            "" if each.seconds is None else clock(each.seconds),
        )
        for each in made.studies
    ]
    rows.append(
        (
            f"{sum(bool(each.seeds) for each in made.studies)} studies, {made.runs} runs",
            "",
            "",
            str(sum(each.trials for each in made.studies)),
            _gmacs(made.gmacs) + _and_more([each.gmacs for each in made.studies]),
            "" if made.seconds is None else clock(made.seconds) + _and_more([each.seconds for each in made.studies]),
        )
    )
    _print(heads, rows)
    return code


def _and_more(of: Sequence[float | None]) -> str:
    """What stands after a sum of numbers some of which are not known."""
    return " and more" if None in of and any(each is not None for each in of) else ""


def _gmacs(number: float | None) -> str:
    return "not known" if number is None else f"{number:,.5g}"


def _print(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _status(grid: Grid, registry: Registry, overrides: Sequence[str], *, as_json: bool) -> int:
    told: list[tuple[str, dict[str, str], str]] = []
    for study in grid.studies:
        finals = final_recipes(grid, study, registry, overrides)
        states = {}
        for seed in study.recipes:
            run = found(finals[seed]) if seed in finals else None
            states[str(seed)] = "missing" if run is None else "done" if run.finished else "unfinished"
        record = recorded(grid, study) if grid.table.tune else None
        where = ", ".join(tuning_edges(record))
        told.append((study.label, states, f"stopped at the edge of its range: {where}" if where else ""))
    if as_json:
        studies = [{"label": label, "seeds": of, "tuning": note} for label, of, note in told]
        print(
            json.dumps({"format": 1, "studies": studies, "refused": [asdict(each) for each in grid.refused]}, indent=2)
        )
        return 0
    kinds = ("done", "unfinished", "missing")
    rows = [
        (label, *(str(sum(state == kind for state in of.values())) for kind in kinds), note) for label, of, note in told
    ]
    sums = (str(sum(state == kind for _, of, _ in told for state in of.values())) for kind in kinds)
    _print(("study", *kinds, "tuning" if any(note for _, _, note in told) else ""), [*rows, ("all", *sums, "")])
    return 0
