"""The training loop: optimizer steps, evaluations and checkpoints until the budget is used."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn

from peftkit.components import Meter, StepStats
from peftkit.data.dataloader import effective_batch_size, train_dataloader
from peftkit.data.pipeline import EvaluationSplit, PreparedData
from peftkit.distributed.accelerator import run_on_main
from peftkit.errors import DivergedError, RunError, StopRequested
from peftkit.evaluate.evaluator import SplitResult, evaluate
from peftkit.macs.mac_counter import StepMacs
from peftkit.models import ModelFamily
from peftkit.models.method_errors import explain_method_errors
from peftkit.monitor.console import ConsoleLogger
from peftkit.monitor.trackers import RunTrackers
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory
from peftkit.train import checkpoint
from peftkit.train.budget import IntervalTrigger, Progress, budget_used
from peftkit.train.checkpoint import Checkpoint
from peftkit.train.checkpoint_selection import CheckpointSelector, EvaluationRow, stored_predictions
from peftkit.train.mac_counting import make_mac_counter
from peftkit.train.optim import make_schedule, set_learning_rate
from peftkit.train.step import TrainStep
from peftkit.train.stop_signals import InterruptHandler
from peftkit.train.strategies import make_strategy

EARLY_STEPS = 3
"""Errors of a library in the first steps are attributed to the method's options."""
MAX_SAVED_NAN_BATCHES = 3
"""How many batches with a non-finite loss are saved."""


