"""The training loop: optimizer steps until the budget is used; everything else is done by callbacks."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn

from peftkit.components import StepStats, TrainContext
from peftkit.components.callback import StepResult, TrainerCallback
from peftkit.data.dataloader import effective_batch_size, train_dataloader
from peftkit.data.microbatches import exact_splitter
from peftkit.data.pipeline import PreparedData
from peftkit.errors import DivergedError, RunError, StopRequested
from peftkit.macs.interpolated_counts import StepMacs
from peftkit.models import BoundObjective
from peftkit.models.batches.collated_batch import CollatedBatch
from peftkit.models.method_errors import explain_method_errors
from peftkit.recipe import Recipe
from peftkit.recipe.tables.intervals import parse_bytes
from peftkit.run_directory import RunDirectory
from peftkit.train.build_mac_counter import StepCounter
from peftkit.train.callbacks import CallbackList
from peftkit.train.checkpoint import Checkpoint
from peftkit.train.optimizer import set_learning_rate
from peftkit.train.schedule import make_schedule
from peftkit.train.state import StopRequest, TrainState
from peftkit.train.steps.frozen_cache import FrozenCache
from peftkit.train.steps.malloc_settings import KeptMemory
from peftkit.train.steps.parallel_strategies import make_strategy
from peftkit.train.steps.step_losses import StepLoss, StepLosses
from peftkit.train.steps.step_timer import StepTimer
from peftkit.train.steps.train_step import TrainStep
from peftkit.train.stop_signals import InterruptHandler
from peftkit.train.wall_clock import WallClock

EARLY_STEPS = 3
"""Errors of a library in the first steps are attributed to the method's options."""
MAX_SAVED_NAN_BATCHES = 3
"""How many batches with a non-finite loss are saved."""


