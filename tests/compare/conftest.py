"""Run directories with planted results."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tomli_w

from peftkit.compare.input.groups import RunGroup
from peftkit.compare.matched_methods import load_groups
from peftkit.compare.statistics.hierarchy import SamplingEffort
from peftkit.plugins import Registry

Plant = Callable[..., Path]
HALF_EFFORT = SamplingEffort(warm_up_states=10, kept_states=20)
"""For calibrations over hundreds of posteriors; ``tests/scripts/test_calibrate_statistics.py`` has the full effort."""

TEXTS = [f"a {size} {thing} is {colour}" for size in ("big", "old") for thing in ("leaf", "sea") for colour in "ab"]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Writes a run of this method and seed with these shares of right answers at 1, 2, 3 … GMACs."""
    return planter(tmp_path / "runs")


def planter(folder: Path) -> Plant:
    """Returns the function that writes runs into a folder."""

    def write_run(
        method: str,
        seed: int,
        shares: list[float],
        *,
        cost: float = 1.0,
        examples: int = 200,
        device: str = "cpu",
        torch: str = "2.13.0",
        options: dict[str, Any] | None = None,
        tables: dict[str, Any] | None = None,
        right: list[bool] | None = None,
        task: str = "t",
        model: str = "m",
        constant: float | None = None,
    ) -> Path:
        path = folder / f"{method}-{seed}-{len(list(folder.glob('*')))}"
        (path / "predictions").mkdir(parents=True)
        recipe = {
            "run": {"name": method, "seed": seed},
            "model": {"name": model, "dtype": "float32"},
            "task": {"name": task},
            "method": {"name": method, **(options or {})},
            "train": {"batch_size": 8, "learning_rate": 0.1},
            "evaluate": {"dev_examples": 50},
            **(tables or {}),
        }
        (path / "recipe.toml").write_text(tomli_w.dumps(recipe))
        rows = [
            {
                "format": 1,
                "step": i,
                "samples": 8 * i,
                "tokens": {"input": 80 * i, "target": 8 * i},
                "cost": {"gmacs": cost * i, "train_seconds": 2.0 * cost * i, "peak_host_bytes": 2**30 * cost},
                "dev": {"accuracy": share},
                "test": {"accuracy": share},
            }
            for i, share in enumerate(shares)
        ]
        (path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        best = max(rows, key=lambda row: row["dev"]["accuracy"])  # type: ignore[index, call-overload, no-any-return]
        made_right = right or [i < round(shares[rows.index(best)] * examples) for i in range(examples)]
        best["test"]["accuracy"] = sum(made_right) / len(made_right)  # type: ignore[index, call-overload]
        predictions = [
            {"index": i, "target": "yes", "prediction": "yes" if each else "no"} for i, each in enumerate(made_right)
        ]
        (path / "predictions" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions))
        environment = {
            "format": 1,
            "python": "3.11",
            "packages": {"torch": torch},
            "hardware": {"device": device, "cores": 2},
        }
        (path / "environment.json").write_text(json.dumps(environment))
        summary = {
            "format": 1,
            "status": "done",
            "task": task,
            "model": model,
            "method": method,
            "seed": seed,
            "selection_metric": "accuracy",
            "higher_is_better": True,
            "selected": {"step": best["step"], "dev": best["dev"], "test": best["test"]},
            "samples": rows[-1]["samples"],
            "tokens": rows[-1]["tokens"],
            "cost": rows[-1]["cost"] | {"trainable_parameters": 100.0 * cost, "checkpoint_bytes": 400.0 * cost},  # type: ignore[operator]
            "rows": {"train": 100},
            "processes": 1,
        }
        if constant is not None:
            summary["baselines"] = {"constant": {"test": {"accuracy": constant}}}
        (path / "summary.json").write_text(json.dumps(summary))
        return path

    return write_run


def with_values(path: Path, values: list[dict[str, Any]], metric: str, score: float, **more: Any) -> Path:
    """Gives a run other predictions and another test score; the last evaluation is selected."""
    lines = [{"index": i, "target": "yes", "prediction": "no", **each} for i, each in enumerate(values)]
    (path / "predictions" / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = json.loads((path / "summary.json").read_text())
    rows = [json.loads(line) for line in (path / "evaluations.jsonl").read_text().splitlines()]
    for row in rows:
        row["dev"] = row["test"] = {metric: score}
    summary |= {"selection_metric": metric, **more}
    summary["selected"] |= {"dev": {metric: score}, "test": {metric: score}}
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="package")
def probed_runs(models: dict[str, Path], registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two methods with two seeds, with a probe of texts and one of choices."""
    from peftkit.train.run import run
    from tests.tiny_runs import recipe_maker

    folder = tmp_path_factory.mktemp("probed")
    (folder / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    texts = f'{{name = "texts", path = "{(folder / "texts.txt").as_posix()}", examples = 5}}'
    probes = f'probe=[{texts}, {{name = "choices", task = {{name = "colour_choice"}}}}]'
    make = recipe_maker(models, registry, folder)
    with mock.patch.dict(os.environ, {"PEFTKIT_CACHE": str(folder / "cache")}):
        for method in ("full", "ia3"):
            for seed in (1, 2):
                run(make("decoder", f"method.name={method}", f"run.seed={seed}", probes), registry, quiet=True)
    return folder / "runs"


@pytest.fixture(scope="package")
def probed_group(probed_runs: Path) -> RunGroup:
    [group] = load_groups([probed_runs])[0]
    return group
