"""Calls the callbacks of a run, among them the meters and the checkpoints."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.components import Meter, StepStats, TrainContext
from peftkit.components.callback import Callback, EvaluationResult, StepResult, TrainerCallback
from peftkit.errors import PeftkitError, RunError, summarize_error
from peftkit.run_directory import RunDirectory
from peftkit.train.checkpoint import CHECKPOINTS, write_checkpoint

if TYPE_CHECKING:
    from peftkit.train.trainer import Trainer


class LoopCallback(TrainerCallback):
    """A callback of the training loop itself, which knows the trainer. Its state has keys of its own in checkpoints."""

    trainer: Trainer

    @property
    def waits_for_device(self) -> bool:
        """Whether ``on_step_start`` and ``on_step_computed`` need a device that has finished its work."""
        return False

    def attach(self, trainer: Trainer) -> None:
        """Run once, when the trainer is complete."""
        self.trainer = trainer

    def on_step_computed(self) -> None:
        """Run after a step, before its MACs are counted."""

    def add_cost(self, stats: StepStats) -> None:
        """Run before the first step, if training has cost something before it.

        Args:
            stats: The cost.
        """

    def on_step_settled(self) -> None:
        """Run before the first step and after each one, once all processes agree whether training ends."""

    def on_interrupt(self) -> None:
        """Run when a signal ends the run."""

    def profile_region(self, name: str) -> AbstractContextManager[Any] | None:
        """Return a context manager around a part of the step, or None.

        Args:
            name: ``forward``, ``backward`` or ``optimizer``.
        """


class CallbackList:
    """The callbacks of a run, from the innermost to the outermost.

    ``on_step_start`` is called in reverse order and everything else in order, so that the first callback is closest to
    the step. Later events of the loop itself, such as checkpoints, follow those of all callbacks.

    Args:
        callbacks: The callbacks.
        make_context: Returns what a callback is given, by the name of the callback.
    """

    def __init__(self, callbacks: Sequence[TrainerCallback], make_context: Callable[[str], TrainContext]) -> None:
        self.callbacks, self.make_context = callbacks, make_context
        self.loop = [each for each in callbacks if isinstance(each, LoopCallback)]
        self.named = {name: each for each in callbacks if (name := getattr(each, "name", ""))}
        """The callbacks that can stop training, by name; their states are under ``callbacks`` in checkpoints."""
        self._by_hook: dict[str, list[TrainerCallback]] = {}
        self._regions = [each for each in self.loop if _overrides(each, "profile_region", LoopCallback)]

    def on_train_start(self) -> None:
        """Call this hook of all callbacks."""
        self._call("on_train_start")

    def on_step_start(self) -> None:
        """Call this hook of all callbacks, in reverse order."""
        self._call("on_step_start", reverse=True)

    def on_step_computed(self) -> None:
        """Call this hook of the loop's callbacks."""
        for callback in self.loop:
            callback.on_step_computed()

    def add_cost(self, stats: StepStats) -> None:
        """Call this hook of the loop's callbacks."""
        for callback in self.loop:
            callback.add_cost(stats)

    def on_step_end(self, step: StepResult) -> None:
        """Call this hook of all callbacks."""
        self._call("on_step_end", step)

    def on_step_settled(self) -> None:
        """Call this hook of the loop's callbacks."""
        for callback in self.loop:
            callback.on_step_settled()

    def on_evaluate(self, evaluation: EvaluationResult) -> None:
        """Call this hook of all callbacks."""
        self._call("on_evaluate", evaluation)

    def on_save(self) -> None:
        """Call this hook of all callbacks."""
        self._call("on_save")

    def on_train_end(self) -> None:
        """Call this hook of all callbacks, in reverse order: the final evaluation comes first."""
        self._call("on_train_end", reverse=True)

    def on_interrupt(self) -> None:
        """Call this hook of the loop's callbacks."""
        for callback in self.loop:
            callback.on_interrupt()

    @contextmanager
    def profile_region(self, name: str) -> Iterator[None]:
        """Enter the callbacks' context managers around a part of the step.

        Args:
            name: ``forward``, ``backward`` or ``optimizer``.
        """
        with ExitStack() as stack:
            for callback in self._regions:
                if (region := callback.profile_region(name)) is not None:
                    stack.enter_context(region)
            yield

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all callbacks as JSON."""
        state = {key: value for callback in self.loop for key, value in callback.state_dict().items()}
        return {**state, "callbacks": {name: _json_state(name, each) for name, each in self.named.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; older checkpoints have no states of named callbacks."""
        for callback in self.loop:
            callback.load_state_dict(state)
        states = state.get("callbacks", {})
        for name, named in self.named.items():
            if name in states:
                with _explain_errors(named, "load_state_dict"):
                    named.load_state_dict(states[name])

    def _call(self, hook: str, *arguments: Any, reverse: bool = False) -> None:
        if hook not in self._by_hook:
            self._by_hook[hook] = [each for each in self.callbacks if _overrides(each, hook, TrainerCallback)]
        callbacks = self._by_hook[hook]
        for callback in reversed(callbacks) if reverse else callbacks:
            with _explain_errors(callback, hook):
                getattr(callback, hook)(self.make_context(getattr(callback, "name", "")), *arguments)


