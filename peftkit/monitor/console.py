"""Prints a run's progress bar, its table of evaluations and its summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from peftkit.components.callback import EvaluationResult, StepResult, TrainContext, TrainerCallback
from peftkit.data.pipeline import PreparedData
from peftkit.recipe import Recipe
from peftkit.standard_streams import safe_output

REFRESH_SECONDS = 0.5
"""How often the progress bar shows a new loss: reading it waits for the device."""
MIN_WIDTH = 80
"""Minimum width of output that is not a terminal, even if COLUMNS is smaller."""


class ConsoleLogger(TrainerCallback):
    """Prints to standard output, without a progress bar if that is not a terminal.

    Args:
        recipe: The recipe of the run.
        quiet: Whether to print nothing, as on all processes but the main one.
    """

    def __init__(self, recipe: Recipe, *, quiet: bool) -> None:
        output: Any = safe_output(sys.stdout)
        # In a notebook, lines of text instead of one HTML element per line.
        self.console = Console(file=output, quiet=quiet, highlight=False, soft_wrap=True, force_jupyter=False)
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, MIN_WIDTH)
        self.recipe = recipe
        self.columns: list[str] = []
        self.progress: Progress | None = None
        self.bar: TaskID | None = None
        self._start_time = time.monotonic()
        self._status_time = 0.0

    def print(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False)

    def start(self, run: Path, *, trainable: int, total: int, data: PreparedData, plugins: Mapping[str, str]) -> None:
        """Print what is trained on which data, and show the progress bar.

        Args:
            run: The run directory.
            trainable: The number of trainable parameters.
            total: The number of all parameters.
            data: The data of the run.
            plugins: The versions of the installed plugins by name.
        """
        recipe = self.recipe
        self.print(f"{recipe.method.name} on {recipe.task.name} with {recipe.model.name}")
        self.print(f"trainable {trainable:,} of {total:,} parameters ({trainable / total:.2%})")
        sizes = {split: "streamed" if rows is None else f"{rows:,}" for split, rows in data.split_sizes.items()}
        self.print("rows " + ", ".join(f"{split} {rows}" for split, rows in sizes.items()))
        for split, number in data.num_skipped.items():
            if number:
                self.print(f"skipped in {split}: {number:,} invalid rows (skipped.jsonl)")
        for split, number in data.num_ignored.items():
            if number:
                self.print(f"ignored in {split}: {number:,} rows")
        for split, counts in data.truncated.items():
            truncated = ", ".join(f"{rows:,} {field}" for field, rows in counts.items() if rows)
            if truncated:
                self.print(f"truncated in {split}: {truncated}")
        for split, rows in data.train_overlap.items():
            if rows:
                self.print(f"overlap with train: {rows:,} evaluated sources of {split}")
        self.print("plugins " + ", ".join(f"{name} {version}" for name, version in sorted(plugins.items())))
        if recipe.model.trust_remote_code:
            self.print(f"runs code from the repository of {recipe.model.name} (model.trust_remote_code)")
        self.print(f"run {run}")
        if self.console.is_terminal and not self.console.quiet:
            columns = (
                BarColumn(),
                TextColumn("{task.percentage:3.0f}% {task.fields[status]}"),
                TimeElapsedColumn(),
                TextColumn("left {task.fields[left]}"),
            )
            self.progress = Progress(*columns, console=self.console, transient=True)
            self.bar = self.progress.add_task("", total=1.0, status="", left="–")
            self.progress.start()

    def on_step_end(self, context: TrainContext, step: StepResult) -> None:
        """Update the progress bar."""
        if self.progress is not None and self.bar is not None:
            elapsed, share = time.monotonic() - self._start_time, context.budget_used
            left = max(0.0, elapsed / share * (1 - share)) if share > 0 else 0.0
            fields: dict[str, Any] = {"left": format_duration(left)}
            if time.monotonic() - self._status_time >= REFRESH_SECONDS:
                fields["status"] = f"loss {step.loss:.3f}  rate {step.learning_rate:.1e}"
                self._status_time = time.monotonic()
            self.progress.update(self.bar, completed=min(share, 1.0), **fields)

    def on_evaluate(self, context: TrainContext, evaluation: EvaluationResult) -> None:
        """Print a row of the table; the best evaluation so far is marked with an asterisk."""
        row = evaluation.row
        cells = {"step": f"{row['step']}", "epoch": f"{row['epoch']:.2f}"}
        columns = [(split, key) for split in ("train", "dev", "test") for key in ("loss", evaluation.metric)]
        columns += [(each.name, evaluation.metric) for each in self.recipe.evaluate.set]
        columns += [(probe.name, probe.metric) for probe in self.recipe.probes]
        for split, key in dict.fromkeys(columns):
            if key in row.get(split, {}):
                cells[f"{split} {key}"] = f"{row[split][key]:.4f}"
        cells["seconds"] = f"{row['cost'].get('train_seconds', 0):.1f}"
        if not self.columns:
            self.columns = list(cells)
            self.print("  ".join(f"{name:>{self._width(name)}}" for name in self.columns))
        line = "  ".join(f"{cells.get(name, ''):>{self._width(name)}}" for name in self.columns)
        self.print(line + ("  *" if evaluation.is_best else ""))

    @staticmethod
    def _width(name: str) -> int:
        return max(len(name), 7)

    def close(self) -> None:
        """Remove the progress bar."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def summary(self, summary: Mapping[str, Any], run: Path) -> None:
        """Print the scores of the selected checkpoint and the cost of the run.

        Args:
            summary: The content of ``summary.json``.
            run: The run directory.
        """
        self.close()
        selected, metric = summary["selected"], summary["selection_metric"]
        baselines = {name: scores["test"] for name, scores in summary["baselines"].items() if scores.get("test")}
        columns = {split: selected[split] for split in ("dev", "test") if split in selected}
        self._print_table(f"selected at step {selected['step']} by dev {metric}", columns | baselines)
        if last := summary.get("last_step"):
            splits = {split: values for split, values in last.items() if split in ("dev", "test")}
            self._print_table(f"last step, {last['step']}", splits)
        if sets := {each.name: selected[each.name] for each in self.recipe.evaluate.set if each.name in selected}:
            self._print_table("evaluation sets", sets)
        for name, probe in summary.get("probes", {}).items():
            self._print_table(f"probe {name}", {"base": probe["base"], "selected": selected[name]})
        if baselines:
            self.print(f"{', '.join(baselines)}: input-blind baselines on test (dev: see summary.json)")
        cost = summary["cost"]
        if stop := summary["stopped_early"]:
            self.print(f"stopped early by {stop['callback']}: {stop['reason']}")
        self.print(
            f"{summary['steps']} steps, {summary['samples']:,} samples, "
            f"{cost.get('gmacs', 0):,.4g} GMACs, {cost.get('train_seconds', 0):.1f} s of training, "
            f"{summary['evaluation_seconds']:.1f} s of evaluation, "
            f"{summary['counting_seconds']:.1f} s of MAC counting, {summary['wall_seconds']:.1f} s in all, "
            f"peak memory {_gib(cost)}"
        )
        self.print(f"run {run}")

    def _print_table(self, title: str, columns: Mapping[str, Mapping[str, float]]) -> None:
        """Print a column of values for each split or baseline, with a row for each value that one of them has."""
        table = Table(title=title)
        table.add_column("")
        for name in columns:
            table.add_column(name, justify="right")
        for key in dict.fromkeys(key for values in columns.values() for key in values):
            table.add_row(key, *(f"{values[key]:.4f}" if key in values else "" for values in columns.values()))
        self.console.print(table)


def format_duration(seconds: float) -> str:
    """Format a duration: ``75`` → ``1:15``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _gib(cost: Mapping[str, float]) -> str:
    peak_bytes = cost.get("peak_device_bytes") or cost.get("peak_host_bytes", 0.0)
    return f"{peak_bytes / 2**30:.2f} GiB"
