"""Mutation testing: change one expression or statement of the source at a time and see whether a test fails.

    python scripts/mutation_tests.py recipe macs statistics --sample 400 --report docs/mutation.json

Each room of ``ROOMS`` is a part of the source with the tests that must detect a change in it. A mutant is killed if
a test fails, if a module cannot be imported, or if the tests take much longer than before. Only the quick tests (``-m
"not slow"``) that execute its line run, those of the module's own test file before others and the fastest ones first,
up to the first failure. Which tests execute a line is measured with coverage, and again when source or tests change.

Every mutant is a fork of one parent process that has imported all libraries but no module of the project. Each worker
has its own copy of the repository, so that child processes of a test run the mutated source too.

Results are kept in ``--state`` after each mutant; a second call runs what is missing. ``--again`` also runs the
survivors again, such as after adding a test. Survivors that no test should kill are explained in
``scripts/mutation_survivors.toml``, by source line and change.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import tomllib
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mutation.mutants import Mutant, mutants_of, one_line
from mutation.processes import (
    ALIVE,
    ROOT,
    Room,
    TestRun,
    copy_of_repository,
    digest,
    ended,
    in_stages,
    outcome,
    read_or_measure,
    start,
    tests_for,
    write,
)

EXPLANATIONS = ROOT / "scripts/mutation_survivors.toml"


ROOMS = {
    "recipe": Room(
        ("peftkit/recipe/*.py", "peftkit/recipe/messages/*.py", "peftkit/recipe/tables/*.py"),
        ("tests/recipe", "tests/test_file_formats.py"),
    ),
    "macs": Room(("peftkit/macs/*.py",), ("tests/macs",)),
    "statistics": Room(
        ("peftkit/compare/statistics/*.py", "peftkit/compare/posterior_inputs.py", "peftkit/compare/power_analysis.py"),
        (
            "tests/compare/statistics",
            "tests/compare/test_power_analysis.py",
            "tests/compare/test_posterior_inputs.py",
        ),
    ),
}


def run_room(name: str, options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Run the tests of a room on a sample of its mutants; returns a row of the report for each."""
    room = ROOMS[name]
    files = sorted(file.relative_to(ROOT).as_posix() for pattern in room.source for file in ROOT.glob(pattern))
    sources = {file: (ROOT / file).read_bytes() for file in files}  # may be edited in the meantime
    everything = [m for file in files for m in mutants_of(file, sources[file])]
    everything = [m for m in everything if not options.only or m.file.endswith(options.only)]
    mutants = random.Random(f"{options.seed} {name}").sample(everything, len(everything))[: options.sample]
    print(f"== {name}: {len(mutants)} of {len(everything)} mutants", flush=True)

    options.state.mkdir(parents=True, exist_ok=True)
    state = options.state / f"{name}.jsonl"
    results = {row["id"]: row for row in map(json.loads, state.read_text().splitlines())} if state.is_file() else {}
    again = {"error", *(ALIVE if options.again else ())}
    identify = {m: hashlib.sha256(f"{digest([m.file])} {m}".encode()).hexdigest()[:16] for m in mutants}
    waiting = [m for m in mutants if results.get(identify[m], {"result": "error"})["result"] in again]
    waiting.reverse()  # the first ones run first, so that a smaller sample of an interrupted run is complete
    if options.report_only or not waiting:
        return [results[identify[m]] for m in mutants if identify[m] in results]

    free = [copy_of_repository(scratch / name / str(i)) for i in range(options.jobs)]
    baseline = read_or_measure(room, free[0], options.state / f"{name}-baseline.json")
    for module in baseline.modules:
        with suppress(Exception):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that no fork collects the libraries' objects

    runs: list[TestRun] = []
    with state.open("a") as output, ended(runs):

        def record(mutant: Mutant, result: str, seconds: float) -> None:
            row = {"id": identify[mutant], **asdict(mutant), "result": result, "seconds": round(seconds, 2)}
            results[row["id"]] = row
            output.write(json.dumps(row) + "\n")
            output.flush()
            if result != "killed":
                print(f"   {result}: {mutant.file}:{mutant.line}: {one_line(mutant.before, mutant.after)}", flush=True)

        while waiting or runs:
            while waiting and free:
                mutant = waiting.pop()
                if chosen := tests_for(mutant, baseline):
                    stages = in_stages(chosen, mutant, baseline)
                    runs.append(start(mutant, sources[mutant.file], baseline, stages, free.pop()))
                else:
                    record(mutant, "not run", 0)
            time.sleep(0.02)
            for run in list(runs):
                if (result := outcome(run)) is None:
                    continue
                runs.remove(run)
                if result == "survived" and run.later:
                    runs.append(start(run.mutant, run.source, baseline, run.later, run.folder, run.begin))
                    continue
                write(run.folder / run.mutant.file, run.source)
                record(run.mutant, result, time.monotonic() - run.begin)
                free.append(run.folder)
    return [results[identify[m]] for m in mutants]


