"""Counts the multiply-accumulates (MACs) of training steps, apart from the steps themselves.

One MAC is a multiplication and an addition, so FLOPs are twice the MACs. Matrix products and convolutions of the
forward and backward passes are counted with torch's formulas, from the operations that are really called: weight
gradients of frozen parameters are not counted, and activations that gradient checkpointing recomputes are counted
again. Element-wise operations and the optimizer's step are counted separately.

This module counts one pass; ``train.build_mac_counter`` makes a run's counter, and ``meters.macs`` adds up its counts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.errors import RunError
from peftkit.garbage_collection import paused_gc
from peftkit.macs.activation_memory import StepMemory
from peftkit.macs.eager_attention import eager_attention
from peftkit.macs.flop_counter import OpCounter, Operation
from peftkit.macs.interpolated_counts import Interpolated, ShapeFamily, Shapes, StepMacs
from peftkit.macs.optimizer_costs import MakeOptimizer, OptimizerCosts, count_optimizer_step
from peftkit.macs.shadow_models import (
    VALUE_ERRORS,
    ShadowModel,
    ones_like_batch,
    raised_on_purpose,
    shadow_models,
    without_values,
)

RequiresGrad = tuple[bool, ...]
"""Which of a model's parameters require a gradient."""
FamilyKey = tuple[Shapes, RequiresGrad]
Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]

EQUAL_ON_ONES = 2
"""Batches that must cost as much as batches of ones before only those are counted, on a model that needs weights."""


def _shapes(batch: dict[str, Tensor]) -> Shapes:
    return tuple(sorted((key, tuple(value.shape)) for key, value in batch.items()))


def _name(key: FamilyKey) -> str:
    return f"{key[0]} {''.join(str(int(each)) for each in key[1])}"


