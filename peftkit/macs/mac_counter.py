"""Counts the multiply-accumulates (MACs) of training steps, apart from the steps themselves.

One MAC is a multiplication and an addition, so FLOPs are twice the MACs. Matrix products and convolutions of the
forward and backward passes are counted with torch's formulas, from the operations that are really called: weight
gradients of frozen parameters are not counted, and activations that gradient checkpointing recomputes are counted
again. Element-wise operations and the optimizer's step are counted separately.

This module counts one pass; ``train.mac_counting`` makes a run's counter, and ``meters.macs`` adds up its counts.
"""

from __future__ import annotations

import copy
import gc
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from peftkit.errors import RunError
from peftkit.macs.eager_attention import eager_attention
from peftkit.macs.length_polynomial import LengthPolynomial
from peftkit.macs.op_counter import OpCounter
from peftkit.macs.optimizer_costs import MakeOptimizer, OptimizerCosts, count_optimizer_step
from peftkit.macs.step_memory import StepMemory

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
RequiresGrad = tuple[bool, ...]
"""Which of a model's parameters require a gradient."""
Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]

COUNTS = ("choices", "input_tokens")
"""Tensors of a batch that hold counts: the model needs their values, not only their shapes."""
VALUE_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError)
"""Errors of operations that need values, on tensors without any."""


