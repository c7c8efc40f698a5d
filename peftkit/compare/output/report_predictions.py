"""The predictions of the HTML report, in which methods can be compared row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.per_example_scores import read_example_scores
from peftkit.errors import InputError
from peftkit.run_directory import RunDirectory

MAX_ROWS = 200
"""The most rows; of more, those on which methods differ most."""
MAX_LETTERS = 500
"""The longest text; longer ones are cut."""


def collect_predictions(group: RunGroup, metric: str, labels: Sequence[str]) -> dict[str, Any]:
    """Collect predictions of the test rows, of the first seed of each method.

    Args:
        group: The runs.
        metric: The metric by which a prediction is better than another.
        labels: The methods.

    Returns:
        The ``rows``; by ``methods`` their predictions, as numbers of ``texts``, and scores; the number of rows ``of``
        which these are; whether the scores are ``binary``: right or wrong.
    """
    by_label: dict[str, tuple[Sequence[Mapping[str, Any]], Any]] = {}
    for label in labels:
        rows, scores = _read(next(iter(group.runs[label].values())), metric)
        if rows:
            by_label[label] = rows, scores
    lengths = {len(rows) for rows, _ in by_label.values()}
    if len(lengths) != 1:  # none are stored, or of different rows
        return {"rows": [], "texts": [], "methods": {}, "of": 0, "binary": True}
    [number] = lengths
    first = next(iter(by_label.values()))[0]
    scores = np.stack([values for _, values in by_label.values()])
    most_different = np.argsort(-scores.std(0), kind="stable")[:MAX_ROWS]
    chosen = sorted(most_different.tolist())
    texts: dict[str, int] = {}
    methods = {
        label: {
            "texts": [texts.setdefault(_cut(rows[i].get("prediction")), len(texts)) for i in chosen],
            "scores": [float(f"{values[i]:.4g}") for i in chosen],
        }
        for label, (rows, values) in by_label.items()
    }
    return {
        "rows": [{key: _cut(first[i].get(key)) for key in ("index", "source", "target")} for i in chosen],
        "texts": [*texts],
        "methods": methods,
        "of": number,
        "binary": bool(np.isin(scores, (0.0, 1.0)).all()),
    }


def _read(run: LoadedRun, metric: str) -> tuple[Sequence[Mapping[str, Any]], Any]:
    """Read predictions and their scores; without scores per example, whether the prediction is the target."""
    try:
        rows = RunDirectory(run.path).predictions(run.test_split)
        scores = read_example_scores(run, metric)
    except InputError:
        return [], None
    if scores is not None and len(scores.values) == len(rows):
        return rows, scores.values
    return rows, np.array([float(row.get("prediction") == row.get("target")) for row in rows])


def _cut(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]} …"
