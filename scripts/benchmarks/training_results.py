"""Keeps the pairs that `benchmark_training.py` has measured, one a line, and writes them as a table into the docs."""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf

HEADER = ("model", "method", "lengths", "peftkit s", "`Trainer` s", "ratio", "95 % interval", "pairs", "memory")


@dataclass(frozen=True, order=True)
class Cell:
    """One comparison."""

    model: str
    method: str
    lengths: str


@dataclass(frozen=True)
class Measurement:
    """What was measured of a cell by one process."""

    cell: Cell
    setting: str
    """The machine, the versions and the settings that the figures depend on; only equal ones are put together."""
    seconds: tuple[float, float] | None = None
    """Seconds per step of peftkit and of `Trainer`, as neighbours in time; None if memory was measured."""
    peaks: tuple[int, int] | None = None
    """Bytes at the peak of peftkit and of `Trainer`."""


class Results:
    """The measurements in a file, one a line, so that an interrupted benchmark can continue.

    Args:
        path: The file; None to keep nothing.
        setting: The setting of this run; others in the file are left alone.
    """

    def __init__(self, path: Path | None, setting: str) -> None:
        self.path, self.setting = path, setting
        known = read(path) if path is not None and path.exists() else ()
        self.measurements = [each for each in known if each.setting == setting]

    def add(self, measurement: Measurement) -> None:
        """Keep a measurement, on disk at once."""
        self.measurements.append(measurement)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(measurement)) + "\n")

    def pairs(self, cell: Cell) -> list[tuple[float, float]]:
        """Return the seconds per step of all pairs of a cell."""
        return [each.seconds for each in self.measurements if each.cell == cell and each.seconds is not None]

    def peaks(self, cell: Cell) -> tuple[int, int] | None:
        """Return the peaks of a cell, if they were measured."""
        return next((each.peaks for each in self.measurements if each.cell == cell and each.peaks is not None), None)


def read(path: Path) -> Iterator[Measurement]:
    """Yield the measurements in a file."""
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        both: dict[str, Any] = {key: tuple(values[key]) for key in ("seconds", "peaks") if values[key] is not None}
        yield Measurement(Cell(**values["cell"]), values["setting"], **both)


def describe_setting(clock: str, batch: int, steps: int, overrides: Sequence[str]) -> str:
    """Describe what the figures depend on.

    Args:
        clock: The clock, ``"wall"`` or ``"cpu"``.
        batch: Rows per step.
        steps: Steps per epoch.
        overrides: The keys that were set for peftkit, such as ``"train.split_batches=true"``.
    """
    seconds = {"cpu": "processor time", "wall": "time"}[clock]
    parts = [f"{seconds} per step", f"batches of {batch}", f"epochs of {steps} steps", "one thread", processor()]
    parts += [f"Python {platform.python_version()}", f"torch {torch.__version__}", f"transformers {tf.__version__}"]
    return ", ".join([*parts, *(f"peftkit with `{each}`" for each in overrides)])


def processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else ()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def bootstrap(values: np.ndarray, draws: int = 2_000) -> tuple[float, float]:
    """The 95 % interval of the median."""
    medians = np.median(np.random.default_rng(0).choice(values, (draws, len(values))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def log_ratios(pairs: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return the logarithm of the speedup in each pair."""
    both = np.array(pairs)
    return np.asarray(np.log(both[:, 1] / both[:, 0]))


def row(cell: Cell, results: Results) -> str:
    """Return the row of a cell in the table."""
    pairs, peaks = results.pairs(cell), results.peaks(cell)
    logs = log_ratios(pairs)
    low, high = np.exp(bootstrap(logs))
    memory = "" if peaks is None else f"{peaks[0] / 2**20:.0f} of {peaks[1] / 2**20:.0f} MiB"
    seconds = (f"{each:.3f}" for each in np.median(pairs, axis=0))
    ratio = (f"{np.exp(np.median(logs)):.2f}", f"{low:.2f} to {high:.2f}", str(len(pairs)))
    return f"| {' | '.join((cell.model, cell.method, cell.lengths, *seconds, *ratio, memory))} |"


def table_header() -> str:
    """Return the first two lines of a table."""
    return f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}"


def geometric_means(results: Results) -> str:
    """Return a sentence with the geometric means of the ratios, by lengths and of all cells."""
    by_lengths = defaultdict[str, list[float]](list)
    for cell in sorted({each.cell for each in results.measurements if each.seconds is not None}):
        by_lengths[cell.lengths].append(float(np.median(log_ratios(results.pairs(cell)))))
    by_lengths["all cells"] = [log for logs in by_lengths.values() for log in logs]
    means = (f"{name} {np.exp(np.mean(logs)):.2f}" for name, logs in by_lengths.items())
    return f"Geometric means of the ratios: {', '.join(means)}."


def render(path: Path) -> str:
    """Return the tables of all settings in a file, as Markdown."""
    parts = []
    for setting in dict.fromkeys(each.setting for each in read(path)):
        results = Results(path, setting)
        cells = dict.fromkeys(each.cell for each in results.measurements if each.seconds is not None)
        rows = "\n".join(row(cell, results) for cell in sorted(cells))
        parts.append(f"{setting[0].upper()}{setting[1:]}.\n\n{table_header()}\n{rows}\n\n{geometric_means(results)}")
    return "\n\n".join(parts) + "\n"


def write_table(path: Path, page: Path, marker: str) -> None:
    """Replace the tables of a page.

    Args:
        path: The file of measurements.
        page: A Markdown page.
        marker: The name of the two comments around the tables, ``<!-- marker -->`` and ``<!-- end of marker -->``.
    """
    start, end = f"<!-- {marker} -->\n", f"<!-- end of {marker} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(start)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{start}\n{render(path)}\n{end}{after}", encoding="utf-8")