def explanation(row: dict[str, Any], known: list[dict[str, Any]]) -> str | None:
    """Why no test should kill a survivor; survivors are identified by source line, since line numbers change."""
    key = (row["source_line"], one_line(row["before"], row["after"]), row["number"])
    for entry in known:
        if (entry["source"], entry["change"], entry.get("number", row["number"])) == key:
            return str(entry["why"])
    return None


def report(rooms: dict[str, list[dict[str, Any]]], seed: int) -> dict[str, Any]:
    known = tomllib.loads(EXPLANATIONS.read_text(encoding="utf-8"))["survivor"] if EXPLANATIONS.is_file() else []
    result: dict[str, Any] = {"format": 1, "seed": seed, "rooms": {}}
    for name, all_rows in rooms.items():
        rows = [row for row in all_rows if row["result"] != "error"]
        alive = [row for row in rows if row["result"] in ALIVE]
        survivors = [
            {
                "file": row["file"],
                "line": row["line"],
                "source": row["source_line"],
                "change": one_line(row["before"], row["after"]),
                "number": row["number"],
                "result": row["result"],
                "explanation": explanation(row, known),
            }
            for row in sorted(alive, key=lambda r: (r["file"], r["line"]))
        ]
        killed = len(rows) - len(alive)
        result["rooms"][name] = {
            "mutants": len(rows),
            "killed": killed,
            "share": round(killed / max(len(rows), 1), 4),
            "seconds": round(sum(row["seconds"] for row in rows)),
            "survivors": survivors,
        }
        unexplained = sum(row["explanation"] is None for row in survivors)
        print(f"{name}: {killed} of {len(rows)} killed ({killed / max(len(rows), 1):.1%}), {unexplained} unexplained")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="+", choices=[*ROOMS], metavar="ROOM", help=", ".join(ROOMS))
    parser.add_argument(
        "--sample", type=int, default=400, help="maximum number of mutants per room (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="(default: %(default)s)")
    parser.add_argument("--only", default="", help="only files whose path ends with this")
    parser.add_argument("--again", action="store_true", help="run survivors again")
    parser.add_argument("--report-only", action="store_true", help="run nothing; report the mutants that have been run")
    parser.add_argument("--state", type=Path, default=ROOT / "build/mutation", help="folder (default: build/mutation)")
    parser.add_argument("--report", type=Path, help="JSON file to write")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes the copies
    with tempfile.TemporaryDirectory(prefix="peftkit-mutation-") as scratch:
        # As in tests/conftest.py, which is loaded only after the parent process has imported the libraries.
        os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_HOME=f"{scratch}/huggingface")
        os.environ.update(TOKENIZERS_PARALLELISM="false", MPLBACKEND="agg", WANDB_MODE="offline")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        sys.dont_write_bytecode = False
        rooms = {name: run_room(name, options, Path(scratch).resolve()) for name in options.rooms}
    result = report(rooms, options.seed)
    if options.report:
        options.report.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
