"""What components are given: a recipe's facts, a run's context, examples, and the cost of a step.

Nothing here imports torch, so that a recipe can be checked before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

ModelKind = Literal["encoder-decoder", "decoder", "encoder"]
Side = Literal["encoder", "decoder"]
TaskKind = Literal["classification", "multiple_choice", "generation"]


@dataclass(frozen=True, slots=True)
class Situation:
    """What a recipe asks of a component, as far as it is known before any model is loaded.

    ``config`` is the model's ``config.json``; it is empty, and ``model_kind`` None, while the model lies on a hub
    and has not been fetched. The runner asks again once it has it.
    """

    model_kind: ModelKind | None
    task_kind: TaskKind
    gradient_checkpointing: bool
    mixed_precision: str
    config: Mapping[str, Any] = field(default_factory=dict)
    steps_known: bool = True
    """Whether the number of steps follows from the budget."""
    quantization: str = ""
    """``4bit`` or ``8bit`` where the model's own weights are so."""
    sharded: bool = False
    """Whether DeepSpeed or FSDP hold parts of the weights, gradients or optimizer's state on each process."""

    @property
    def model_type(self) -> str:
        """transformers' name of the architecture, such as ``t5``; empty while unknown."""
        return str(self.config.get("model_type", ""))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A combination that would not do what the recipe says: refused before any model is loaded."""

    when: Callable[[Situation], bool]
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Context:
    """What a method knows about the run that it is applied in.

    ``seed`` is the seed of new weights (``run.init_seed``).
    ``steps`` is the number of optimizer steps the budget allows, None where that is not known beforehand.
    ``batches`` gives so many batches of training rows, the same on every process, as the arguments that the model
    takes with ``labels`` among them; it is None where there are no data.
    ``head_parameters`` are the names of the parameters of an encoder's classification head in the base model: those
    that the checkpoint does not hold, or a kept head's. The runner makes them trainable after ``apply``; ``save`` must
    write them.
    """

    model_kind: ModelKind
    task_kind: TaskKind
    seed: int
    steps: int | None
    gradient_checkpointing: bool = False
    batches: Callable[[int], Sequence[Mapping[str, Tensor]]] | None = None
    head_parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One row as a task means it: text in, text out.

    ``candidates``, where there are any, are what a model chooses among, and hold the target. ``references`` are
    the right outputs; without them the target is the only one. ``extra`` is whatever a metric of the task needs.
    ``context`` is where in the source, from and to which character, stands what may be shortened at its end where the
    source is too long; nothing else of the source is ever cut. Without it the source may be cut at its end, or, for a
    decoder, which continues from there, at its beginning.
    ``group`` names what rows share that makes their scores depend on each other, such as a passage with several
    questions: comparisons resample whole groups. A row without one is a group of its own.
    """

    source: str
    target: str
    candidates: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)
    context: tuple[int, int] | None = None
    group: str = ""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one optimizer step consumed, over all processes; seconds are the main one's.

    Attributes:
        samples: rows.
        input_tokens: tokens of the sources, without padding.
        target_tokens: tokens that are trained on.
        seconds: seconds of the step, from where its batch was there to where the device had done it.
        padding_tokens: tokens that fill texts up to one length.
        wait_seconds: seconds for which the step waited for its batch.
        forward_macs: multiply-accumulates of the passes forward, of which padding is part, since it is computed.
        backward_macs: those backward.
        elementwise: operations that are no products of matrices: one for each number an operation gives, or takes in
            where it sums up; of the passes.
        optimizer: those of the optimizer's step.
    """

    samples: int
    input_tokens: int
    target_tokens: int
    seconds: float
    padding_tokens: int = 0
    wait_seconds: float = 0.0
    forward_macs: int = 0
    backward_macs: int = 0
    elementwise: int = 0
    optimizer: int = 0
