"""Selects the checkpoint with the best score on dev, and stores its weights, scores and predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from transformers.utils import GENERATION_CONFIG_NAME

from peftkit.components import Prediction
from peftkit.data.pipeline import PreparedData
from peftkit.data.tokenized_split import TokenizedSplit
from peftkit.distributed.accelerator import run_on_main
from peftkit.errors import RunError
from peftkit.evaluate.evaluator import SplitResult, resolve_selection_metric
from peftkit.models.checkpoints.generation_settings import copy_generation_config
from peftkit.models.checkpoints.transformers_versions import write_compatible_files
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory
from peftkit.train import checkpoint
from peftkit.train.state import EvaluationRow
from peftkit.train.steps.parallel_strategies import Strategy

Results = Mapping[str, SplitResult]


def is_better(new: float | None, old: float | None, *, higher_is_better: bool) -> bool:
    """Return whether a value on dev is better than the best one so far.

    Args:
        new: The value.
        old: The best value so far; None if there is none.
        higher_is_better: The direction.

    Returns:
        False for a value that is not finite; True for the first finite value.
    """
    if new is None or not math.isfinite(new):
        return False
    if old is None:
        return True
    return new > old if higher_is_better else new < old


class CheckpointSelector:
    """The best evaluation of a run so far, by its score on dev.

    Args:
        recipe: The recipe of the run.
        model: The unwrapped model.
        strategy: Gathers and restores the model's weights.
        accelerator: The Accelerator of the run.
        data: The data of the run.
        run: The run directory; None on all processes but the main one.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        strategy: Strategy,
        accelerator: Accelerator,
        data: PreparedData,
        run: RunDirectory | None,
    ) -> None:
        self.recipe, self.module, self.strategy = recipe, model, strategy
        self.accelerator, self.data, self.run = accelerator, data, run
        self.row: EvaluationRow | None = None
        """The best evaluation; None as long as no score on dev was finite."""
        self.metric, self.higher_is_better = "", True
        """The metric that selects, and its direction."""
        self.reported: dict[str, dict[str, float]] = {}
        """Final values of the selected checkpoint on dev, test, the evaluation sets and the probes."""
        self.last_step: dict[str, dict[str, float]] = {}
        """Values of the last step on the same rows, if the task reports it; empty if not."""
        self.calibration: dict[str, Any] = {}
        """What the objective chose for the selected checkpoint by dev."""

    def resume(self, row: EvaluationRow) -> None:
        """Restore the best evaluation at the time of a checkpoint."""
        self.row = row
        self.metric, self.higher_is_better = resolve_selection_metric(self.recipe, row["dev"])

    def offer(self, row: EvaluationRow, results: Results) -> bool:
        """Select an evaluation if it is the best so far, and store its model and predictions.

        Args:
            row: The evaluation.
            results: Its results by split.

        Returns:
            Whether it was selected.
        """
        self.metric, self.higher_is_better = resolve_selection_metric(self.recipe, row["dev"])
        old = None if self.row is None else self.row["dev"][self.metric]
        if not is_better(row["dev"][self.metric], old, higher_is_better=self.higher_is_better):
            return False
        self.row = row
        self._save_model()
        if not self.data.is_curve_subsampled:
            self._write_predictions(results)
            return True
        weights, method_state = self.strategy.trainable_state(), self.recipe.method.state_dict(self.module)
        if self.run is not None:
            checkpoint.write_selected(self.run.path, row["step"], weights, method_state)
        return True

    def finish(
        self,
        step: int,
        evaluate_splits: Callable[[Sequence[TokenizedSplit], int], Results],
        *,
        resumed: bool,
        evaluations: int,
        last: EvaluationRow,
    ) -> None:
        """Evaluate the selected checkpoint on the full dev and test splits, if that has not been done.

        Args:
            step: The current step of the model.
            evaluate_splits: Evaluates splits with the current model, which has had a number of steps.
            resumed: Whether the run was resumed: the saved model may then be of a later step.
            evaluations: The number of evaluations so far.
            last: The last of them, of the current step.

        Raises:
            RunError: No score on dev was finite.
        """
        if self.row is None:
            raise RunError(
                f"{self.metric} on dev was not finite in any of the {evaluations} evaluations, so no checkpoint can be "
                "selected; lower train.learning_rate, or set evaluate.selection_metric to another metric"
            )
        names = [split.name for split in self.data.splits_at_end]
        self.reported = {name: self.row[name] for name in names if name in self.row}
        self.calibration = self.row.get("calibration", {})
        reports_last = type(self.recipe.task).reports_last_step
        if self.data.is_curve_subsampled:
            if reports_last and self.row["step"] != step:
                results = evaluate_splits(self.data.final_splits, step)
                self.last_step = {name: result.values for name, result in results.items()}
            if self.row["step"] != step:
                self._load(self.row["step"], save=resumed)
            results = evaluate_splits(self.data.splits_at_end, self.row["step"])
            self.reported = {name: result.values for name, result in results.items()}
            self.calibration = results["dev"].calibration
            if self.run is not None:
                store_examples(self.run, self.row["step"], results, self.data, whole=True)
            self._write_predictions(results)
        if reports_last and self.row["step"] == step:
            self.last_step = self.reported
        elif reports_last and not self.last_step:
            self.last_step = {name: last[name] for name in names if name in last}
        if self.run is not None:
            self.run.merge_examples()

    def _load(self, step: int, *, save: bool) -> None:
        """Restore the weights of the selected evaluation."""
        path = run_on_main(self.accelerator, lambda: self.run.path)  # type: ignore[union-attr]
        saved = checkpoint.read_selected(path, step)
        self.strategy.load(saved.trainable)
        self.recipe.method.load_state_dict(
            self.module, {k: v.to(self.accelerator.device) for k, v in saved.method.items()}
        )
        if save:
            self._save_model()

    def _save_model(self) -> None:
        with self.strategy.gathered():
            if self.run is not None:
                self.run.replace_folder("model", self._write_model)

    def _write_model(self, folder: Path) -> None:
        self.recipe.method.save(self.module, folder)
        write_compatible_files(folder)
        if (folder / GENERATION_CONFIG_NAME).is_file():
            copy_generation_config(self.recipe.model.name, self.recipe.model.revision, folder)

    def _write_predictions(self, results: Results) -> None:
        if self.run is not None:
            for name, predictions in stored_predictions(results).items():
                self.run.write_lines(f"predictions/{name}.jsonl", predictions)


def store_examples(run: RunDirectory, step: int, results: Results, data: PreparedData, *, whole: bool) -> None:
    """Store the per-example results of an evaluation, those of probes in their folders.

    Args:
        run: The run directory.
        step: Optimizer steps before the evaluation.
        results: Its results by split.
        data: The data of the run.
        whole: Whether this is the evaluation of the full splits at the end.
    """
    predictions = stored_predictions(results)
    for name in [probe.name for probe in data.probes]:
        run.probe(name).add_examples(step, {name: predictions.pop(name)}, whole=whole)
    run.add_examples(step, predictions, whole=whole)


def stored_predictions(results: Results) -> dict[str, list[Prediction]]:
    """Return the predictions of dev, test, evaluation sets and probes, the splits with stored per-example results."""
    return {name: result.predictions for name, result in results.items() if name != "train"}