class Trainer:
    """Trains one run.

    Args:
        recipe: The recipe of the run.
        model: The model with the method applied.
        objective: The objective of the run.
        data: The data of the run.
        accelerator: The Accelerator of the run.
        mac_counter: Counts the MACs of steps.
        callbacks: The callbacks, from the innermost to the outermost (see ``CallbackList``).
        interrupts: Records signals.
        run: The run directory; None on all processes but the main one, and for measurements.
        clock: Measures what the user waits for; None for one that starts now.
        cost_before: What training cost before its first step, the same on every process; None for nothing.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        objective: BoundObjective,
        data: PreparedData,
        accelerator: Accelerator,
        mac_counter: StepCounter,
        callbacks: Sequence[TrainerCallback],
        interrupts: InterruptHandler,
        run: RunDirectory | None = None,
        clock: WallClock | None = None,
        cost_before: StepStats | None = None,
    ) -> None:
        self.recipe, self.module, self.objective, self.data = recipe, model, objective, data
        self.accelerator, self.mac_counter, self.interrupts, self.run = accelerator, mac_counter, interrupts, run
        self.cost_before = cost_before
        self.splitter = exact_splitter(recipe, objective, model, accelerator, data.train)
        self.loader, self.sampler = train_dataloader(recipe, data.train, self.splitter.collate, accelerator)
        self.strategy = make_strategy(recipe, model, accelerator)
        self.callbacks = CallbackList(callbacks, self._make_context)
        self.train_step = TrainStep(
            recipe, objective, self.strategy, self.callbacks.profile_region, splits=self.splitter.costs is not None
        )
        self.effective_batch = effective_batch_size(recipe, accelerator.num_processes)
        per_epoch = data.steps_per_epoch(self.effective_batch, recipe.train.tokens_per_batch)
        self.state = TrainState(recipe, per_epoch, accelerator.device)
        self.progress = self.state.progress
        self.memory = KeptMemory(accelerator.device, wanted=recipe.train.keep_memory)
        self.clock = clock or WallClock()
        self.schedule = make_schedule(recipe)
        # Several processes wait for each other in every step anyway, and all must end with the same one.
        self._waits_for_loss = accelerator.num_processes > 1 or recipe.train.on_nan == "skip"
        self.losses = StepLosses(accelerator.device, self._handle_nonfinite_loss)
        waits = accelerator.num_processes > 1 or any(each.waits_for_device for each in self.callbacks.loop)
        by_events = accelerator.device.type == "cuda" and not waits
        self.timer = StepTimer(accelerator.device, by_events=by_events)
        self.frozen_cache: FrozenCache | None = None
        self.timer = StepTimer(accelerator.device, by_events=by_events, apart=lambda: self.compile_seconds)
        for callback in self.callbacks.loop:
            callback.attach(self)

    def train(self, saved: Checkpoint | None = None) -> None:
        """Train until the budget is used or a callback stops training.

        Args:
            saved: The checkpoint to resume from; None to start from the beginning.

        Raises:
            DivergedError: The loss is not finite.
            StopRequested: A signal was received; the progress is saved.
            RunError: A callback failed.
        """
        if saved is not None:
            self._load_checkpoint(saved)
        elif self.cost_before is not None:
            self.progress.add_cost(self.cost_before)
            self.callbacks.add_cost(self.cost_before)
        if self.objective.frozen is not None and (limit := self.recipe.train.cache_frozen_outputs):
            folder = self.run.path if self.run else None
            self.frozen_cache = FrozenCache(self.objective.frozen, parse_bytes(limit), folder, self.progress.step)
            self.train_step.frozen_cache = self.frozen_cache
        ended = False
        try:
            self.callbacks.on_train_start()
            self._settle()
            self.timer.start_waiting()
            for batches in self._step_batches() if not self.state.ended else ():
                with self.clock.time_step():
                    self._step(batches)
                self._settle()
                self.timer.start_waiting()
                if self.state.ended:
                    break
            self.losses.check(wait=True)
            self.callbacks.on_train_end()
            ended = True
        except DivergedError:
            ended = True
            raise
        except StopRequested:
            self.callbacks.on_interrupt()
            raise
        finally:
            if self.frozen_cache is not None:
                self.frozen_cache.close(remove=ended or self.run is None)
            self.memory.give_back()

    @property
    def compile_seconds(self) -> float:
        """Seconds spent on compilation; not part of the time of steps."""
        return 0.0 if self.train_step.compiled is None else self.train_step.compiled.seconds

    def release(self) -> None:
        """Release the wrapped model before the process group is destroyed, and what refers to the trainer."""
        if self.train_step.compiled is not None:
            self.train_step.compiled.release()
        self.strategy.release()
        for callback in self.callbacks.loop:
            del callback.trainer
        del self.callbacks, self.train_step, self.losses

    def agree_on_stop(self) -> None:
        """Stop training on all processes if a callback of any process asked for it; a collective operation."""
        if self.accelerator.num_processes == 1 or not self.callbacks.named:
            return
        asked = torch.tensor(int(self.state.stop is not None), device=self.accelerator.device)
        if int(self.accelerator.reduce(asked, "sum")):
            self.state.stop = next(stop for stop in gather_object([self.state.stop]) if stop is not None)

    def broadcast_from_main(self, *values: float) -> list[float]:
        """Return the main process's values on all processes: clocks differ, but all must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return [*values]
        main_values: list[float] = broadcast(
            torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        ).tolist()
        return main_values

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the run as JSON, without the model's, optimizer's and method's."""
        scaler = self.accelerator.scaler
        return {
            **self.state.state_dict(),
            **self.callbacks.state_dict(),
            "processes": self.accelerator.num_processes,
            "counting_seconds": self.mac_counter.seconds,
            "compile_seconds": self.compile_seconds,
            "wall_clock": self.clock.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "microbatch_size": self.train_step.microbatch_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Args:
            state: Values by name; further ones are ignored. Older checkpoints have no ``wall_clock`` and no
                ``compile_seconds``.
        """
        self.state.load_state_dict(state)
        if "wall_clock" in state:
            self.clock.load_state_dict(state["wall_clock"])
        self.callbacks.load_state_dict(state)
        self.mac_counter.seconds += state["counting_seconds"]
        if self.train_step.compiled is not None:
            self.train_step.compiled.seconds += state.get("compile_seconds", 0.0)
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.train_step.microbatch_size = state["microbatch_size"]

    def _load_checkpoint(self, saved: Checkpoint) -> None:
        """Restore a checkpoint.

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
        method_state = {key: value.to(self.accelerator.device) for key, value in saved.method.items()}
        self.recipe.method.load_state_dict(self.module, method_state)
        self.load_state_dict(state)

    def _step_batches(self) -> Iterator[list[CollatedBatch]]:
        """Yield the batches of each optimizer step of this process, epoch after epoch."""
        accumulation_steps, progress = self.recipe.train.gradient_accumulation_steps, self.progress
        while True:
            self.loader.set_epoch(progress.completed_epochs)  # type: ignore[attr-defined]
            self.sampler.start = progress.steps_of_epoch
            batches: list[CollatedBatch] = []
            for number, parts in enumerate(self.loader, 1):
                batches += [part.to(self.accelerator.device) for part in parts]
                if number % accumulation_steps == 0:
                    yield batches
                    batches = []
            progress.completed_epochs, progress.steps_of_epoch = progress.completed_epochs + 1, 0

    def _settle(self) -> None:
        """Let the callbacks save and evaluate, before the first step and after each one."""
        self.agree_on_stop()
        self._read_clock()
        self._save_and_evaluate()
        if not self.state.ended:
            self._read_clock()
            if self.state.ended:  # what was saved or evaluated took the rest of the time
                self._save_and_evaluate()

    def _read_clock(self) -> None:
        """Read the clock of the main process, if the budget limits it. The share is kept until the next reading.

        Raises:
            RunError: There is no time left for the first step.
        """
        progress, clock, limit = self.progress, self.clock, self.recipe.train.budget.wall_seconds
        if not progress.step:
            clock.before_training = clock.seconds
        if limit is None:
            return
        data = self.data
        splits = (*data.splits_along_curve, *(data.splits_at_end if data.is_curve_subsampled else ()))
        reserved = clock.reserve((split.name, len(split.rows)) for split in splits)
        seconds, before, reserved = self.broadcast_from_main(clock.seconds, clock.before_training, reserved)
        progress.wall_seconds, progress.wall_seconds_before, progress.wall_seconds_reserved = seconds, before, reserved
        if not progress.step and before + reserved >= limit:
            end = f", and its end would take about {reserved:.1f} s" if reserved else ""
            raise RunError(
                f"train.budget.wall_seconds = {limit:g} leaves no time for training: the start of the run took "
                f"{before:.1f} s{end}; set it to well above {before + reserved:.0f}, or evaluate fewer examples"
            )

    def _save_and_evaluate(self) -> None:
        state = self.state
        evaluated = bool(state.evaluations) and state.evaluations[-1]["step"] == self.progress.step
        if state.evaluation_trigger.due(self.progress) or (state.ended and not evaluated):
            state.evaluation_due = True
        self.callbacks.on_step_settled()

    def _step(self, batches: list[CollatedBatch]) -> None:
        early = self.progress.step < EARLY_STEPS
        with explain_method_errors(self.recipe.method, "fails in its first steps") if early else nullcontext():
            self._train_on(batches)

    def _train_on(self, batches: list[CollatedBatch]) -> None:
        step = self.progress.step + 1
        self.timer.stop_waiting()
        self.memory.keep()
        self.callbacks.on_step_start()
        self.timer.start_step()
        rate = self.recipe.train.learning_rate * self.schedule(self.state.budget_used)
        set_learning_rate(self.strategy.optimizer, rate)
        inputs = self.train_step.agree_on_inputs(batches, interrupted=bool(self.interrupts.received))
        if inputs.interrupted:  # on any process, so that all stop at the same step
            raise StopRequested(self.interrupts.received or signal.SIGTERM)
        targets = inputs.stats.target_tokens
        loss = self.accelerator.reduce(self.train_step.accumulate(inputs.batches, targets, step), "sum")
        # On a CPU it has arrived. On a GPU it arrives while the next step is computed.
        step_loss = self.losses.push(loss, targets, inputs.batches, self.progress)
        self.losses.check(wait=self._waits_for_loss)
        if step_loss.skipped:
            self.strategy.zero_grad()
            self._record_step(None, step_loss, inputs.stats, rate)
            return
        self.train_step.update(step)
        self._record_step(loss, step_loss, inputs.stats, rate)

    def _handle_nonfinite_loss(self, step_loss: StepLoss) -> None:
        """Save the batch of a non-finite loss, and stop the run unless ``train.on_nan`` is ``"skip"``.

        On a GPU the next steps may have been taken since. Nothing of them is saved, as losses are checked before.

        Raises:
            DivergedError: The recipe says to stop.
        """
        self.progress.restore(step_loss.before)
        self.state.skipped_steps += 1
        file = f"nan_at_step_{self.progress.step + 1}.safetensors"
        if self.state.skipped_steps <= MAX_SAVED_NAN_BATCHES:
            rank = self.accelerator.process_index
            batches = enumerate(step_loss.batches)
            tensors = {f"{rank}.{i}.{k}": v.cpu() for i, batch in batches for k, v in batch.items()}
            by_rank = gather_object([tensors])
            if self.run is not None:
                self.run.write_tensors(file, {name: t for part in by_rank for name, t in part.items()})
        if self.recipe.train.on_nan == "stop":
            raise DivergedError(
                f"the loss is {step_loss.mean} at step {self.progress.step + 1} (its batch is saved in {file}); lower "
                'train.learning_rate, train in float32 without mixed precision, or set train.on_nan = "skip"'
            )

    def _record_step(self, loss: Tensor | None, step_loss: StepLoss, stats: StepStats, rate: float) -> None:
        """Add a step to the progress, and call the callbacks; ``loss`` is None if it was not finite."""
        if loss is not None:
            self.state.add_loss(loss, stats.target_tokens)
        step_time = self.timer.end_step()
        self.callbacks.on_step_computed()
        seconds, wait_seconds = step_time
        if self.accelerator.num_processes > 1:
            seconds, wait_seconds = self.broadcast_from_main(*step_time.read())
        optimizer = 0 if loss is None else self.mac_counter.optimizer_elementwise
        macs = self._count_macs()._asdict()
        stats = replace(stats, seconds=seconds, wait_seconds=wait_seconds, optimizer=optimizer, **macs)
        self.progress.add(stats)
        mean_loss = partial(self.losses.read, step_loss)  # for callbacks that ask for it
        self.callbacks.on_step_end(StepResult(loss=mean_loss, learning_rate=rate, stats=stats, skipped=loss is None))

    def _count_macs(self) -> StepMacs:
        """Count the compute of the last step over all processes; not part of its time."""
        counts = [self.mac_counter.count(microbatch) for microbatch in self.train_step.microbatches_to_count]
        sums = [sum(values) for values in zip(*counts, strict=True)]
        if self.accelerator.num_processes > 1:
            sums = self.accelerator.reduce(torch.tensor(sums, device=self.accelerator.device), "sum").tolist()
        return StepMacs(*sums)

    def _make_context(self, callback: str) -> TrainContext:
        """Describe the run to a callback."""

        def stop(reason: str) -> None:
            if self.state.stop is None:
                self.state.stop = StopRequest(callback, reason)

        progress, late_seconds = self.progress, self.progress.late_seconds()
        return TrainContext(
            model=self.module,
            folder=self.run.path if self.run else None,
            step=progress.step,
            epoch=progress.epoch,
            samples=progress.samples,
            tokens=progress.input_tokens + progress.target_tokens,
            seconds=late_seconds,  # read only by callbacks that ask for them
            budget_used=self.state.budget_used,
            num_processes=self.accelerator.num_processes,
            stop=stop,
        )
