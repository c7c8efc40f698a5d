"""``peftkit sweep``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import plugins
from peftkit.cli.arguments import add_overrides, count
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError, RunInterrupted

if TYPE_CHECKING:
    from peftkit.plugins import Registry
    from peftkit.sweep.grid import Grid
    from peftkit.sweep.process_executor import Workers
    from peftkit.sweep.scheduler import Failure, Sweep
    from peftkit.sweep.sweep_plan import SweepPlan

STATES = ("done", "unfinished", "missing")


class SweepCommand(SubCommand):
    """Runs, plans or inspects a sweep."""

    name = "sweep"
    help = "Tune and run a grid of recipes; finished runs are reused."
    examples = (
        ("Estimate what a sweep takes", "peftkit sweep plan recipes/sweeps/pocket.toml"),
        ("Run it with two runs at a time", "peftkit sweep run recipes/sweeps/pocket.toml --jobs 2"),
    )
    writes_files = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "action",
            nargs="?",
            choices=["run", "plan", "status"],
            default="run",
            help="Run it, estimate its cost, or show which runs are done. [default: run]",
        )
        parser.add_argument("file", metavar="SWEEP", help="A sweep: a TOML file.")
        add_overrides(parser, "Override a key of the base recipe. Repeatable.")
        parser.add_argument(
            "--only",
            metavar="AXIS=VALUE",
            action="append",
            default=[],
            help="Run a subset of the same sweep: only this value of an axis. Repeatable.",
        )
        parser.add_argument("--jobs", type=count, help="Runs at a time. [default: one per GPU, or one]")
        parser.add_argument(
            "--executor", choices=["local", "slurm"], default="local", help="Where to run. [default: local]"
        )
        parser.add_argument(
            "--within",
            metavar="TIME",
            help="Choose trials, seeds and budget so that all is done in this time, such as 20min or 1h30min.",
        )
        parser.add_argument("--no-trial", action="store_true", help="With plan: make no steps, and estimate no time.")

    def needs_stdout(self, args: argparse.Namespace) -> bool:
        return bool(args.action != "run")

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.sweep.tuning.tuning_stages import load_grid

        registry = plugins.load_registry()
        grid = load_grid(Path(args.file), registry, args.overrides, args.only)
        if args.within is not None and args.action != "status":
            return self._run_within(args, grid, registry)
        if args.action == "run":
            from peftkit.sweep.within.time_plan import check_unplanned

            check_unplanned(grid.folder)
        actions = {"run": self._run, "plan": self._plan, "status": self._status}
        return actions[args.action](args, grid, registry)

    def _run(self, args: argparse.Namespace, grid: Grid, registry: Registry) -> int:
        if args.executor == "slurm":
            return self._submit(args, grid)
        from peftkit.sweep.scheduler import Sweep

        say = self._progress(args)
        self._notice_incompatible(args, grid)
        sweep = Sweep(grid, registry, _workers(args, grid), say, args.overrides)
        return self._finish(args, grid, sweep, say)

    def _run_within(self, args: argparse.Namespace, grid: Grid, registry: Registry) -> int:
        """Runs or plans a sweep within a time."""
        from peftkit.sweep.within.duration_text import parse_duration, write_duration
        from peftkit.sweep.within.time_plan import TimePlan
        from peftkit.sweep.within.timed_sweep import TimedSweep
        from peftkit.train.wall_clock import process_start

        runs = args.action == "run"
        within = parse_duration(args.within)
        if args.executor == "slurm":
            raise InputError("--within plans for this machine and cannot be combined with --executor slurm")
        if args.no_trial:
            raise InputError("--within needs to know how long runs take, which --no-trial does not measure")
        say = self._progress(args)
        self._notice_incompatible(args, grid)
        workers = _workers(args, grid)
        plan = TimePlan(grid, registry, args.overrides, args.only, within=within, started=process_start(), runs=runs)
        try:
            plan.measure(workers, say)
        except RunInterrupted as interrupted:
            raise RunInterrupted(
                f"interrupted; resume with: {args.command_line}", interrupted.exit_code - 128
            ) from None
        if runs:
            return self._finish(args, grid, TimedSweep(plan, workers, say), say)
        design = plan.choose(say)
        document = {"within": within, **vars(design), "seconds": plan.expected_seconds(design)}
        if args.json:
            self.print_json(document)
        else:
            say(f"that takes about {write_duration(document['seconds'])}, {workers.jobs} at a time")
        return 0

    def _finish(self, args: argparse.Namespace, grid: Grid, sweep: Sweep, say: Callable[[str], None]) -> int:
        """Runs a sweep, and prints its result."""
        progress = sweep.progress
        say(f"{grid.config.name}: {progress.total} runs in {grid.folder}, {sweep.workers.jobs} at a time")
        try:
            failures = sweep.run()
        except RunInterrupted as interrupted:
            text = f"interrupted; resume with: {args.command_line}"
            raise RunInterrupted(text, interrupted.exit_code - 128) from interrupted
        say(f"{progress.done} of {progress.total} runs done: {progress.reused} reused, {len(failures)} failed")
        _print_failures(failures)
        for label, edges in sweep.at_edge.items():
            say(f"tuning stopped at the edge of its range: {label}: {', '.join(edges)}")
        if args.json:
            self.print_json(_run_document(sweep, grid, failures))
        elif args.quiet:
            print(grid.folder)
        else:
            _print_verdicts(grid)
        return 1 if failures else 0

    def _submit(self, args: argparse.Namespace, grid: Grid) -> int:
        from peftkit.sweep.submitit_executor import submit

        self._notice_incompatible(args, grid)
        jobs = [str(job.job_id) for job in submit(grid, args.overrides)]
        if args.json:
            self.print_json({"folder": str(grid.folder), "jobs": jobs})
        elif args.quiet:
            print("\n".join(jobs))
        else:
            print(f"submitted {len(jobs)} jobs: {', '.join(jobs)}")
        return 0

    def _plan(self, args: argparse.Namespace, grid: Grid, registry: Registry) -> int:
        from peftkit.sweep.sweep_plan import estimate_sweep

        studies = estimate_sweep(
            grid,
            registry,
            args.overrides,
            trial=not args.no_trial,
            say=lambda label: self.notice(args, f"counting {label}"),
        )
        if args.json:
            document = asdict(studies)
            incompatible = document.pop("refused")
            totals = {"gmacs": studies.gmacs, "seconds": studies.seconds}
            self.print_json({**document, **totals, "incompatible": incompatible}, version=2)
        else:
            self._notice_incompatible(args, grid)
            _print_plan(studies)
        return 1 if any(study.problem for study in studies.studies) else 0

    def _status(self, args: argparse.Namespace, grid: Grid, registry: Registry) -> int:
        studies = _states(grid, registry, args.overrides, args.only)
        if args.json:
            incompatible = [asdict(each) for each in grid.rejected]
            self.print_json({"studies": studies, "incompatible": incompatible}, version=2)
            return 0
        rows = [
            (
                study["label"],
                *(str(sum(state == kind for state in study["seeds"].values())) for kind in STATES),
                f"stopped at the edge of its range: {', '.join(study['at_edge'])}" if study["at_edge"] else "",
            )
            for study in studies
        ]
        every = [state for study in studies for state in study["seeds"].values()]
        head = ("study", *STATES, "tuning" if any(study["at_edge"] for study in studies) else "")
        _print_columns(head, [*rows, ("all", *(str(every.count(kind)) for kind in STATES), "")])
        return 0

    @staticmethod
    def _progress(args: argparse.Namespace) -> Callable[[str], None]:
        """Prints progress: on standard error with ``--json``, and nowhere with ``--quiet``."""

        def say(text: str) -> None:
            if not args.quiet:
                print(text, file=sys.stderr if args.json else sys.stdout, flush=True)

        return say

    def _notice_incompatible(self, args: argparse.Namespace, grid: Grid) -> None:
        for each in grid.rejected:
            self.notice(args, f"incompatible: {each.label}: {each.reason}")


def _workers(args: argparse.Namespace, grid: Grid) -> Workers:
    from peftkit.sweep.process_executor import Workers

    local = grid.config.local
    return Workers(args.jobs or local.jobs, local.launch, warm=local.warm)


def _run_document(sweep: Any, grid: Grid, failures: Sequence[Failure]) -> dict[str, Any]:
    from peftkit.sweep.within.time_plan import read_design

    design = read_design(grid.folder)
    return {
        **({} if design is None else {"design": vars(design)}),
        "folder": str(grid.folder),
        "runs": sweep.progress.total,
        "reused": sweep.progress.reused,
        "failures": [{"label": each.label, "log": each.log, "last_lines": each.last_lines} for each in failures],
        "at_edge": dict(sweep.at_edge),
        "incompatible": [asdict(each) for each in grid.rejected],
    }


def _print_verdicts(grid: Grid) -> None:
    """Prints the recommendation for each task and model."""
    from peftkit.compare.comparison import compare
    from peftkit.compare.input.groups import group_runs
    from peftkit.compare.input.load_runs import find_runs
    from peftkit.compare.output.table_formats import wrap_lines

    try:
        runs, _ = find_runs([grid.folder])
        for group in group_runs(runs):
            verdict = compare(group).verdict
            print(f"\n{verdict.task} with {verdict.model}:")
            print("\n".join(wrap_lines(verdict.sentences)))
        print(f"\nFor the whole comparison, run: peftkit compare {shlex.quote(str(grid.folder))}")
    except InputError as error:  # such as runs that may not be pooled: the sweep itself is complete
        print(f"\nno verdict: {error}")


def _print_failures(failures: Sequence[Failure]) -> None:
    for failure in failures:
        print(f"failed: {failure.label}: {failure.log}", file=sys.stderr)
        print("".join(f"    {line}\n" for line in failure.last_lines), end="", file=sys.stderr)


def _print_plan(plan: SweepPlan) -> None:
    from peftkit.sweep.scheduler import format_duration

    heads = ("study", "seeds", "finished", "trials", "GMACs", "training here")
    rows = [
        (
            study.label,
            ", ".join(map(str, study.seeds)),
            str(study.finished),
            str(study.trials),
            study.problem.splitlines()[0] if study.problem else _gmacs(study.gmacs),
            "" if study.seconds is None else format_duration(study.seconds),
        )
        for study in plan.studies
    ]
    seconds = (
        ""
        if plan.seconds is None
        else format_duration(plan.seconds) + _and_more([each.seconds for each in plan.studies])
    )
    rows.append(
        (
            f"{sum(bool(study.seeds) for study in plan.studies)} studies, {plan.runs} runs",
            "",
            "",
            str(sum(study.trials for study in plan.studies)),
            _gmacs(plan.gmacs) + _and_more([study.gmacs for study in plan.studies]),
            seconds,
        )
    )
    _print_columns(heads, rows)


def _and_more(numbers: Sequence[float | None]) -> str:
    """Marks a sum in which some numbers are unknown."""
    return " and more" if None in numbers and any(number is not None for number in numbers) else ""


def _gmacs(number: float | None) -> str:
    return "unknown" if number is None else f"{number:,.5g}"


def _print_columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _states(grid: Grid, registry: Registry, overrides: Sequence[str], only: Sequence[str]) -> list[dict[str, Any]]:
    """The state of each seed of each study, and where its tuning stopped at the edge of a range."""
    from peftkit.run_directory import tuning_edges
    from peftkit.sweep.scheduler import final_recipes, find_run, read_tuning
    from peftkit.sweep.within.time_plan import apply_design, read_design

    studies = []
    design = read_design(grid.folder)
    if design is not None:
        grid = apply_design(grid, design, registry, overrides, only)
    for study in grid.studies:
        recipes = final_recipes(grid, study, registry, overrides)
        states = {}
        for seed in [*study.recipes][: None if design is None else design.seeds]:
            run = find_run(recipes[seed]) if seed in recipes else None
            states[str(seed)] = "missing" if run is None else "done" if run.finished else "unfinished"
        edges = tuning_edges(read_tuning(grid, study) if grid.config.tune else None)
        studies.append({"label": study.label, "seeds": states, "at_edge": [*edges]})
    return studies