class Trainer:
    """Trains and evaluates one run.

    Args:
        recipe: The recipe of the run.
        model: The model with the method applied.
        family: The family of the model.
        data: The data of the run.
        meters: The meters of the run.
        accelerator: The Accelerator of the run.
        run: The run directory; None on all processes but the main one.
        console: Prints progress.
        interrupts: Records signals.
        mac_model: The model to count MACs on, if the trained one cannot be counted.
        input_digests: Digests of the run's inputs, which are stored in its checkpoints.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        family: ModelFamily,
        data: PreparedData,
        meters: tuple[Meter, ...],
        accelerator: Accelerator,
        run: RunDirectory | None,
        console: ConsoleLogger,
        interrupts: InterruptHandler,
        mac_model: nn.Module | None = None,
        input_digests: Mapping[str, str] | None = None,
    ) -> None:
        self.input_digests = dict(input_digests or {})
        self.recipe, self.family, self.data, self.meters = recipe, family, data, meters
        self.accelerator, self.run, self.console, self.interrupts = accelerator, run, console, interrupts
        self.module = model
        failure = f"fails in the first forward pass of {recipe.model.name!r}"
        with explain_method_errors(recipe.method, failure, remedy="use another method or model"):
            self.mac_counter = make_mac_counter(recipe, family, mac_model or model, data.train)
        self.loader, self.sampler = train_dataloader(recipe, data.train, family, accelerator)
        self.strategy = make_strategy(recipe, model, accelerator)
        self.selection = CheckpointSelector(recipe, model, self.strategy, accelerator, data, run)
        self.train_step = TrainStep(recipe, model, family, self.strategy, accelerator)
        self.effective_batch = effective_batch_size(recipe, accelerator.num_processes)
        self.progress = Progress(steps_per_epoch=data.steps_per_epoch(self.effective_batch))
        self.evaluation_trigger = IntervalTrigger(recipe.evaluate.every, recipe.train.budget)
        self.checkpoint_trigger = IntervalTrigger(recipe.train.checkpoint.every, recipe.train.budget)
        self.schedule = make_schedule(recipe)
        self.trackers = RunTrackers(accelerator, recipe, run.path if run else Path())
        self.evaluations: list[EvaluationRow] = []
        self.evaluation_seconds = 0.0
        self.resumed_after_steps: list[int] = []
        """The steps after which the run was resumed."""
        self.skipped_steps = 0
        """Steps without an update, because their loss was not finite."""
        self._losses: list[Tensor] = []
        """Summed losses of the steps since the last evaluation."""
        self._loss_targets = 0
        """Targets of these steps."""
        self._timer_start = self._wait_seconds = 0.0

    def train(self, resumed: Checkpoint | None = None) -> None:
        """Train until the budget is used, with evaluations on the way and at the end.

        Args:
            resumed: The checkpoint to resume from; None to start from the beginning.

        Raises:
            DivergedError: The loss is not finite.
            StopRequested: A signal was received; the progress is saved.
        """
        budget = self.recipe.train.budget
        for meter in self.meters:
            meter.start(self.module)
        if budget.joules is not None and "joules" not in self._meter_totals():
            raise RunError("train.budget.joules: energy cannot be measured on this machine; use another budget")
        evaluated = self._restore_checkpoint(resumed) if resumed else not self.recipe.evaluate.at_start
        try:
            if not evaluated:
                self._evaluate()
            self._timer_start = time.perf_counter()
            for batches in self._step_batches() if budget_used(budget, self.progress) < 1 else ():
                self._step(batches)
                share = budget_used(budget, self.progress)
                due = self.evaluation_trigger.due(self.progress) or share >= 1
                if self.checkpoint_trigger.due(self.progress):
                    self._save_checkpoint(evaluated=not due)
                if due:
                    self._evaluate()
                self._timer_start = time.perf_counter()
                if share >= 1:
                    break
            self.selection.finish(
                self.progress.step,
                lambda splits: self._evaluate_splits(splits)[0],
                resumed=bool(self.resumed_after_steps),
                evaluations=len(self.evaluations),
            )
        except StopRequested as stop:
            self._save_checkpoint(evaluated=stop.evaluated)
            raise

    def run_steps(self, number: int) -> None:
        """Take a number of steps without evaluations and checkpoints, for measurements."""
        self._timer_start = time.perf_counter()
        for batches in islice(self._step_batches(), number):
            self._step(batches)
            self._timer_start = time.perf_counter()

    def _step_batches(self) -> Iterator[list[dict[str, Tensor]]]:
        """Yield the batches of each optimizer step of this process, epoch after epoch."""
        accumulation_steps, progress = self.recipe.train.gradient_accumulation_steps, self.progress
        while True:
            self.loader.set_epoch(progress.completed_epochs)  # type: ignore[attr-defined]
            self.sampler.start = progress.steps_of_epoch
            batches: list[dict[str, Tensor]] = []
            for batch in self.loader:
                batches.append(batch)
                if len(batches) == accumulation_steps:
                    yield batches
                    batches = []
            progress.completed_epochs, progress.steps_of_epoch = progress.completed_epochs + 1, 0

    def _step(self, batches: list[dict[str, Tensor]]) -> None:
        early = self.progress.step < EARLY_STEPS
        with explain_method_errors(self.recipe.method, "fails in its first steps") if early else nullcontext():
            self._train_on(batches)

    def _train_on(self, batches: list[dict[str, Tensor]]) -> None:
        step = self.progress.step + 1
        self._wait_seconds = time.perf_counter() - self._timer_start
        for meter in self.meters:
            meter.on_step_start()
        self._timer_start = time.perf_counter()
        rate = self.recipe.train.learning_rate * self.schedule(budget_used(self.recipe.train.budget, self.progress))
        set_learning_rate(self.strategy.optimizer, rate)
        inputs = self.train_step.agree_on_inputs(batches, interrupted=bool(self.interrupts.received))
        if inputs.interrupted:  # on any process, so that all stop at the same step
            raise StopRequested(self.interrupts.received or signal.SIGTERM, evaluated=True)
        targets = inputs.stats.target_tokens
        loss = self.accelerator.reduce(self.train_step.accumulate(inputs.batches, targets, step), "sum")
        mean_loss = loss.item() / targets
        if not math.isfinite(mean_loss):
            self._handle_nonfinite_loss(mean_loss, inputs.batches)
            self.strategy.zero_grad()
            self._record_step(None, mean_loss, inputs.stats, rate)
            return
        if step == 2:  # at step 1 one factor of a low-rank update is zero, and so is the gradient of the other
            self.strategy.check_gradients()
        with self.train_step.profile_region("optimizer"):
            self.recipe.method.after_backward(self.module, step)
            self.strategy.clip()
            self.strategy.step()
            self.recipe.method.after_step(self.module, step)
            self.strategy.zero_grad()
        self._record_step(loss, mean_loss, inputs.stats, rate)

    def _handle_nonfinite_loss(self, mean_loss: float, batches: list[dict[str, Tensor]]) -> None:
        """Save the batch of a non-finite loss, and stop the run unless ``train.on_nan`` is ``"skip"``.

        Raises:
            DivergedError: The recipe says to stop.
        """
        self.skipped_steps += 1
        file = f"nan_at_step_{self.progress.step + 1}.safetensors"
        if self.skipped_steps <= MAX_SAVED_NAN_BATCHES:
            rank = self.accelerator.process_index
            tensors = {f"{rank}.{i}.{k}": v.cpu() for i, batch in enumerate(batches) for k, v in batch.items()}
            by_rank = gather_object([tensors])
            if self.run is not None:
                self.run.write_tensors(file, {name: t for part in by_rank for name, t in part.items()})
        if self.recipe.train.on_nan == "stop":
            raise DivergedError(
                f"the loss is {mean_loss} at step {self.progress.step + 1} (its batch is saved in {file}); lower "
                'train.learning_rate, train in float32 without mixed precision, or set train.on_nan = "skip"'
            )

    def _record_step(self, loss: Tensor | None, mean_loss: float, stats: StepStats, rate: float) -> None:
        """Add a step to progress, meters and console; ``loss`` is None if it was not finite."""
        if loss is not None:
            self._losses.append(loss)
            self._loss_targets += stats.target_tokens
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self._timer_start
        for meter in self.meters:
            meter.on_step_end()
        seconds, wait_seconds = self._broadcast_from_main(seconds, self._wait_seconds)
        progress, macs = self.progress, self._count_macs()
        optimizer = 0 if loss is None else self.mac_counter.optimizer_elementwise
        stats = replace(stats, seconds=seconds, wait_seconds=wait_seconds, optimizer=optimizer, **macs._asdict())
        progress.step += 1
        progress.steps_of_epoch += 1
        progress.samples += stats.samples
        progress.input_tokens += stats.input_tokens
        progress.target_tokens += stats.target_tokens
        progress.seconds += seconds
        progress.macs += macs.forward_macs + macs.backward_macs
        for meter in self.meters:
            meter.update(stats)
        if self.recipe.train.budget.joules is not None:
            [progress.joules] = self._broadcast_from_main(self._meter_totals().get("joules", 0.0))
        self.console.step(budget_used(self.recipe.train.budget, progress), mean_loss, rate, progress.seconds)

    def _count_macs(self) -> StepMacs:
        """Count the compute of the last step over all processes; not part of its time."""
        counts = [self.mac_counter.count(microbatch) for microbatch in self.train_step.microbatches]
        sums = torch.tensor([sum(values) for values in zip(*counts, strict=True)], device=self.accelerator.device)
        return StepMacs(*self.accelerator.reduce(sums, "sum").tolist())

    def _meter_totals(self) -> dict[str, float]:
        return {key: value for meter in self.meters for key, value in meter.totals().items()}

    def _broadcast_from_main(self, *values: float) -> list[float]:
        """Return the main process's values on all processes: clocks differ, but all must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return [*values]
        main_values: list[float] = broadcast(
            torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        ).tolist()
        return main_values

    def _evaluate(self) -> None:
        progress = self.progress
        results, seconds = self._evaluate_splits(self.data.curve_splits)
        cost = self._meter_totals()
        row: EvaluationRow = {
            "step": progress.step,
            "samples": progress.samples,
            "epoch": progress.epoch,
            "tokens": {"input": progress.input_tokens, "target": progress.target_tokens},
            "cost": cost,
            "evaluation_seconds": seconds,
            "train": {"step_loss": self._pop_mean_loss()},
        }
        for name, result in results.items():
            row[name] = {**row.get(name, {}), **result.values}
        self.evaluations.append(row)
        if self.run is not None:
            self.run.add_examples(progress.step, stored_predictions(results), whole=False)
            self.run.append_evaluation(row)
        selected = self.selection.offer(row, results)
        self.trackers.log(row)
        self.console.evaluation(row, self.selection.metric, selected=selected)

    def _evaluate_splits(self, splits: Sequence[EvaluationSplit]) -> tuple[dict[str, SplitResult], float]:
        """Return the results of splits by name, and the seconds that they took."""
        started = time.perf_counter()
        results = {
            split.name: evaluate(
                self.module,
                split,
                self.recipe,
                self.family,
                self.accelerator,
                all_ranks_forward=self.strategy.all_ranks_forward,
            )
            for split in splits
        }
        seconds = time.perf_counter() - started
        self.evaluation_seconds += seconds
        return results, seconds

    def _save_checkpoint(self, *, evaluated: bool) -> None:
        """Write a checkpoint; ``evaluated`` is whether no evaluation is due any more at this step."""
        weights, (tensors, rest) = self.strategy.trainable_state(), self.strategy.state_dict()
        method_state = self.recipe.method.state_dict(self.module)
        if self.run is None:
            return
        progress = {
            f.name: getattr(self.progress, f.name) for f in fields(self.progress) if f.name != "steps_per_epoch"
        }
        scaler = self.accelerator.scaler
        state = {
            "evaluation_done": evaluated,
            "inputs": self.input_digests,
            "processes": self.accelerator.num_processes,
            "progress": progress,
            "evaluation_trigger": self.evaluation_trigger.passed,
            "checkpoint_trigger": self.checkpoint_trigger.passed,
            "step_losses": [loss.item() for loss in self._losses],
            "step_targets": self._loss_targets,
            "evaluations": len(self.evaluations),
            "evaluations_digest": self.run.evaluations_digest(len(self.evaluations)),
            "selected_evaluation": None if self.selection.row is None else self.evaluations.index(self.selection.row),
            "evaluation_seconds": self.evaluation_seconds,
            "counting_seconds": self.mac_counter.seconds,
            "meters": {meter.name: meter.state_dict() for meter in self.meters},
            "optimizer": rest,
            "scaler": None if scaler is None else scaler.state_dict(),
            "resumed_after_steps": self.resumed_after_steps,
            "steps_skipped": self.skipped_steps,
            "microbatch_size": self.train_step.microbatch_size,
        }
        folder, keep = self.run.path / "checkpoints", self.recipe.train.checkpoint.keep
        checkpoint.write_checkpoint(folder, self.progress.step, weights, tensors, method_state, state, keep)

    def _restore_checkpoint(self, saved: Checkpoint) -> bool:
        """Restore a checkpoint; return whether no evaluation is due any more at its step.

        Raises:
            RunError: It was written by another number of processes, or for another model.
        """
        state, processes = saved.state, self.accelerator.num_processes
        if state["processes"] != processes:
            raise RunError(
                f"the run was started with {state['processes']} processes and cannot be resumed with {processes}; "
                f"launch it with --num_processes {state['processes']}"
            )
        self.strategy.load_state_dict(saved.trainable, saved.optimizer, state["optimizer"])
        self.recipe.method.load_state_dict(
            self.module, {k: v.to(self.accelerator.device) for k, v in saved.method.items()}
        )
        for key, value in state["progress"].items():
            setattr(self.progress, key, value)
        self.evaluation_trigger.passed, self.checkpoint_trigger.passed = (
            state["evaluation_trigger"],
            state["checkpoint_trigger"],
        )
        self._losses = [torch.tensor(loss, device=self.accelerator.device) for loss in state["step_losses"]]
        self._loss_targets, self.evaluation_seconds = state["step_targets"], state["evaluation_seconds"]
        self.mac_counter.seconds += state["counting_seconds"]
        for meter in self.meters:
            meter.load_state_dict(state["meters"].get(meter.name, {}))
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        number, digest = state["evaluations"], state["evaluations_digest"]
        self.evaluations = run_on_main(self.accelerator, lambda: self.run.truncate_evaluations(number, digest))  # type: ignore[union-attr]
        steps = [row["step"] for row in self.evaluations]
        run_on_main(self.accelerator, lambda: self.run.truncate_examples(steps))  # type: ignore[union-attr]
        if state["selected_evaluation"] is not None:
            self.selection.resume(self.evaluations[state["selected_evaluation"]])
        self.resumed_after_steps, self.skipped_steps = (
            [*state["resumed_after_steps"], self.progress.step],
            state["steps_skipped"],
        )
        self.train_step.microbatch_size = state["microbatch_size"]
        return bool(state["evaluation_done"])

    def _pop_mean_loss(self) -> float | None:
        """Return the mean loss per target since the last evaluation and reset it; None if there were no steps."""
        mean_loss = torch.stack(self._losses).sum().item() / self._loss_targets if self._losses else None
        self._losses, self._loss_targets = [], 0
        return mean_loss
