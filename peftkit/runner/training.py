"""The training loop: steps, evaluations, the selected checkpoint."""

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

from peftkit.components import Meter, StepRecord
from peftkit.errors import DivergedError, RunError
from peftkit.recipe import Recipe
from peftkit.runner import checkpoint
from peftkit.runner.batches import effective_batch, training_batches
from peftkit.runner.budget import Marks, Used, progress, schedule
from peftkit.runner.checkpoint import Checkpoint
from peftkit.runner.console import Display
from peftkit.runner.data import Data, EvaluationSplit
from peftkit.runner.engines import make_engine
from peftkit.runner.evaluation import Result, evaluate
from peftkit.runner.forms import Form
from peftkit.runner.ledger import Work, make_ledger
from peftkit.runner.method_errors import explain_method_errors
from peftkit.runner.optimizers import RATE
from peftkit.runner.passes import Passes
from peftkit.runner.resume import by_main
from peftkit.runner.selection import Row, Selection, of_dev_and_test
from peftkit.runner.signals import Signals, Stop
from peftkit.runner.tracking import Tracking
from peftkit.runs import RunDirectory

FIRST_STEPS = 3  # in which options that do not fit make a library fail
NANS_KEPT = 3  # batches that are saved, of those whose loss was no number


class Training:
    """One run from the first evaluation to the last."""

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        form: Form,
        data: Data,
        meters: tuple[Meter, ...],
        accelerator: Accelerator,
        run: RunDirectory | None,
        display: Display,
        signals: Signals,
        counted: nn.Module | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> None:
        """``counted`` is what the work is counted on, where the model's own products are not torch's.

        ``inputs`` are the digests of what the run reads, which its checkpoints keep.
        """
        self.inputs = dict(inputs or {})
        self.recipe, self.form, self.data, self.meters = recipe, form, data, meters
        self.accelerator, self.run, self.display = accelerator, run, display
        self.module = model
        first = f"fails in its first pass through {recipe.model.name!r}"
        with explain_method_errors(recipe.method, first, remedy="use another method or model"):
            self.ledger = make_ledger(recipe, form, counted or model, data.train)
        self.loader, self.order = training_batches(recipe, data.train, form, accelerator)
        self.engine = make_engine(recipe, model, accelerator)
        self.selection = Selection(recipe, model, self.engine, accelerator, data, run)
        self.passes = Passes(recipe, model, form, self.engine, accelerator)
        self.batch = effective_batch(recipe, accelerator.num_processes)
        self.used = Used(steps_per_epoch=data.steps_per_epoch(self.batch))
        self.marks = Marks(recipe.evaluate.every, recipe.train.budget)
        self.saves = Marks(recipe.train.checkpoint.every, recipe.train.budget)
        self.factor = schedule(recipe)
        self.tracking = Tracking(accelerator, recipe, run.path if run else Path())
        self.signals = signals
        self.rows: list[Row] = []
        self.evaluation_seconds = 0.0
        self.resumed: list[int] = []
        self.skipped = 0
        self._losses: list[Tensor] = []
        self._targets = 0
        self._began = self._wait = 0.0

    def train(self, resumed: Checkpoint | None = None) -> None:
        """Trains until the budget is used, evaluating on the way and at the end.

        Args:
            resumed: where an earlier process of the same run stood; None to begin.

        Raises:
            DivergedError: the loss is no longer a number.
            Interrupted: a signal came; what was done is saved.
        """
        budget = self.recipe.train.budget
        for meter in self.meters:
            meter.start(self.module)
        if budget.joules is not None and "joules" not in self._cost():
            raise RunError("train.budget.joules: nothing on this machine says how many joules are used")
        evaluated = self._restore(resumed) if resumed else not self.recipe.evaluate.at_start
        try:
            if not evaluated:
                self._evaluate()
            self._began = time.perf_counter()
            for micro_batches in self._steps() if progress(budget, self.used) < 1 else ():
                self._step(micro_batches)
                share = progress(budget, self.used)
                due = self.marks.due(self.used) or share >= 1
                if self.saves.due(self.used):
                    self._save(evaluated=not due)
                if due:
                    self._evaluate()
                self._began = time.perf_counter()
                if share >= 1:
                    break
            self.selection.finish(
                self.used.step,
                lambda splits: self._evaluated(splits)[0],
                resumed=bool(self.resumed),
                evaluations=len(self.rows),
            )
        except Stop as stop:
            self._save(evaluated=stop.evaluated)
            raise

    def practise(self, number: int) -> None:
        """Makes so many steps, and evaluates and saves nothing: for measurements."""
        self._began = time.perf_counter()
        for micro_batches in islice(self._steps(), number):
            self._step(micro_batches)
            self._began = time.perf_counter()

    def _steps(self) -> Iterator[list[dict[str, Tensor]]]:
        """The batches of each optimizer step, epoch after epoch."""
        size, used = self.recipe.train.gradient_accumulation_steps, self.used
        while True:
            self.loader.set_epoch(used.passes)  # type: ignore[attr-defined]
            self.order.start = used.steps_of_pass
            held: list[dict[str, Tensor]] = []
            for batch in self.loader:
                held.append(batch)
                if len(held) == size:
                    yield held
                    held = []
            used.passes, used.steps_of_pass = used.passes + 1, 0

    def _step(self, micro_batches: list[dict[str, Tensor]]) -> None:
        early = self.used.step < FIRST_STEPS
        with explain_method_errors(self.recipe.method, "fails in its first steps") if early else nullcontext():
            self._stepped(micro_batches)

    def _stepped(self, micro_batches: list[dict[str, Tensor]]) -> None:
        accelerator, step = self.accelerator, self.used.step + 1
        self._wait = time.perf_counter() - self._began
        for meter in self.meters:
            meter.begin()
        self._began = time.perf_counter()
        rate = self.recipe.train.learning_rate * self.factor(progress(self.recipe.train.budget, self.used))
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate * group.get(RATE, 1.0)
        micro_batches, consumed, stop = self._agreed(micro_batches)
        if stop:  # on any process: all leave at the same step
            raise Stop(self.signals.received or signal.SIGTERM, evaluated=True)
        targets = consumed.target_tokens
        loss = accelerator.reduce(self.passes.gradients(micro_batches, targets, step), "sum")
        mean = loss.item() / targets
        if not math.isfinite(mean):
            self._not_a_number(mean, micro_batches)
            self.engine.zero_grad()
            self._account(None, mean, consumed, rate)
            return
        if step == 2:  # at the first step one side of a low-rank update is zero, and with it the other's gradient
            self.engine.something_learns()
        with self.passes.region("optimizer"):
            self.recipe.method.after_backward(self.module, step)
            self.engine.clip()
            self.engine.step()
            self.recipe.method.after_step(self.module, step)
            self.engine.zero_grad()
        self._account(loss, mean, consumed, rate)

    def _not_a_number(self, mean: float, micro_batches: list[dict[str, Tensor]]) -> None:
        """Saves the batch, and ends the run unless the recipe says to go on; the weights are as before it.

        Raises:
            DivergedError: the recipe says to stop.
        """
        self.skipped += 1
        file = f"nan_at_step_{self.used.step + 1}.safetensors"
        if self.skipped <= NANS_KEPT:
            number = self.accelerator.process_index
            own = {f"{number}.{i}.{k}": v.cpu() for i, batch in enumerate(micro_batches) for k, v in batch.items()}
            everyone = gather_object([own])
            if self.run is not None:
                self.run.write_tensors(file, {name: t for tensors in everyone for name, t in tensors.items()})
        if self.recipe.train.on_nan == "stop":
            raise DivergedError(
                f"the loss is {mean} at step {self.used.step + 1}, and its batch is in {file} of the run; lower "
                'train.learning_rate, train in float32 without mixed precision, or set train.on_nan = "skip"'
            )

    def _agreed(self, micro_batches: list[dict[str, Tensor]]) -> tuple[list[dict[str, Tensor]], StepRecord, bool]:
        """Fills up the step's texts to one length on all processes, so that work does not depend on their number.

        Returns:
            The batches, what the step takes in, and whether any process got a signal to stop.
        """
        form, device, none = self.form, self.accelerator.device, torch.tensor(0, device=self.accelerator.device)
        widths = form.widths(micro_batches)
        sums = [
            sum((form.targets(batch) for batch in micro_batches), none),
            sum((batch["input_tokens"] for batch in micro_batches), none),
            sum((form.read(batch) for batch in micro_batches), none),
            torch.tensor(sum(len(batch["input_ids"]) for batch in micro_batches), device=device),
            torch.tensor(int(bool(self.signals.received)), device=device),
        ]
        own = [torch.tensor(width, device=device) for width in widths.values()]
        everyone = self.accelerator.gather(torch.stack([*sums, *own])[None])
        targets, inputs, read, texts, stop = everyone[:, : len(sums)].sum(0).tolist()
        common = dict(zip(widths, everyone[:, len(sums) :].amax(0).tolist(), strict=True))
        places = texts * (common["input_ids"] + common.get("decoder_input_ids", 0))
        consumed = StepRecord(self.batch, inputs, targets, seconds=0.0, padding_tokens=places - read)
        return [form.widened(batch, common) for batch in micro_batches], consumed, bool(stop)

    def _account(self, loss: Tensor | None, mean: float, consumed: StepRecord, rate: float) -> None:
        if loss is not None:
            self._losses.append(loss)
            self._targets += consumed.target_tokens
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self._began
        for meter in self.meters:
            meter.end()
        seconds, wait = self._of_main(seconds, self._wait)
        used, work = self.used, self._work()
        optimizer = 0 if loss is None else self.ledger.optimizer  # a step whose loss is no number is not made
        record = replace(consumed, seconds=seconds, wait_seconds=wait, optimizer=optimizer, **work._asdict())
        used.step += 1
        used.steps_of_pass += 1
        used.samples += record.samples
        used.input_tokens += record.input_tokens
        used.target_tokens += record.target_tokens
        used.seconds += seconds
        used.macs += work.forward_macs + work.backward_macs
        for meter in self.meters:
            meter.step(record)
        if self.recipe.train.budget.joules is not None:
            [used.joules] = self._of_main(self._cost().get("joules", 0.0))
        self.display.step(progress(self.recipe.train.budget, used), mean, rate, used.seconds)

    def _work(self) -> Work:
        """What all processes have computed in the step; it is counted after the clock was read."""
        each = [self.ledger.work(part) for part in self.passes.parts]
        own = torch.tensor([sum(values) for values in zip(*each, strict=True)], device=self.accelerator.device)
        return Work(*self.accelerator.reduce(own, "sum").tolist())

    def _cost(self) -> dict[str, float]:
        return {key: value for meter in self.meters for key, value in meter.read().items()}

    def _of_main(self, *values: float) -> list[float]:
        """The main process's values: clocks differ, and all processes must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return [*values]
        main: list[float] = broadcast(
            torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        ).tolist()
        return main

    def _evaluate(self) -> None:
        used = self.used
        results, seconds = self._evaluated(self.data.evaluated)
        cost = self._cost()
        row: Row = {
            "step": used.step,
            "samples": used.samples,
            "epoch": used.epoch,
            "tokens": {"input": used.input_tokens, "target": used.target_tokens},
            "cost": cost,
            "evaluation_seconds": seconds,
            "train": {"step_loss": self._step_loss()},
        }
        for name, result in results.items():
            row[name] = {**row.get(name, {}), **result.values}
        self.rows.append(row)
        if self.run is not None:
            self.run.add_examples(used.step, of_dev_and_test(results), whole=False)
            self.run.append_evaluation(row)
        better = self.selection.offer(row, results)
        self.tracking.log(row)
        self.display.evaluation(row, self.selection.value, selected=better)

    def _evaluated(self, splits: Sequence[EvaluationSplit]) -> tuple[dict[str, Result], float]:
        """The results of splits by name, and the seconds that they took."""
        started = time.perf_counter()
        results = {
            split.name: evaluate(
                self.module, split, self.recipe, self.form, self.accelerator, lockstep=self.engine.lockstep
            )
            for split in splits
        }
        seconds = time.perf_counter() - started
        self.evaluation_seconds += seconds
        return results, seconds

    def _save(self, *, evaluated: bool) -> None:
        """Writes a checkpoint; ``evaluated`` is whether an evaluation that is due here has been made."""
        weights, (tensors, rest) = self.engine.weights(), self.engine.state()
        own = self.recipe.method.state(self.module)
        if self.run is None:
            return
        used = {f.name: getattr(self.used, f.name) for f in fields(self.used) if f.name != "steps_per_epoch"}
        scaler = self.accelerator.scaler
        state = {
            "evaluated": evaluated,
            "inputs": self.inputs,
            "processes": self.accelerator.num_processes,
            "used": used,
            "marks": self.marks.passed,
            "saves": self.saves.passed,
            "losses": [loss.item() for loss in self._losses],
            "targets": self._targets,
            "evaluations": len(self.rows),
            "evaluations_digest": self.run.evaluations_digest(len(self.rows)),
            "selected": None if self.selection.row is None else self.rows.index(self.selection.row),
            "evaluation_seconds": self.evaluation_seconds,
            "counting_seconds": self.ledger.seconds,
            "meters": {meter.name: meter.state() for meter in self.meters},
            "optimizer": rest,
            "scaler": None if scaler is None else scaler.state_dict(),
            "resumed": self.resumed,
            "skipped": self.skipped,
            "rows_a_pass": self.passes.rows,
        }
        folder, keep = self.run.path / "checkpoints", self.recipe.train.checkpoint.keep
        checkpoint.write(folder, self.used.step, weights, tensors, own, state, keep)

    def _restore(self, saved: Checkpoint) -> bool:
        """Goes back to where the checkpoint was written; returns whether the evaluation due there was made.

        Raises:
            RunError: it was written by another number of processes, or for another model.
        """
        state, processes = saved.state, self.accelerator.num_processes
        if state["processes"] != processes:
            raise RunError(f"the run was begun by {state['processes']} processes, and these are {processes}")
        self.engine.restore(saved.trainable, saved.optimizer, state["optimizer"])
        self.recipe.method.restore(self.module, {k: v.to(self.accelerator.device) for k, v in saved.method.items()})
        for key, value in state["used"].items():
            setattr(self.used, key, value)
        self.marks.passed, self.saves.passed = state["marks"], state["saves"]
        self._losses = [torch.tensor(loss, device=self.accelerator.device) for loss in state["losses"]]
        self._targets, self.evaluation_seconds = state["targets"], state["evaluation_seconds"]
        self.ledger.seconds += state["counting_seconds"]
        for meter in self.meters:
            meter.restore(state["meters"].get(meter.name, {}))
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        kept = (state["evaluations"], state["evaluations_digest"])
        self.rows = by_main(self.accelerator, lambda: self.run.keep_evaluations(*kept))  # type: ignore[union-attr]
        steps = [row["step"] for row in self.rows]
        by_main(self.accelerator, lambda: self.run.keep_examples(steps))  # type: ignore[union-attr]
        if state["selected"] is not None:
            self.selection.resume(self.rows[state["selected"]])
        self.resumed, self.skipped = [*state["resumed"], self.used.step], state["skipped"]
        self.passes.rows = state["rows_a_pass"]
        return bool(state["evaluated"])

    def _step_loss(self) -> float | None:
        """The mean loss a target of the steps since the last evaluation, None if there were none."""
        mean = torch.stack(self._losses).sum().item() / self._targets if self._losses else None
        self._losses, self._targets = [], 0
        return mean
