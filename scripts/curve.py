"""Draws the picture of the README from a sweep's runs, and prints the table of docs/results.md.

    .venv-adapters/bin/python scripts/curve.py runs/topic --out docs/curve.svg

The test score of each method against its work: the line is the mean over seeds, the band their range.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

import peftkit
from peftkit.compare.recorded_baselines import mean_baseline_scores

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # Okabe and Ito (2008)
REFERENCE = "full"
"""The method that is drawn in black."""
POINTS = 100
"""Points of a curve."""
ByMethod = Mapping[str, Sequence[peftkit.Run]]


def read(folder: Path) -> ByMethod:
    """Read the finished runs by method, the best last score first."""
    runs: defaultdict[str, list[peftkit.Run]] = defaultdict(list)
    for run in peftkit.load_runs(folder):
        if run.status == "done":
            runs[run.summary["method"]].append(run)
    return dict(sorted(runs.items(), key=lambda item: -np.mean([selected(run) for run in item[1]])))


def selected(run: peftkit.Run) -> float:
    """Return the test score of the checkpoint that dev selects."""
    return float(run.summary["selected"]["test"][run.summary["selection_metric"]])


def draw(by_method: ByMethod, out: Path) -> None:
    """Draw the curves on a logarithmic axis of work, with input-blind scores as dotted lines."""
    plt.rcParams["svg.hashsalt"] = "peftkit"  # for reproducible files
    figure, panel = plt.subplots(figsize=(7.2, 3.8))
    colours = iter(COLOURS)
    for method, runs in by_method.items():
        metric = runs[0].summary["selection_metric"]
        curves = [run.curve[run.curve["cost/gmacs"] > 0] for run in runs]
        costs = [np.log(curve["cost/gmacs"].to_numpy()) for curve in curves]
        # Seeds are evaluated at different costs, so their curves are compared where all have been measured.
        grid = np.linspace(max(each[0] for each in costs), min(each[-1] for each in costs), POINTS)
        tests = [curve[f"test/{metric}"].to_numpy() for curve in curves]
        scores = np.array([np.interp(grid, cost, test) for cost, test in zip(costs, tests, strict=True)])
        colour = "black" if method == REFERENCE else next(colours)
        label = f"{method} ({runs[0].summary['parameters']['trainable']:,} parameters)"
        panel.plot(np.exp(grid), scores.mean(0), color=colour, label=label)
        panel.fill_between(np.exp(grid), scores.min(0), scores.max(0), color=colour, alpha=0.15, linewidth=0)
    runs = [run for each in by_method.values() for run in each]
    chance = mean_baseline_scores((run.summary for run in runs), metric, "test")
    panel.axhline(max(chance.values()), color="grey", linestyle=":", label="best score without reading the text")
    panel.set(xscale="log", xlabel="GMACs of training", ylabel=f"test {metric}", ylim=(0, None))
    panel.set_title(f"{runs[0].summary['task']} with {runs[0].summary['model']}, {len(runs) // len(by_method)} seeds")
    panel.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    figure.set_layout_engine("constrained")
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


def table(by_method: ByMethod) -> str:
    """Write a row for each method: means over its seeds, and the lowest and highest test score."""
    lines = ["| method | trainable | GMACs | samples | train s | test accuracy |", "|---|---:|---:|---:|---:|---|"]
    for method, runs in by_method.items():
        costs = [run.summary["cost"] for run in runs]
        scores = [selected(run) for run in runs]
        cells = [
            method,
            f"{runs[0].summary['parameters']['trainable']:,}",
            f"{np.mean([cost['gmacs'] for cost in costs]):.0f}",
            f"{np.mean([run.summary['samples'] for run in runs]):,.0f}",
            f"{np.mean([cost['train_seconds'] for cost in costs]):.0f}",
            f"{np.mean(scores):.3f} ({min(scores):.3f} – {max(scores):.3f})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of a sweep's runs")
    parser.add_argument("--out", type=Path, default=Path("curve.svg"))
    options = parser.parse_args()
    by_method = read(options.folder)
    if not by_method:
        raise SystemExit("none of the runs is finished")
    print(table(by_method))
    draw(by_method, options.out)
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
