"""Draws learning curves of run directories and prints a table of them.

    .venv/bin/python scripts/curve.py runs/* --out docs/curve.svg

One panel per task, one line per method: the test score of the selection metric against training seconds or samples.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from peftkit.compare.recorded_baselines import mean_baseline_scores
from peftkit.errors import InputError
from peftkit.run_directory import RunDirectory

STYLES = {"constant": (0, (1, 1)), "majority": (0, (4, 2)), "random": (0, (1, 4))}
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # Okabe and Ito (2008)


def read(paths: list[Path]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Read the finished runs with their evaluations; others are reported and skipped."""
    runs = []
    for path in paths:
        try:
            run = RunDirectory(path)
            summary = run.summary()
            if summary["status"] == "done":
                runs.append((summary, run.evaluations()))
        except InputError as error:
            print(f"skipped: {error}")
    return sorted(runs, key=lambda run: (run[0]["task"], -run[0]["parameters"]["trainable"], run[0]["method"]))


def draw(runs: list[tuple[dict[str, Any], list[dict[str, Any]]]], axis: str, out: Path) -> None:
    """Draw one panel per task; a method has the same colour in all panels."""
    by_task: defaultdict[str, list[Any]] = defaultdict(list)
    for run in runs:
        by_task[run[0]["task"]].append(run)
    methods = list(dict.fromkeys(summary["method"] for summary, _ in runs))
    colour = dict(zip(methods, COLOURS * 9, strict=False))
    figure, panels = plt.subplots(1, len(by_task), figsize=(5 * len(by_task), 3.6), squeeze=False)
    for panel, (task, members) in zip(panels[0], by_task.items(), strict=True):
        for summary, rows in members:
            x = [row["cost"]["train_seconds"] if axis == "seconds" else row[axis] for row in rows]
            y = [row["test"][summary["selection_metric"]] for row in rows]
            panel.plot(x, y, marker="o", markersize=3, color=colour[summary["method"]], label=summary["method"])
        baselines = mean_baseline_scores((summary for summary, _ in members), members[0][0]["selection_metric"], "test")
        for name, value in baselines.items():
            panel.axhline(value, color="grey", linestyle=STYLES.get(name, ":"), linewidth=0.8, label=name)
        panel.set(title=f"{task} ({members[0][0]['model']})", xlabel=f"training {axis}")
        panel.set_ylabel(f"test {members[0][0]['selection_metric']}")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    figure.tight_layout()
    plt.rcParams["svg.hashsalt"] = "peftkit"  # for reproducible files
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


def main() -> None:
    """Print a Markdown table of the runs and draw their curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories")
    parser.add_argument("--axis", choices=["seconds", "samples", "step"], default="samples")
    parser.add_argument("--out", type=Path, default=Path("curve.svg"))
    options = parser.parse_args()
    runs = read(options.runs)
    if not runs:
        raise SystemExit("none of the runs is finished")
    print(
        "| task | method | trainable | samples | train s | selected step | dev | test |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for summary, _ in runs:
        chosen, key = summary["selected"], summary["selection_metric"]
        cells = [
            summary["task"],
            summary["method"],
            f"{summary['parameters']['trainable']:,}",
            f"{summary['samples']:,}",
            f"{summary['cost']['train_seconds']:.0f}",
            str(chosen["step"]),
            f"{chosen['dev'][key]:.3f}",
            f"{chosen['test'][key]:.3f}",
        ]
        print(f"| {' | '.join(cells)} |")
    draw(runs, options.axis, options.out)
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