def _family_name(key: FamilyKey) -> str:
    return f"lengths {_name(key)}"


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
        self._families: dict[FamilyKey, ShapeFamily] = {}
        self._parameter_slots = _parameter_slots(model)
        self._shadows = shadow_models(model)
        self._shadow = next(self._shadows, None)  # now, before anything wraps the model
        self._guess_is_harmless = False
        self._refuses_false = False
        self._values_matter = False
        self._equal_on_ones = 0
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
        # Tensors of shape (1, length) are of the whole batch.
        leading = {shape[0] for _, shape in shapes if shape}
        leading = leading - {1} or leading
        # With several texts in a row, work also depends on how many each row has.
        sizes = (*leading,) if len(leading) == 1 else ()
        key = tuple((key, () if sizes else shape[:1]) for key, shape in shapes), requires_grad
        family = self._families.get(key) or self._make_family(key)
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
                family.grow_limit()
            macs, operations = self._count(requires_grad, batch)
            self._counted[shapes, requires_grad] = macs
            if family.add(lengths, sizes, macs, operations) and self._shadow is not None:
                self.known[_family_name(key)] = family.dump()
            return macs if family.lengths.regular else macs.plus(self._recount_interpolated(requires_grad, family))
        finally:
            self.seconds += time.perf_counter() - started

    def _make_family(self, key: FamilyKey) -> ShapeFamily:
        family = self._families[key] = ShapeFamily()
        family.load(self.known.get(_family_name(key), []))
        return family

    def _recount_interpolated(self, requires_grad: RequiresGrad, family: ShapeFamily) -> StepMacs:
        """Count all interpolated shapes; return the correction for the passes that used their interpolated counts."""
        correction = StepMacs(0, 0, 0)
        for entry in family.interpolated.values():
            macs, _ = self._count(requires_grad, entry.batch)
            self._counted[_shapes(entry.batch), requires_grad] = macs
            difference = (entry.uses * (a - b) for a, b in zip(macs, entry.macs, strict=True))
            correction = correction.plus(StepMacs(*difference))
        family.interpolated.clear()
        return correction

    def _count(
        self, requires_grad: RequiresGrad, batch: dict[str, Tensor]
    ) -> tuple[StepMacs, Sequence[Operation] | None]:
        """Count a pass, or look its count up; return also its operations if they depend on shapes only."""
        name = _name((_shapes(batch), requires_grad))
        if (known := self.known.get(name)) is not None:
            return StepMacs(*known), None
        counter, persistent = self._count_pass(requires_grad, batch)
        macs = StepMacs(counter.forward_flops // 2, counter.backward_flops // 2, counter.elementwise)
        if persistent:
            self.known[name] = [*macs]
        return macs, counter.operations if persistent or not self._values_matter else None

    def _count_pass(self, requires_grad: RequiresGrad, batch: dict[str, Tensor]) -> tuple[OpCounter, bool]:
        """Count a pass; return also whether the count depends on shapes only."""
        while self._shadow is not None:
            for (slots, key), value in zip(_parameter_slots(self._shadow.model), requires_grad, strict=True):
                slots[key].requires_grad = value  # type: ignore[union-attr]  # these slots hold a parameter
            with suppress(*VALUE_ERRORS):  # this one fails where operations depend on values
                counted = self._count_guessing(self._shadow, batch)
                self._guess_is_harmless |= counted.guessed and self._other_guess_agrees(self._shadow, batch, counted)
                if not counted.guessed or self._guess_is_harmless:
                    return counted, True
            self._shadow = next(self._shadows, None)
        if not self.has_all_weights:
            raise RunError(
                "the multiply-accumulates of this method can only be counted with the model's weights; do not use "
                "train.deepspeed, train.fsdp or model.quantization with it"
            )
        return self._count_with_weights(batch), False

    def _count_guessing(self, shadow: ShadowModel, batch: dict[str, Tensor]) -> OpCounter:
        """Count a pass with the truth values that the model does not refuse."""
        if not self._refuses_false:
            try:
                return self._count_on(shadow, batch)
            except VALUE_ERRORS as error:
                if not raised_on_purpose(error):
                    raise
        counted = self._count_on(shadow, batch, guess=True)
        self._refuses_false = self._guess_is_harmless = counted.guessed
        return counted

    def _other_guess_agrees(self, shadow: ShadowModel, batch: dict[str, Tensor], counted: OpCounter) -> bool:
        """Return whether the other truth values give the same MACs, or are those that the model refuses."""
        if self._guess_is_harmless:
            return True
        try:
            return _same_macs(self._count_on(shadow, batch, guess=True), counted)
        except VALUE_ERRORS as error:
            if raised_on_purpose(error):
                return True
            raise

    def _count_with_weights(self, batch: dict[str, Tensor]) -> OpCounter:
        """Count a pass on the model itself, on a batch of ones if the first ones show that its values do not matter."""
        model = ShadowModel(self.model)
        if self._equal_on_ones == EQUAL_ON_ONES:
            return self._count_on(model, ones_like_batch(batch))
        counted = self._count_on(model, batch)
        if not self._values_matter:
            with suppress(*VALUE_ERRORS):  # ones are not valid everywhere
                on_ones = self._count_on(model, ones_like_batch(batch))
                if _same_macs(on_ones, counted):
                    self._equal_on_ones += 1
                    return on_ones
            self._values_matter = True
        return counted

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
        for shadow in (*reversed([*shadow_models(self.model)]), ShadowModel(self.model)):
            with suppress(*VALUE_ERRORS):
                return _step_bytes(shadow, self.loss, microbatches)
        raise RunError("the memory of a step cannot be estimated without the model's weights")

    def _count_optimizer(self, make: MakeOptimizer) -> OptimizerCosts:
        try:
            with torch.device("meta"):
                return count_optimizer_step(make, self.model)
        except VALUE_ERRORS:
            return count_optimizer_step(make, self.model)

    def _count_on(self, shadow: ShadowModel, batch: dict[str, Tensor], *, guess: bool = False) -> OpCounter:
        """Count a pass on this copy."""
        counter, model, device = OpCounter(guess), shadow.model, next(self.model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        fork_rng = torch.random.fork_rng(devices=devices)
        with fork_rng, eager_attention(model), _quiet_fake_tensors(), paused_gc(), shadow.mode:
            inputs = shadow.prepare(batch)
            try:
                with counter:
                    loss = self.loss(model, inputs)
                    counter.backward = True
                    loss.backward()  # type: ignore[no-untyped-call]
            finally:
                model.zero_grad(set_to_none=True)
                self.model.zero_grad(set_to_none=True)  # a hook in the copy may reach the model
        return counter


def _same_macs(one: OpCounter, other: OpCounter) -> bool:
    return (one.forward_flops, one.backward_flops) == (other.forward_flops, other.backward_flops)


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


@contextmanager
def _quiet_fake_tensors() -> Iterator[None]:
    """Turn off torch's log of operations that need values: the next copy is tried instead."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