class StepMacs(NamedTuple):
    """Compute of forward and backward passes."""

    forward_macs: int
    backward_macs: int
    elementwise: int
    """Numbers that element-wise operations and reductions process."""

    def plus(self, other: StepMacs) -> StepMacs:
        """Add another pass."""
        return StepMacs(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass
class Interpolated:
    """A batch shape whose count was interpolated."""

    batch: dict[str, Tensor]
    """The batch on ``meta``: it is kept for the whole run and takes no device memory."""
    macs: StepMacs
    uses: int = 0
    """How many passes the interpolated count was used for."""


@dataclass
class ShapeFamily:
    """Batch shapes that differ in their lengths, and in their number of rows if each row has one text."""

    lengths: LengthPolynomial = field(default_factory=LengthPolynomial)
    interpolated: dict[Shapes, Interpolated] = field(default_factory=dict)
    limit: int = 4
    """How many shapes may be interpolated before the next one is counted to verify the polynomial."""

    def interpolate(self, shapes: Shapes) -> StepMacs:
        """Return the interpolated count of these shapes, and note its use."""
        self.interpolated[shapes].uses += 1
        return self.interpolated[shapes].macs


@dataclass(frozen=True)
class ShadowModel:
    """A copy of a model without weights to count on, or the model itself."""

    model: nn.Module
    mode: Any = field(default_factory=nullcontext)
    """Context manager to run the model in."""
    device: torch.device | None = None
    """Device of the copy's tensors; None for the model itself."""

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch as the model takes it; only ``COUNTS`` are sure to keep their values."""
        if self.device is None:
            device = next(self.model.parameters()).device
            tensors = {k: torch.ones_like(v, device=device) if v.is_meta else v.to(device) for k, v in batch.items()}
            return _replace_tensors(batch, tensors)
        return without_values(batch, self.device)


def _shapes(batch: dict[str, Tensor]) -> Shapes:
    return tuple(sorted((key, tuple(value.shape)) for key, value in batch.items()))


def without_values(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return empty tensors of the batch's shapes on a device, and the tensors that hold counts unchanged.

    Args:
        batch: The batch, tensors of any shape.
        device: The device.

    Returns:
        The batch, with tensors of the same shapes.
    """
    empty = {k: v if k in COUNTS else torch.empty_like(v, device=device) for k, v in batch.items()}
    return _replace_tensors(batch, empty)


def _replace_tensors(batch: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace all tensors of a batch, whose class may keep numbers on the host beside them."""
    other = copy.copy(batch)
    other.update(tensors)
    return other


class MacCounter:
    """Counts the compute of each batch shape once, on a copy of the model without weights.

    Attention is counted as plain matrix products (two forward, four backward), whatever kernel computes it. So the
    count is the same on every device and for every attention implementation.

    Args:
        model: The model that is trained, before anything wraps it.
        loss: Computes the training loss from a model and a batch.
        optimizer: Makes the optimizer for a model; None to leave out its steps.
        has_all_weights: Whether the model keeps all its weights, unsharded and unquantized. It is then counted on
            itself if its copies fail.
        known: Counts of an equal model, by name; new ones are added. None for none.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: MakeOptimizer | None = None,
        *,
        has_all_weights: bool = True,
        known: MutableMapping[str, list[int]] | None = None,
    ) -> None:
        self.model, self.loss, self.has_all_weights = model, loss, has_all_weights
        self.optimizer = OptimizerCosts(0, 0, 0)
        """Costs of an optimizer step; zeros without an optimizer."""
        started = time.perf_counter()
        self.known: MutableMapping[str, list[int]] = {} if known is None else known
        """Counts by name."""
        self._counted: dict[tuple[Shapes, RequiresGrad], StepMacs] = {}
        self._families: dict[tuple[Shapes, RequiresGrad], ShapeFamily] = defaultdict(ShapeFamily)
        self._parameter_slots = _parameter_slots(model)
        self._shadows = _shadow_models(model)
        self._shadow = next(self._shadows, None)  # now, before anything wraps the model
        self._guess_is_harmless = False
        if optimizer is not None:
            if "optimizer" not in self.known:
                self.known["optimizer"] = [*self._count_optimizer(optimizer)]
            self.optimizer = OptimizerCosts(*self.known["optimizer"])
        self.seconds = time.perf_counter() - started
        """Time spent on counting."""

    @property
    def regular(self) -> bool:
        """Whether all counts so far are those that were interpolated, or would have been."""
        return all(family.lengths.regular for family in self._families.values())

    @property
    def optimizer_elementwise(self) -> int:
        """Element-wise operations of an optimizer step."""
        return self.optimizer.elementwise

    def count(self, batch: dict[str, Tensor]) -> StepMacs:
        """Count a forward and backward pass over one process's batch.

        Shapes that differ in their lengths or rows only are counted until a polynomial fits the counts; the shapes
        between are then interpolated. One more shape is counted whenever the number of interpolated ones has doubled.
        If that count is not on the polynomial, all interpolated shapes are counted, and the difference to what was
        reported for them is added to this pass.

        Raises:
            RunError: The model can only be counted with its weights, and it does not hold all of them.
        """
        shapes = _shapes(batch)
        requires_grad = tuple(getattr(slots.get(key), "requires_grad", False) for slots, key in self._parameter_slots)
        if (counted := self._counted.get((shapes, requires_grad))) is not None:
            return counted
        lengths = tuple(shape[1] for _, shape in shapes if len(shape) == 2)
        leading = {shape[0] for _, shape in shapes if shape}
        # With several texts in a row, work also depends on how many each row has.
        sizes = (*leading,) if len(leading) == 1 else ()
        family = self._families[tuple((key, () if sizes else shape[:1]) for key, shape in shapes), requires_grad]
        if shapes in family.interpolated:
            return family.interpolate(shapes)
        started = time.perf_counter()
        try:
            expected = family.lengths.at(lengths, sizes)
            if expected is not None and len(family.interpolated) < family.limit:
                meta_batch = without_values(batch, torch.device("meta"))
                family.interpolated[shapes] = Interpolated(meta_batch, StepMacs(*expected))
                return family.interpolate(shapes)
            if expected is not None:
                family.limit *= 2
            macs = self._counted[shapes, requires_grad] = self._count(requires_grad, batch)
            family.lengths.add(lengths, macs, sizes)
            return macs if family.lengths.regular else macs.plus(self._recount_interpolated(requires_grad, family))
        finally:
            self.seconds += time.perf_counter() - started

    def _recount_interpolated(self, requires_grad: RequiresGrad, family: ShapeFamily) -> StepMacs:
        """Count all interpolated shapes; return the correction for the passes that used their interpolated counts."""
        correction = StepMacs(0, 0, 0)
        for entry in family.interpolated.values():
            macs = self._counted[_shapes(entry.batch), requires_grad] = self._count(requires_grad, entry.batch)
            difference = (entry.uses * (a - b) for a, b in zip(macs, entry.macs, strict=True))
            correction = correction.plus(StepMacs(*difference))
        family.interpolated.clear()
        return correction

    def _count(self, requires_grad: RequiresGrad, batch: dict[str, Tensor]) -> StepMacs:
        name = f"{_shapes(batch)} {''.join(str(int(each)) for each in requires_grad)}"
        if (known := self.known.get(name)) is not None:
            return StepMacs(*known)
        macs, without_values = self._count_pass(requires_grad, batch)
        if without_values:
            self.known[name] = [*macs]
        return macs

    def _count_pass(self, requires_grad: RequiresGrad, batch: dict[str, Tensor]) -> tuple[StepMacs, bool]:
        """Count a pass; return also whether the count depends on shapes only."""
        while self._shadow is not None:
            for (slots, key), value in zip(_parameter_slots(self._shadow.model), requires_grad, strict=True):
                slots[key].requires_grad = value  # type: ignore[union-attr]  # these slots hold a parameter
            try:
                macs, guessed = self._count_on(self._shadow, batch)
                if not guessed or self._guess_is_harmless:
                    return macs, True
                other_macs, _ = self._count_on(self._shadow, batch, guess=True)
                self._guess_is_harmless = other_macs[:2] == macs[:2]
                if self._guess_is_harmless:
                    return macs, True
            except VALUE_ERRORS:
                pass
            self._shadow = next(self._shadows, None)  # this one fails where operations depend on values
        if not self.has_all_weights:
            raise RunError(
                "the multiply-accumulates of this method can only be counted with the model's weights; do not use "
                "train.deepspeed, train.fsdp or model.quantization with it"
            )
        return self._count_on(ShadowModel(self.model), batch)[0], False

    def step_bytes(self, microbatches: Sequence[dict[str, Tensor]]) -> int:
        """Return the most bytes that a step holds at a time, beside the weights and the optimizer's state.

        These are activations, gradients and intermediate results of the forward and backward passes. Attention runs
        with the kernels of the model's device where the copy allows it.

        Args:
            microbatches: The microbatches of the step; tensors of shape (rows, length).

        Raises:
            RunError: The step fails on every copy and on the model.
        """
        name = f"step {[_shapes(microbatch) for microbatch in microbatches]}"
        if name not in self.known:
            self.known[name] = [self._count_step_bytes(microbatches)]
        return self.known[name][0]

    def _count_step_bytes(self, microbatches: Sequence[dict[str, Tensor]]) -> int:
        # Fake tensors first, since they dispatch to the device's kernels.
        for shadow in (*reversed([*_shadow_models(self.model)]), ShadowModel(self.model)):
            with suppress(*VALUE_ERRORS):
                return _step_bytes(shadow, self.loss, microbatches)
        raise RunError("the memory of a step cannot be estimated without the model's weights")

    def _count_optimizer(self, make: MakeOptimizer) -> OptimizerCosts:
        try:
            with torch.device("meta"):
                return count_optimizer_step(make, self.model)
        except VALUE_ERRORS:
            return count_optimizer_step(make, self.model)

    def _count_on(self, shadow: ShadowModel, batch: dict[str, Tensor], *, guess: bool = False) -> tuple[StepMacs, bool]:
        """Count a pass on this copy; return also whether a truth value was guessed for it."""
        counter, model, device = OpCounter(guess), shadow.model, next(self.model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        fork_rng = torch.random.fork_rng(devices=devices)
        with fork_rng, eager_attention(model), _quiet_fake_tensors(), _paused_gc(), shadow.mode:
            inputs = shadow.prepare(batch)
            try:
                with counter:
                    loss = self.loss(model, inputs)
                    forward = counter.flops
                    loss.backward()  # type: ignore[no-untyped-call]
            finally:
                model.zero_grad(set_to_none=True)
                self.model.zero_grad(set_to_none=True)  # a hook in the copy may reach the model
        return StepMacs(forward // 2, (counter.flops - forward) // 2, counter.elementwise), counter.guessed


def _shadow_models(model: nn.Module) -> Iterator[ShadowModel]:
    """Yield weightless copies of a model: on ``meta``, which is fastest, then of fake tensors, which have a device.

    The second is a copy of the first, since the model may be wrapped or sharded by the time it is needed.
    """
    device = next(model.parameters()).device
    real_device = torch.device("cpu") if device.type == "meta" else device
    for mode, target in ((None, torch.device("meta")), (FakeTensorMode(allow_non_fake_inputs=True), real_device)):
        with suppress(*VALUE_ERRORS):  # something in the model cannot be copied
            # In training mode, because gradient checkpointing recomputes nothing otherwise.
            model = _copy_without_weights(model, target, mode).train()
            yield ShadowModel(model, mode or nullcontext(), target)


def _parameter_slots(model: nn.Module) -> list[tuple[dict[str, nn.Parameter | None], str]]:
    """Return where modules hold their parameters; sharding replaces the parameters but not these dicts."""
    slots = ((module._parameters, key) for module in model.modules() for key in module._parameters)
    return [(parameters, key) for parameters, key in slots if parameters[key] is not None]


def _step_bytes(shadow: ShadowModel, loss: Loss, microbatches: Sequence[dict[str, Tensor]]) -> int:
    model = shadow.model
    with torch.random.fork_rng(devices=[]), _quiet_fake_tensors(), shadow.mode:
        inputs = [shadow.prepare(microbatch) for microbatch in microbatches]
        memory = StepMemory()
        memory.exclude((*model.parameters(), *model.buffers()))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with OpCounter(), memory:  # OpCounter guesses truth values that tensors without values lack
            # Not with backward, which copies a gradient that is watched instead of keeping it.
            gradients = torch.autograd.grad(loss(model, inputs[0]), trained, allow_unused=True)
            for batch in inputs[1:]:
                _run_without_gradients(loss(model, batch), trained)
            del gradients
    return memory.peak


def _run_without_gradients(loss: Tensor, trained: Sequence[nn.Parameter]) -> None:
    """Run a backward pass that drops each gradient, as one that is added to that of an earlier microbatch."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    hooks: list[Any] = [p.register_post_accumulate_grad_hook(drop) for p in trained]  # type: ignore[no-untyped-call]
    try:
        loss.backward()  # type: ignore[no-untyped-call]
    finally:
        for hook in hooks:
            hook.remove()


def _copy_without_weights(model: nn.Module, device: torch.device, mode: FakeTensorMode | None) -> nn.Module:
    """Copy a model with tensors that have shapes but no values, and take no memory."""
    memo: dict[int, Any] = {}
    with mode or nullcontext():
        for tensor in (*model.parameters(), *model.buffers()):
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
                for hook in (tensor._backward_hooks or {}).values():  # some methods compute on gradients in hooks
                    empty.register_hook(hook)  # type: ignore[no-untyped-call]
            memo[id(tensor)] = empty
    return copy.deepcopy(model, memo)


@contextmanager
def _paused_gc() -> Iterator[None]:
    """Turn off garbage collection, which takes longer than a pass when many libraries are loaded."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _quiet_fake_tensors() -> Iterator[None]:
    """Turn off torch's log of operations that need values: the next copy is tried instead."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
