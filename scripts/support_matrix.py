"""Runs the conformance checks for every method and architecture, and writes docs/support.md.

    python scripts/support_matrix.py [--methods lora,ia3] [--architectures t5] [--jobs 2]

Outcomes are kept in docs/support.json by installed versions, so that an interrupted command resumes.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
DOCS = Path(__file__).resolve().parent.parent / "docs"
ARCHITECTURES = ("t5", "bart", "llama", "qwen2", "gpt2", "bert", "roberta")
COLUMNS = {
    "trains": "trains",
    "reloads": "reloads exactly",
    "generates": "generates as it scores",
    "merges": "merges",
    "counts": "MACs counted",
    "checkpointing": "checkpointing",
    "mixed_precision": "mixed precision",
    "two_processes": "2 processes",
    "resume": "resume",
}
CELLS_PER_POOL = 28
WORKS, UNSUPPORTED, FAILS = "works", "refused", "FAILS"
Cell = tuple[str, str]
Outcomes = dict[str, dict[str, str]]
Check = Callable[[Any, str, Path], None]


def run_checks(cell: Cell, known: Collection[str]) -> tuple[Cell, Outcomes]:
    """Run the checks of a method on an architecture, except for the ``known`` ones."""
    import torch
    from transformers.utils import logging as transformers_logging

    from peftkit.plugins import load_registry
    from peftkit.testing import NotSupportedError

    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    name, architecture = cell
    component = load_registry().all("method")[name].component
    outcomes: Outcomes = {}
    for check, run in checks().items():
        if check in known:
            continue
        method = component.model_validate(dict(component.tiny_options))
        with tempfile.TemporaryDirectory() as folder:
            try:
                run(method, architecture, Path(folder) / "work")
                outcomes[check] = {"outcome": WORKS}
            except NotSupportedError as error:
                outcomes[check] = {"outcome": UNSUPPORTED, "reason": str(error)}
            except Exception as error:
                outcomes[check] = {
                    "outcome": FAILS,
                    "reason": f"{type(error).__name__}: {' '.join(str(error).split())}",
                }
    return cell, outcomes


def checks() -> dict[str, Check]:
    """All checks of the conformance kit, by name."""
    from peftkit.testing import METHOD_CHECKS
    from peftkit.testing.run_checks import RUN_CHECKS

    return {**METHOD_CHECKS, **RUN_CHECKS}


def versions() -> dict[str, str]:
    """The versions of the packages on which outcomes depend."""
    installed = {}
    for package in ("peftkit", "torch", "transformers", "peft", "adapters"):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def page(stored: dict[str, dict[str, dict[str, Outcomes]]], order: Sequence[str]) -> Iterator[str]:
    """Write the lines of docs/support.md."""
    yield "# What works on what"
    yield ""
    yield "Measured by `python scripts/support_matrix.py` on models of width 32 (two layers, float32, CPU), with"
    yield f"{'; '.join(sorted(stored))}."
    yield "Columns are the checks of `peftkit.testing`. A number refers to the reason why it is not supported, below;"
    yield "encoders do not generate."
    reasons: list[str] = []
    merged: dict[str, dict[str, Outcomes]] = {}
    for methods in stored.values():
        for name, architectures in methods.items():
            merged.setdefault(name, {}).update(architectures)
    unmeasured = [name for name in sorted(order) if not set(ARCHITECTURES) <= set(merged.get(name, {}))]
    if unmeasured:
        yield ""
        yield f"Not yet checked on all architectures: {', '.join(f'`{name}`' for name in unmeasured)}."
    for architecture in ARCHITECTURES:
        yield ""
        yield f"## {architecture}"
        yield ""
        yield f"| method | {' | '.join(COLUMNS.values())} |"
        yield f"|---|{'---|' * len(COLUMNS)}"
        for name in sorted(n for n in order if architecture in merged.get(n, {})):
            cells = [merged[name][architecture].get(check, {}) for check in COLUMNS]
            shown = []
            for cell in cells:
                if cell.get("outcome") in (UNSUPPORTED, FAILS):
                    if cell["reason"] not in reasons:
                        reasons.append(cell["reason"])
                    mark = "**fails** " if cell["outcome"] == FAILS else ""
                    shown.append(f"{mark}[{reasons.index(cell['reason']) + 1}](#reasons)")
                else:
                    shown.append(cell.get("outcome", ""))
            yield f"| `{name}` | {' | '.join(shown)} |"
    yield ""
    yield "## Reasons"
    yield ""
    yield from (f"{number}. {reason}" for number, reason in enumerate(reasons, 1))


def main() -> int:
    """Run the missing checks and write the page; returns 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default="")
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="repeat checks that have been run")
    options = parser.parse_args()
    from peftkit.plugins import load_registry

    registered = load_registry().all("method", presets=False)
    names = options.methods.split(",") if options.methods else list(registered)
    file = DOCS / "support.json"
    stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    installed = versions()
    distributions = {name: registered[name].distribution for name in names}

    def section(name: str) -> dict[str, Outcomes]:
        used = {k: v for k, v in installed.items() if k != "adapters" or distributions[name] == "peftkit-adapters"}
        key = ", ".join(f"{package} {number}" for package, number in used.items())
        outcomes: dict[str, Outcomes] = stored.setdefault(key, {}).setdefault(name, {})
        return outcomes

    cells = [(n, a) for n in names for a in options.architectures.split(",")]

    def known(name: str, architecture: str) -> list[str]:
        stored = section(name).get(architecture, {})
        return [] if options.again else [check for check, result in stored.items() if result["outcome"] != FAILS]

    missing = [cell for cell in cells if not set(checks()) <= set(known(*cell))]
    # Processes are replaced now and then, since leftovers of methods accumulate. Checks start further processes.
    for first in range(0, len(missing), CELLS_PER_POOL):
        with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            futures = [pool.submit(run_checks, cell, known(*cell)) for cell in missing[first : first + CELLS_PER_POOL]]
            for number, future in enumerate(as_completed(futures), first + 1):
                (name, architecture), outcomes = future.result()
                section(name).setdefault(architecture, {}).update(outcomes)
                bad = [f"{check}: {o['reason']}" for check, o in outcomes.items() if o["outcome"] == FAILS]
                print(f"{number}/{len(missing)} {name} on {architecture}: {'; '.join(bad) or 'OK'}", flush=True)
                file.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (DOCS / "support.md").write_text("\n".join(page(stored, [*registered])) + "\n", encoding="utf-8")
    return int(any(o["outcome"] == FAILS for n, a in cells for o in section(n).get(a, {}).values()))


if __name__ == "__main__":
    sys.exit(main())
