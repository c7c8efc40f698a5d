"""Measures which method works on which architecture, by the conformance kit, and writes docs/support.md.

What has been measured with the installed versions is kept in docs/support.json, so that the command can be broken off
and started again: python scripts/support_matrix.py [--methods lora,ia3] [--architectures t5] [--jobs 2]
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
    "counts": "work counted",
    "checkpointing": "checkpointing",
    "mixed_precision": "mixed precision",
    "two_processes": "2 processes",
    "resume": "resume",
}
TOGETHER = 28
WORKS, REFUSED, FAILS = "works", "refused", "FAILS"
Cell = tuple[str, str]
Outcomes = dict[str, dict[str, str]]
Check = Callable[[Any, str, Path], None]


def measured(cell: Cell, known: Collection[str]) -> tuple[Cell, Outcomes]:
    """What each check that is not ``known`` says of a method on an architecture."""
    import torch
    from transformers.utils import logging as transformers_logging

    from peftkit.plugins import load_registry
    from peftkit.testing import RefusedError

    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    name, architecture = cell
    component = load_registry().of("method")[name].component
    found: Outcomes = {}
    for check, run in checks().items():
        if check in known:
            continue
        method = component.model_validate(dict(component.trial))
        with tempfile.TemporaryDirectory() as folder:
            try:
                run(method, architecture, Path(folder) / "own")
                found[check] = {"outcome": WORKS}
            except RefusedError as error:
                found[check] = {"outcome": REFUSED, "reason": str(error)}
            except Exception as error:
                found[check] = {"outcome": FAILS, "reason": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return cell, found


def checks() -> dict[str, Check]:
    """All of the kit's, by name."""
    from peftkit.testing import CHECKS
    from peftkit.testing.runs import RUN_CHECKS

    return {**CHECKS, **RUN_CHECKS}


def versions() -> dict[str, str]:
    """What the outcomes depend on."""
    found = {}
    for package in ("peftkit", "torch", "transformers", "peft", "adapters"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def page(stored: dict[str, dict[str, dict[str, Outcomes]]], order: Sequence[str]) -> Iterator[str]:
    """The lines of docs/support.md."""
    yield "# What works on what"
    yield ""
    yield "Measured by `python scripts/support_matrix.py` on models of width 32 (two layers, float32, CPU), with"
    yield f"{'; '.join(sorted(stored))}."
    yield "Columns are the checks of `peftkit.testing`. A number stands for a reason below, by which it is refused; an"
    yield "encoder does not generate."
    reasons: list[str] = []
    merged: dict[str, dict[str, Outcomes]] = {}
    for methods in stored.values():
        for name, architectures in methods.items():
            merged.setdefault(name, {}).update(architectures)
    unmeasured = [name for name in sorted(order) if not set(ARCHITECTURES) <= set(merged.get(name, {}))]
    if unmeasured:
        yield ""
        yield f"Not measured yet on all of them: {', '.join(f'`{name}`' for name in unmeasured)}."
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
                if cell.get("outcome") in (REFUSED, FAILS):
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
    """Measures what is missing, writes the page, and fails if a cell neither works nor is refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default="")
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="measure what has been measured, too")
    options = parser.parse_args()
    from peftkit.plugins import load_registry

    registered = load_registry().of("method")
    names = options.methods.split(",") if options.methods else list(registered)
    file = DOCS / "support.json"
    stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    installed = versions()
    distributions = {name: registered[name].distribution for name in names}

    def section(name: str) -> dict[str, Outcomes]:
        of = {k: v for k, v in installed.items() if k != "adapters" or distributions[name] == "peftkit-adapters"}
        key = ", ".join(f"{package} {number}" for package, number in of.items())
        own: dict[str, Outcomes] = stored.setdefault(key, {}).setdefault(name, {})
        return own

    cells = [(n, a) for n in names for a in options.architectures.split(",")]

    def known(name: str, architecture: str) -> list[str]:
        stored = section(name).get(architecture, {})
        return [] if options.again else [check for check, found in stored.items() if found["outcome"] != FAILS]

    missing = [cell for cell in cells if not set(checks()) <= set(known(*cell))]
    # In processes that are replaced now and then: what methods leave behind adds up. Checks start some of their own.
    for first in range(0, len(missing), TOGETHER):
        with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            futures = [pool.submit(measured, cell, known(*cell)) for cell in missing[first : first + TOGETHER]]
            for number, future in enumerate(as_completed(futures), first + 1):
                (name, architecture), outcomes = future.result()
                section(name).setdefault(architecture, {}).update(outcomes)
                bad = [f"{check}: {o['reason']}" for check, o in outcomes.items() if o["outcome"] == FAILS]
                print(f"{number}/{len(missing)} {name} on {architecture}: {'; '.join(bad) or 'as it says'}", flush=True)
                file.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (DOCS / "support.md").write_text("\n".join(page(stored, [*registered])) + "\n", encoding="utf-8")
    return int(any(o["outcome"] == FAILS for n, a in cells for o in section(n).get(a, {}).values()))


if __name__ == "__main__":
    sys.exit(main())
