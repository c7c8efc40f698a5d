"""What people see of a run: a bar, a table that grows line by line, a summary. Quiet on ranks other than 0."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from peftkit.output import safe_output
from peftkit.recipe import Recipe
from peftkit.runner.data import Data

NARROWEST = 80
"""Columns of output that is no terminal, whatever COLUMNS says."""


class Display:
    """Writes to standard output, plain where that is no terminal; ``main`` is whether this is rank 0."""

    def __init__(self, recipe: Recipe, *, main: bool) -> None:
        output: Any = safe_output(sys.stdout)
        self.console = Console(file=output, quiet=not main, highlight=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, NARROWEST)
        self.recipe = recipe
        self.columns: list[str] = []
        self.progress: Progress | None = None
        self.bar: TaskID | None = None
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False)

    def start(self, run: Path, *, trainable: int, total: int, data: Data, plugins: Mapping[str, str]) -> None:
        """The head: what is trained on what, and where it is written."""
        recipe = self.recipe
        self.say(f"{recipe.method.name} on {recipe.task.name} with {recipe.model.name}")
        self.say(f"trainable {trainable:,} of {total:,} parameters ({trainable / total:.2%})")
        sizes = {split: "streamed" if rows is None else f"{rows:,}" for split, rows in data.sizes.items()}
        self.say("rows " + ", ".join(f"{split} {rows}" for split, rows in sizes.items()))
        for split, counts in data.cut.items():
            cut = ", ".join(f"{rows:,} {what}" for what, rows in counts.items() if rows)
            if cut:
                self.say(f"too long and cut in {split}: {cut}")
        for split, rows in data.overlap.items():
            if rows:
                self.say(f"also among the training rows: {rows:,} of the evaluated sources of {split}")
        self.say("plugins " + ", ".join(f"{name} {version}" for name, version in sorted(plugins.items())))
        if recipe.model.trust_remote_code:
            self.say(f"trusts code that comes with {recipe.model.name} (model.trust_remote_code)")
        self.say(f"run {run}")
        if self.console.is_terminal and not self.console.quiet:
            columns = (
                BarColumn(),
                TextColumn("{task.percentage:3.0f}% {task.fields[told]}"),
                TimeElapsedColumn(),
                TextColumn("left {task.fields[left]}"),
            )
            self.progress = Progress(*columns, console=self.console, transient=True)
            self.bar = self.progress.add_task("", total=1.0, told="", left="–")
            self.progress.start()

    def step(self, share: float, loss: float, rate: float, seconds: float) -> None:
        """Moves the bar; ``share`` is of the budget, ``seconds`` are of training so far."""
        if self.progress is not None and self.bar is not None:
            elapsed = time.monotonic() - self.began
            left = elapsed / share * (1 - share) if share > 0 else 0.0
            told = f"loss {loss:.3f}  rate {rate:.1e}"
            self.progress.update(self.bar, completed=min(share, 1.0), told=told, left=clock(left))

    def evaluation(self, row: Mapping[str, Any], selects: str, *, selected: bool) -> None:
        """One line of the table; an asterisk marks a new best on dev."""
        cells = {"step": f"{row['step']}", "epoch": f"{row['epoch']:.2f}"}
        for split in ("train", "dev", "test"):
            values = row.get(split, {})
            for key in dict.fromkeys(("loss", selects)):
                if key in values:
                    cells[f"{split} {key}"] = f"{values[key]:.4f}"
        cells["seconds"] = f"{row['cost'].get('train_seconds', 0):.1f}"
        if not self.columns:
            self.columns = list(cells)
            self.say("  ".join(f"{name:>{self._width(name)}}" for name in self.columns))
        line = "  ".join(f"{cells.get(name, ''):>{self._width(name)}}" for name in self.columns)
        self.say(line + ("  *" if selected else ""))

    @staticmethod
    def _width(name: str) -> int:
        return max(len(name), 7)

    def close(self) -> None:
        """Takes the bar away, whatever happened."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def summary(self, summary: Mapping[str, Any], run: Path) -> None:
        """The table at the end and the run directory's path."""
        self.close()
        table = Table(title=f"selected at step {summary['selected']['step']} by dev {summary['selects']}")
        table.add_column("")
        columns = {split: summary["selected"][split] for split in ("dev", "test") if split in summary["selected"]}
        keys = list(next(iter(columns.values()), ()))
        columns |= {name: scores["test"] for name, scores in summary["baselines"].items() if "test" in scores}
        for name in columns:
            table.add_column(name, justify="right")
        for key in keys:
            table.add_row(key, *(f"{values[key]:.4f}" if key in values else "" for values in columns.values()))
        self.console.print(table)
        self.say("constant, majority, random: what test gives to those that do not read (see the summary for dev)")
        cost = summary["cost"]
        self.say(
            f"{summary['steps']} steps, {summary['samples']:,} samples, "
            f"{cost.get('gmacs', 0):,.4g} GMACs, {cost.get('train_seconds', 0):.1f} s of training, "
            f"{summary['evaluation_seconds']:.1f} s of evaluation, {summary['counting_seconds']:.1f} s of counting, "
            f"peak memory {_gib(cost)}"
        )
        self.say(f"run {run}")


def clock(seconds: float) -> str:
    """``75`` → ``1:15``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _gib(cost: Mapping[str, float]) -> str:
    found = cost.get("peak_device_bytes") or cost.get("peak_host_bytes", 0.0)
    return f"{found / 2**30:.2f} GiB"
