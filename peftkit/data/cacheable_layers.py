"""Finds the frozen layers whose outputs can be cached over epochs (``train.cache_frozen_outputs``)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from peftkit.components import Method
from peftkit.data.dataloader import TrainRows
from peftkit.macs.dispatch_mode import DispatchMode
from peftkit.macs.eager_attention import eager_attention
from peftkit.macs.flop_counter import OpCounter
from peftkit.macs.shadow_models import VALUE_ERRORS, without_values
from peftkit.models import BoundObjective
from peftkit.models.batches.collated_batch import CollatedBatch, with_tensors
from peftkit.models.frozen_outputs import FROZEN_OUTPUTS, FrozenLayers, hidden_states
from peftkit.models.heads.token_losses import tolerance
from peftkit.recipe import Recipe
from peftkit.recipe.tables.intervals import parse_bytes

log = logging.getLogger(__name__)


class CannotCacheError(Exception):
    """Why the outputs of frozen layers cannot be cached."""


@dataclass(frozen=True)
class LayerCall:
    """A layer's call in a forward pass."""

    name: str
    output: Any
    trained: bool
    """Whether the output depends on something that is trained."""
    random: bool
    """Whether random numbers were drawn before it."""


def with_frozen_layers(
    recipe: Recipe, objective: BoundObjective, model: nn.Module, rows: TrainRows, *, processes: int = 1
) -> BoundObjective:
    """Return the objective of a run that caches the outputs of frozen layers, if the recipe asks for it.

    The layers are found by what happens in a forward pass. If the model has values, its loss is computed from the
    outputs of the layers too, and must be the same.

    Args:
        recipe: The recipe.
        objective: The objective.
        model: The model with the method applied, on any device, also ``meta``.
        rows: The training rows.
        processes: The number of processes.

    Returns:
        The objective with the layers; unchanged, with a warning, if there are none.
    """
    limit = recipe.train.cache_frozen_outputs
    if limit is None:
        return objective
    try:
        return replace(objective, frozen=_find(recipe, objective, model, rows, processes, parse_bytes(limit)))
    except CannotCacheError as error:
        log.warning("train.cache_frozen_outputs has no effect: %s", error)
        return objective


def _find(
    recipe: Recipe, objective: BoundObjective, model: nn.Module, rows: TrainRows, processes: int, limit: int
) -> FrozenLayers:
    """Find the layers.

    Raises:
        CannotCacheError: There are none, or their outputs cannot be cached.
    """
    if processes > 1 or recipe.train.deepspeed.used or recipe.train.fsdp:
        raise CannotCacheError("it is for one process")
    if recipe.train.compile:
        raise CannotCacheError("it is not for compiled layers")
    if recipe.train.mixed_precision != "no":
        raise CannotCacheError("it is not for mixed precision; load the model in model.dtype instead")
    if not isinstance(rows, Dataset):
        raise CannotCacheError("the training rows are streamed")
    if objective.component.needs_reference or objective.has_statistics:
        raise CannotCacheError(f"the loss of {objective.component.name!r} needs several passes")
    if may_change_training(recipe.method):
        raise CannotCacheError(f"{recipe.method.name!r} may change what is trained after a step")
    lengths = rows["length"][:]
    chosen = [rows[lengths.index(find(lengths))] for find in (min, max)]
    batch: dict[str, Tensor] = objective.collate_and_count(chosen)
    device = next(model.parameters()).device
    batch = without_values(batch, device) if device.type == "meta" else CollatedBatch.to(batch, device)  # type: ignore[arg-type]
    with _kept_state(model):
        frozen = _leading_layers(_trace(objective, model, batch))
        if device.type != "meta" and not _same_loss(objective, model, batch, frozen):
            raise CannotCacheError("the loss is another one if the frozen layers are left out")
    needed = sum(lengths) * frozen.bytes_per_token
    if needed > limit:
        raise CannotCacheError(f"the outputs take {needed / 2**20:,.1f} MiB; set it to at least that")
    return frozen


def may_change_training(method: Method) -> bool:
    """Return whether a method has step hooks and may therefore change what is trained.

    Args:
        method: The method.
    """
    cls = type(method)
    return cls.after_step is not Method.after_step or cls.after_backward is not Method.after_backward


class _RandomOps(DispatchMode):  # type: ignore[no-untyped-call]
    """Notices operations that draw random numbers."""

    drawn = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            names = [argument.name for argument in func._schema.arguments]
            values = {**dict(zip(names, args, strict=False)), **kwargs}
            # Attention draws nothing without dropout.
            self.drawn |= "dropout_p" not in names or bool(values.get("dropout_p", 0.0))
        return func(*args, **kwargs)