def _overrides(callback: object, hook: str, base: type) -> bool:
    return getattr(type(callback), hook) is not getattr(base, hook)


def _json_state(name: str, callback: TrainerCallback) -> dict[str, Any]:
    with _explain_errors(callback, "state_dict"):
        state = callback.state_dict()
        try:
            copied: dict[str, Any] = json.loads(json.dumps(state))
        except (TypeError, ValueError) as error:
            raise RunError(f"the state of the callback {name!r} cannot be saved as JSON: {error}") from error
        return copied


@contextmanager
def _explain_errors(callback: TrainerCallback, hook: str) -> Iterator[None]:
    """Attribute errors to the callback of a plugin, with the line that raised them."""
    try:
        yield
    except PeftkitError:
        raise
    except Exception as error:
        if not isinstance(callback, Callback):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}, line {frame.lineno}"
        text = f"the callback {callback.name!r} failed in {hook} ({place}): {summarize_error(error)}"
        raise RunError(text) from error


class MeterList(LoopCallback):
    """The meters of a run.

    Args:
        meters: The meters.
    """

    def __init__(self, meters: Sequence[Meter]) -> None:
        self.meters = meters

    @property
    def waits_for_device(self) -> bool:
        """Whether a meter measures the device."""
        hooks = ("on_step_start", "on_step_end")
        measuring = (m for m in self.meters if any(_overrides(m, hook, Meter) for hook in hooks))
        return any(meter.waits_for_device for meter in measuring)

    def attach(self, trainer: Trainer) -> None:
        super().attach(trainer)
        for meter in self.meters:
            meter.start(trainer.module)

    def on_train_start(self, context: TrainContext) -> None:
        """Check that energy is measured if the budget limits it.

        Raises:
            RunError: It is not.
        """
        if self.trainer.recipe.train.budget.joules is not None and "joules" not in self.totals():
            raise RunError("train.budget.joules: energy cannot be measured on this machine; use another budget")

    def on_step_start(self, context: TrainContext) -> None:
        for meter in self.meters:
            meter.on_step_start()

    def on_step_computed(self) -> None:
        for meter in self.meters:
            meter.on_step_end()

    def add_cost(self, stats: StepStats) -> None:
        for meter in self.meters:
            meter.update(stats)

    def on_step_end(self, context: TrainContext, step: StepResult) -> None:
        self.add_cost(step.stats)
        if self.trainer.recipe.train.budget.joules is not None:
            [joules] = self.trainer.broadcast_from_main(self.totals().get("joules", 0.0))
            self.trainer.progress.joules = joules

    def totals(self) -> dict[str, float]:
        """Return the cost of training so far, by name."""
        return {key: value for meter in self.meters for key, value in meter.totals().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the meters by name."""
        return {"meters": {meter.name: meter.state_dict() for meter in self.meters}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states of the meters; new ones have none."""
        for meter in self.meters:
            meter.load_state_dict(state["meters"].get(meter.name, {}))


class Checkpoints(LoopCallback):
    """Writes checkpoints for ``--resume``.

    Args:
        run: The run directory; None on all processes but the main one.
        input_digests: Digests of the run's inputs, which are stored in the checkpoints.
    """

    def __init__(self, run: RunDirectory | None, input_digests: Mapping[str, str]) -> None:
        self.run, self.input_digests = run, dict(input_digests)

    def on_step_settled(self) -> None:
        if self.trainer.state.checkpoint_trigger.due(self.trainer.progress):
            with self.trainer.clock.time_saving("checkpoint"):
                self._save()

    def on_interrupt(self) -> None:
        self._save()

    def state_dict(self) -> dict[str, Any]:
        """Return the digests."""
        return {"inputs": self.input_digests}

    def _save(self) -> None:
        """Write a checkpoint; a collective operation."""
        trainer = self.trainer
        trainer.losses.check(wait=True)
        if trainer.frozen_cache is not None:
            trainer.frozen_cache.flush()
        weights, (tensors, rest) = trainer.strategy.trainable_state(), trainer.strategy.state_dict()
        method_state = trainer.recipe.method.state_dict(trainer.module)
        if self.run is not None:
            state = {**trainer.state_dict(), "optimizer": rest}
            folder, keep = self.run.path / CHECKPOINTS, trainer.recipe.train.checkpoint.keep
            write_checkpoint(folder, trainer.progress.step, weights, tensors, method_state, state, keep)
        trainer.callbacks.on_save()
