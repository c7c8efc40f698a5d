"""The checkpoint that dev selects: its weights while the run goes on, its scores and predictions at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from transformers.utils import GENERATION_CONFIG_NAME

from peftkit.errors import RunError
from peftkit.recipe import Recipe
from peftkit.runner import checkpoint
from peftkit.runner.data import Data, EvaluationSplit
from peftkit.runner.engines import Engine
from peftkit.runner.evaluation import Prediction, Result, direction
from peftkit.runner.generation import keep_generation_config
from peftkit.runner.resume import by_main
from peftkit.runner.versions import write_for_both
from peftkit.runs import RunDirectory

Row = dict[str, Any]
"""A line of ``evaluations.jsonl``."""
Results = Mapping[str, Result]


def is_better(new: float | None, old: float | None, *, higher_is_better: bool) -> bool:
    """Whether a value of dev takes the place of the one that is selected so far.

    Args:
        new: the value.
        old: the selected one; None where nothing is selected.
        higher_is_better: the direction.

    Returns:
        False for what is no finite number, which never selects; True for the first that is one.
    """
    if new is None or not math.isfinite(new):
        return False
    if old is None:
        return True
    return new > old if higher_is_better else new < old


class Selection:
    """The evaluation that dev selects so far."""

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        engine: Engine,
        accelerator: Accelerator,
        data: Data,
        run: RunDirectory | None,
    ) -> None:
        self.recipe, self.module, self.engine = recipe, model, engine
        self.accelerator, self.data, self.run = accelerator, data, run
        self.row: Row | None = None
        """The evaluation, None as long as dev had no number."""
        self.value, self.higher_is_better = "", True
        """The value that selects, and its direction."""
        self.reported: dict[str, dict[str, float]] = {}
        """Dev's and test's values that the run ends with: those of the selected checkpoint, on all rows."""

    def resume(self, row: Row) -> None:
        """Goes on with the evaluation that was selected when the checkpoint was written."""
        self.row = row
        self.value, self.higher_is_better = direction(self.recipe, row["dev"])

    def offer(self, row: Row, results: Results) -> bool:
        """Selects an evaluation if it is the best so far, and stores what the end of the run needs of it."""
        self.value, self.higher_is_better = direction(self.recipe, row["dev"])
        old = None if self.row is None else self.row["dev"][self.value]
        if not is_better(row["dev"][self.value], old, higher_is_better=self.higher_is_better):
            return False
        self.row = row
        self._save_model()
        if not self.data.partial:
            self._write_predictions(results)
            return True
        weights, own = self.engine.weights(), self.recipe.method.state(self.module)
        if self.run is not None:
            checkpoint.write_selected(self.run.path, row["step"], weights, own)
        return True

    def finish(
        self, step: int, evaluated: Callable[[Sequence[EvaluationSplit]], Results], *, resumed: bool, evaluations: int
    ) -> None:
        """Evaluates the selected checkpoint on all of dev and test, unless it has been.

        Args:
            step: the step that the model is at.
            evaluated: evaluates splits.
            resumed: whether an earlier process may have saved the model of a later step.
            evaluations: how many evaluations there were.

        Raises:
            RunError: dev has selected no checkpoint.
        """
        if self.row is None:
            raise RunError(
                f"dev's {self.value} was no finite number at any of {evaluations} evaluations, so that no checkpoint "
                "can be selected; lower train.learning_rate, or set evaluate.selects to another value"
            )
        self.reported = {name: self.row[name] for name in ("dev", "test")}
        if self.data.partial:
            if self.row["step"] != step:
                self._load(self.row["step"], save=resumed)
            results = evaluated(self.data.selected)
            self.reported = {name: result.values for name, result in results.items()}
            if self.run is not None:
                self.run.add_examples(self.row["step"], of_dev_and_test(results), whole=True)
            self._write_predictions(results)
        if self.run is not None:
            self.run.merge_examples()

    def _load(self, step: int, *, save: bool) -> None:
        """Puts the weights back that the model had at the selected evaluation."""
        path = by_main(self.accelerator, lambda: self.run.path)  # type: ignore[union-attr]
        saved = checkpoint.read_selected(path, step)
        self.engine.load(saved.trainable)
        self.recipe.method.restore(self.module, {k: v.to(self.accelerator.device) for k, v in saved.method.items()})
        if save:
            self._save_model()

    def _save_model(self) -> None:
        with self.engine.whole():
            if self.run is not None:
                self.run.replace_folder("model", self._write_model)

    def _write_model(self, folder: Path) -> None:
        self.recipe.method.save(self.module, folder)
        write_for_both(folder)
        if (folder / GENERATION_CONFIG_NAME).is_file():
            keep_generation_config(self.recipe.model.name, self.recipe.model.revision, folder)

    def _write_predictions(self, results: Results) -> None:
        if self.run is not None:
            for name, predictions in of_dev_and_test(results).items():
                self.run.write_lines(f"predictions/{name}.jsonl", predictions)


def of_dev_and_test(results: Results) -> dict[str, list[Prediction]]:
    """The predictions of the splits whose results per example are stored."""
    return {name: results[name].predictions for name in ("dev", "test")}
