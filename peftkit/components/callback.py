"""The base class of callbacks, and what they are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.components.component import StatefulComponent
from peftkit.components.lazy_number import ReadLater
from peftkit.components.types import StepStats

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class TrainContext:
    """A run at the time of an event.

    Attributes:
        model: The model with the method applied. With FSDP or DeepSpeed stage 3 its weights are sharded.
        folder: The run directory; None on all processes but the main one.
        step: Number of optimizer steps so far.
        epoch: Number of epochs so far, with the fraction of the current one.
        samples: Number of training rows so far, over all processes.
        tokens: Number of input and target tokens so far, over all processes, without padding.
        seconds: Seconds of training steps so far, without evaluation, counting and callbacks. On a GPU, reading them
            waits for the step.
        budget_used: The used share of the budget; training ends at 1.
        num_processes: Number of processes; each of them calls the callback.
        stop: Ends training, with the reason as text: after the current step, which is evaluated first. All processes
            stop if one of them calls it.
    """

    model: nn.Module
    folder: Path | None
    step: int
    epoch: float
    samples: int
    tokens: int
    seconds: ReadLater = ReadLater()
    budget_used: float
    num_processes: int
    stop: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """An optimizer step that has been taken.

    Attributes:
        loss: The mean loss per target token or label, over all processes; may be NaN or infinite. On a GPU, reading it
            waits for the step; if it is not finite and ``train.on_nan`` is ``"stop"``, reading it ends the run.
        learning_rate: The learning rate, before the multipliers of parameter groups.
        stats: Rows, tokens, seconds and operations of the step.
        skipped: Whether the parameters were not updated, because the loss was not finite.
    """

    loss: ReadLater = ReadLater()
    learning_rate: float
    stats: StepStats
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """An evaluation during training.

    Attributes:
        row: The row of ``evaluations.jsonl``: ``step``, ``cost``, and the values of ``train``, ``dev`` and ``test`` by
            name, such as ``row["dev"]["loss"]``.
        metric: The name of the value on dev that selects the checkpoint.
        higher_is_better: Whether a higher value of it is better.
        is_best: Whether this is the best evaluation so far, whose model is saved.
    """

    row: Mapping[str, Any]
    metric: str
    higher_is_better: bool
    is_best: bool

    @property
    def score(self) -> float:
        """The value of ``metric`` on dev; NaN if it is not defined."""
        value = self.row["dev"].get(self.metric)
        return math.nan if value is None else float(value)


class TrainerCallback:
    """The events of a run; each method does nothing by default."""

    def on_train_start(self, context: TrainContext) -> None:
        """Run before the first evaluation and step; in a resumed run, after ``load_state_dict``.

        Args:
            context: The run.
        """

    def on_step_start(self, context: TrainContext) -> None:
        """Run before each optimizer step, once its batch is available.

        Args:
            context: The run; ``step`` is the number of steps before this one.
        """

    def on_step_end(self, context: TrainContext, step: StepResult) -> None:
        """Run after each optimizer step, when its cost has been recorded.

        Args:
            context: The run, with the step.
            step: The step.
        """

    def on_evaluate(self, context: TrainContext, evaluation: EvaluationResult) -> None:
        """Run after each evaluation.

        Args:
            context: The run.
            evaluation: The evaluation.
        """

    def on_save(self, context: TrainContext) -> None:
        """Run after a checkpoint was written for ``--resume``.

        Args:
            context: The run.
        """

    def on_train_end(self, context: TrainContext) -> None:
        """Run after the last evaluation; not if the run fails or is interrupted.

        Args:
            context: The run.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, by default none.

        Returns:
            JSON-serializable values by name.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that ``state_dict`` returned.

        Args:
            state: Values by name, as from ``state_dict``.
        """


class Callback(TrainerCallback, StatefulComponent):
    """Acts on the events of a run. State is kept in pydantic private attributes.

    A recipe names it in a ``[[callback]]`` table. Every process calls it. What it does is not part of the cost of
    training.
    """

    # In place of those of TrainerCallback, which keep no state.
    state_dict = StatefulComponent.state_dict  # type: ignore[pydantic-field]  # a method, not a field
    load_state_dict = StatefulComponent.load_state_dict  # type: ignore[pydantic-field]