def _trace(objective: BoundObjective, model: nn.Module, batch: dict[str, Tensor]) -> list[LayerCall]:
    """Return the calls of the model's layers in a training pass, in their order."""
    calls: list[LayerCall] = []
    operations = _RandomOps()  # type: ignore[no-untyped-call]

    def note(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            trained = any(t.requires_grad for t in _tensors(output))
            calls.append(LayerCall(name, output, trained, operations.drawn))

        return hook

    hooks = [layer.register_forward_hook(note(name)) for name, layer in _layers(model)]
    on_meta = next(model.parameters()).device.type == "meta"
    try:
        with ExitStack() as contexts:
            contexts.enter_context(torch.enable_grad())
            if on_meta:  # as when MACs are counted: no operation may need values
                contexts.enter_context(eager_attention(model))
                contexts.enter_context(OpCounter())
            contexts.enter_context(operations)  # last, since it must see all operations
            objective.loss(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the members of lists of layers that are of one class, with their names; but no lists within layers."""
    within: tuple[str, ...] = ()
    for name, module in model.named_modules():
        is_stack = isinstance(module, nn.ModuleList) and len(module) and len({type(each) for each in module}) == 1
        if is_stack and not name.startswith(within or ("\0",)):
            within += (f"{name}.",)
            yield from ((f"{name}.{key}", layer) for key, layer in module.named_children())


def _leading_layers(calls: Sequence[LayerCall]) -> FrozenLayers:
    """Return the layers of the first stack that depend on nothing that is trained.

    Raises:
        CannotCacheError: There are none, or their outputs are not all that the next layer needs.
    """
    if not calls:
        raise CannotCacheError("the model has no list of layers")
    stack = calls[0].name.rpartition(".")[0]
    of_stack = [call for call in calls if call.name.rpartition(".")[0] == stack]
    if [call.name for call in calls[: len(of_stack)]] != [f"{stack}.{i}" for i in range(len(of_stack))]:
        raise CannotCacheError("the layers are not called one after the other")
    frozen = [*of_stack]
    for number, call in enumerate(of_stack):
        if call.trained:
            frozen = of_stack[:number]
            break
    if not frozen:
        raise CannotCacheError("something is trained in the first layer or below it")
    last = frozen[-1]
    if last.random:
        raise CannotCacheError(
            "the frozen layers have dropout, which is active in training; set it to 0 in the model's config.json"
        )
    is_tensor = isinstance(last.output, Tensor)
    if not is_tensor and not (isinstance(last.output, tuple) and isinstance(last.output[0], Tensor)):
        raise CannotCacheError("the layers return neither hidden states nor a tuple of them")
    if not is_tensor and len(frozen) < len(of_stack) and _tensors(last.output[1:]):
        raise CannotCacheError("the layers return more than hidden states, such as position biases")
    hidden = hidden_states(last.output)
    return FrozenLayers(
        names=tuple(call.name for call in frozen),
        width=hidden.shape[-1],
        dtype=hidden.dtype,
        further_outputs=None if is_tensor else len(last.output) - 1,
    )


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for each in value for tensor in _tensors(each)] if isinstance(value, tuple | list) else []


def _same_loss(objective: BoundObjective, model: nn.Module, batch: dict[str, Tensor], frozen: FrozenLayers) -> bool:
    """Whether the loss of a training pass is the same if it is computed from the outputs of frozen layers."""
    device = batch["input_ids"].device

    def loss(inputs: dict[str, Tensor]) -> float:
        torch.manual_seed(0)
        return float(objective.loss(model, inputs))

    with torch.no_grad():
        with frozen.capture(model) as outputs:
            expected = loss(batch)
        mask = batch["attention_mask"].bool()[..., None]
        if len(outputs) != 1 or outputs[0].shape[:2] != mask.shape[:2]:
            return False
        objective = replace(objective, frozen=frozen)
        try:
            replayed = loss(with_tensors(batch, {FROZEN_OUTPUTS: outputs[0].where(mask, 0)}))
        except VALUE_ERRORS:
            return False
    return math.isclose(expected, replayed, rel_tol=10 * tolerance(model, device), abs_tol=1e-5)


@contextmanager
def _kept_state(model: nn.Module) -> Iterator[None]:
    """Put the model in training mode; restore its mode, its buffers and the random state afterwards."""
    was_training, buffers = model.training, [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = [device] if (device := next(model.parameters()).device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        model.train()
        try:
            yield
        finally:
            model.train(was_training)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
