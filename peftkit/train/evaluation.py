"""Evaluates the model during training, and records and selects the evaluations."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.components import TrainContext
from peftkit.components.callback import EvaluationResult
from peftkit.data.probes.prepared_probe import PreparedProbe
from peftkit.data.tokenized_split import TokenizedSplit
from peftkit.distributed.accelerator import run_on_main
from peftkit.evaluate.evaluator import GENERATED_TOKENS, SplitResult, evaluate
from peftkit.evaluate.initial_evaluation import StartEvaluation, StartEvaluations, fingerprint
from peftkit.models import BoundObjective
from peftkit.run_directory import RunDirectory
from peftkit.train.callbacks import LoopCallback, MeterList
from peftkit.train.checkpoint_selection import CheckpointSelector, store_examples
from peftkit.train.state import EvaluationRow

if TYPE_CHECKING:
    from peftkit.train.trainer import Trainer

REUSED = "reused_evaluation_seconds"
"""Key of an evaluation that is another run's: the seconds that it took there."""
PROBE_SECONDS = "probe_seconds"
"""Key of the seconds that the probes took of those of an evaluation."""

TIMED_ROWS = 16
"""Rows of each split that are evaluated to see how long it takes, if that limits training and nothing is evaluated
before it."""


class Evaluations(LoopCallback):
    """Evaluates the model when that is due, and the selected checkpoint at the end.

    Args:
        meters: The meters, whose totals each evaluation records.
        run: The run directory; None on all processes but the main one.
        known: The evaluations before training of other runs.
    """

    selection: CheckpointSelector

    def __init__(self, meters: MeterList, run: RunDirectory | None, known: StartEvaluations | None = None) -> None:
        self.meters, self.run, self.known = meters, run, known or StartEvaluations()
        self._probes: Mapping[str, PreparedProbe] = {}
        self._probe_seconds = 0.0

    def attach(self, trainer: Trainer) -> None:
        """Create the selector of checkpoints."""
        super().attach(trainer)
        self._probes = {probe.name: probe for probe in trainer.data.probes}
        self.selection = CheckpointSelector(
            trainer.recipe, trainer.module, trainer.strategy, trainer.accelerator, trainer.data, self.run
        )

    def on_step_settled(self) -> None:
        state = self.trainer.state
        if state.evaluation_due:
            state.evaluation_due = False
            self._evaluate()
        elif self.trainer.recipe.train.budget.wall_seconds is not None and not self.trainer.clock.knows_evaluation:
            splits = self.trainer.data.splits_along_curve
            self._evaluate_splits([each.select(each.indices[:TIMED_ROWS]) for each in splits])

    def on_train_end(self, context: TrainContext) -> None:
        """Evaluate the selected checkpoint on the full splits, if that has not been done.

        Raises:
            RunError: No score on dev was finite.
        """
        state = self.trainer.state
        self._probe_seconds = 0.0
        self.selection.finish(
            state.progress.step,
            lambda splits, step: self._evaluate_splits(splits, step)[0],
            resumed=bool(state.resumed_after_steps),
            evaluations=len(state.evaluations),
            last=state.evaluations[-1],
        )

    @property
    def probe_seconds(self) -> float:
        """The seconds that the probes took of all evaluations, after training."""
        along_curve: list[float] = [row.get(PROBE_SECONDS, 0.0) for row in self.trainer.state.evaluations]
        return self._probe_seconds + sum(along_curve)

    def state_dict(self) -> dict[str, Any]:
        """Return the number and digest of the evaluations, and the index of the selected one."""
        evaluations, selected = self.trainer.state.evaluations, self.selection.row
        assert self.run is not None  # only the main process saves  # noqa: S101
        return {
            "evaluations": len(evaluations),
            "evaluations_digest": self.run.evaluations_digest(len(evaluations)),
            "selected_evaluation": None if selected is None else evaluations.index(selected),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the evaluations up to the checkpoint, and remove later ones from the run directory."""
        number, digest = state["evaluations"], state["evaluations_digest"]
        accelerator = self.trainer.accelerator
        evaluations = run_on_main(accelerator, lambda: self.run.truncate_evaluations(number, digest))  # type: ignore[union-attr]
        steps = [row["step"] for row in evaluations]
        run_on_main(accelerator, lambda: self.run.truncate_examples(steps))  # type: ignore[union-attr]
        self.trainer.state.evaluations = evaluations
        if state["selected_evaluation"] is not None:
            self.selection.resume(evaluations[state["selected_evaluation"]])

    def _evaluate(self) -> None:
        trainer, progress = self.trainer, self.trainer.progress
        trainer.losses.check(wait=True)
        reused_seconds: float | None = None
        if progress.step == 0 and self.known.shared and trainer.accelerator.num_processes == 1:
            results, seconds, reused_seconds = self._evaluate_start()
        else:
            results, seconds = self._evaluate_splits(trainer.data.splits_along_curve)
        row: EvaluationRow = {
            "step": progress.step,
            "samples": progress.samples,
            "epoch": progress.epoch,
            "tokens": {"input": progress.input_tokens, "target": progress.target_tokens},
            "cost": {**self.meters.totals(), "wall_seconds": trainer.clock.seconds},
            "evaluation_seconds": seconds,
            **({REUSED: reused_seconds} if reused_seconds is not None else {}),
            **({PROBE_SECONDS: self._probe_seconds if reused_seconds is None else 0.0} if self._probes else {}),
            **_count_generated(results),
            "train": {"step_loss": trainer.state.pop_mean_loss()},
        }
        for name, result in results.items():
            row[name] = {**row.get(name, {}), **result.values}
        if results["dev"].calibration:
            row["calibration"] = results["dev"].calibration
        trainer.state.evaluations.append(row)
        with trainer.clock.time_saving("evaluation"):
            if self.run is not None:
                store_examples(self.run, progress.step, results, trainer.data, whole=False)
                self.run.append_evaluation(row)
            is_best = self.selection.offer(row, results)
        selection = self.selection
        # A copy, since the row is also written to the summary.
        trainer.callbacks.on_evaluate(
            EvaluationResult(copy.deepcopy(row), selection.metric, selection.higher_is_better, is_best)
        )
        trainer.agree_on_stop()

    def _evaluate_start(self) -> tuple[dict[str, SplitResult], float, float | None]:
        """Evaluate the model before training, or reuse the evaluation of a model that computes the same.

        Returns:
            The results of splits by name, the seconds that this took, and, if another run's evaluation is reused, the
            seconds that it took there.
        """
        trainer, splits, started = self.trainer, self.trainer.data.splits_along_curve, time.perf_counter()
        compared = trainer.data.curve_splits
        key = fingerprint(trainer.module, compared, trainer.recipe, trainer.objective, trainer.accelerator)
        known = None if key is None else self.known.get(key)
        seconds = time.perf_counter() - started
        trainer.state.evaluation_seconds += seconds
        if known is not None:
            return known.results, seconds, known.seconds
        results, evaluated = self._evaluate_splits(splits)
        if key is not None:
            self.known.add(key, StartEvaluation(results, evaluated))
        return results, seconds + evaluated, None

    def _evaluate_splits(
        self, splits: Sequence[TokenizedSplit], step: int | None = None
    ) -> tuple[dict[str, SplitResult], float]:
        """Return the results of splits by name, and the seconds that they took.

        Args:
            splits: The splits.
            step: The steps of the model; the current ones if None.
        """
        trainer, started = self.trainer, time.perf_counter()
        self._probe_seconds = 0.0
        trainer.memory.give_back()  # what evaluations take is not that of steps
        objective = trainer.objective.at_step(trainer.progress.step if step is None else step)
        results = dict.fromkeys([split.name for split in splits], SplitResult({}, []))
        for split in sorted(splits, key=lambda each: each.name != "dev"):  # thresholds are chosen on dev
            results[split.name] = self._evaluate_split(split, objective)
            if split.name == "dev":
                objective = objective.with_calibration(results["dev"].calibration)
        seconds = time.perf_counter() - started
        trainer.state.evaluation_seconds += seconds
        return results, seconds

    def _evaluate_split(self, split: TokenizedSplit, objective: BoundObjective) -> SplitResult:
        trainer, started, probe = self.trainer, time.perf_counter(), self._probes.get(split.name)
        result = evaluate(
            trainer.module,
            split,
            probe.recipe if probe else trainer.recipe,
            probe.objective if probe else objective,
            trainer.accelerator,
            all_ranks_forward=trainer.strategy.all_ranks_forward,
            calibrate=split.name == "dev",
        )
        seconds = time.perf_counter() - started
        trainer.clock.add_evaluation(split.name, len(split.rows), seconds)
        self._probe_seconds += seconds if probe else 0.0
        return result


def _count_generated(results: Mapping[str, SplitResult]) -> dict[str, dict[str, int]]:
    """Return the number of tokens that were generated for each split, of all samples; empty if none were."""
    tokens = {
        name: sum(each.get(GENERATED_TOKENS, 0) for each in result.predictions) for name, result in results.items()
    }
    return {GENERATED_TOKENS: tokens} if any(tokens.values()) else {}
