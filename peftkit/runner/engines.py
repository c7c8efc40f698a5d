"""How losses become steps: by the optimizer itself, or by what shards weights and state among processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from peftkit.errors import RunError
from peftkit.recipe import Recipe
from peftkit.runner import checkpoint
from peftkit.runner.optimizers import make_optimizer

State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors, and the rest as JSON has it."""


class Engine:
    """The model as it is trained, its optimizer, and how a step is made with them."""

    lockstep = False
    """Whether all processes have to make the same passes, since each holds a part of every weight."""

    def __init__(self, recipe: Recipe, model: nn.Module, accelerator: Accelerator) -> None:
        self.recipe, self.module, self.accelerator = recipe, model, accelerator
        self.model, self.optimizer = accelerator.prepare(model.train(), make_optimizer(recipe, model))
        self.trained = [p for p in model.parameters() if p.requires_grad]

    def release(self) -> None:
        """Lets go of what the processes share, before they part."""
        self.model = self.optimizer = None

    def passing(self, *, last: bool) -> AbstractContextManager[Any]:
        """Wraps the passes over one batch; ``last`` is whether the step follows it."""
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Adds the loss's gradients to those of the step, which processes average."""
        self.accelerator.backward(loss)

    def something_learns(self) -> None:
        """Makes sure that what is trained has any gradients.

        Raises:
            RunError: it has none, so that nothing would be learnt for all the work.
        """
        if not any(p.grad is not None and bool(p.grad.any()) for p in self.trained):
            raise RunError(
                f"at its second step none of the {len(self.trained)} tensors that {self.recipe.method.name!r} trains "
                "has a gradient: the loss does not depend on them, and nothing is learnt; the method is at fault"
            )

    def clip(self) -> None:
        """Clips the gradients as the recipe says."""
        if self.recipe.train.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.trained, self.recipe.train.max_grad_norm)

    def step(self) -> None:
        """Moves the weights."""
        self.optimizer.step()

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        self.optimizer.zero_grad()

    def whole(self) -> AbstractContextManager[Any]:
        """Within it every process has whole weights in ``module``; all enter it together."""
        return nullcontext()

    def weights(self) -> dict[str, Tensor]:
        """The weights that learn; all processes ask together."""
        return checkpoint.trained_tensors(self.module)

    def load(self, trainable: Mapping[str, Tensor]) -> None:
        """Puts back what ``weights`` gave; all processes do so together."""
        with self.whole():
            checkpoint.restore_trained(self.module, trainable)

    def state(self) -> State:
        """The optimizer's state of all processes, on the main one."""
        return checkpoint.optimizer_state(self.optimizer)

    def restore(self, trainable: Mapping[str, Tensor], tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        """Puts back the weights that learn and what ``state`` gave."""
        self.load(trainable)
        checkpoint.restore_optimizer(self.optimizer, tensors, rest)


class DeepSpeed(Engine):
    """ZeRO (Rajbhandari et al., 2020): optimizer state, gradients and weights are sharded, by stage."""

    def __init__(self, recipe: Recipe, model: nn.Module, accelerator: Accelerator) -> None:
        super().__init__(recipe, model, accelerator)
        self.stage = int(self.model.zero_optimization_stage())
        self.lockstep = self.stage == 3
        self.number, self.processes = accelerator.process_index, accelerator.num_processes

    def passing(self, *, last: bool) -> AbstractContextManager[Any]:
        return nullcontext()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.model.set_gradient_accumulation_boundary(last)
        self.model.backward(loss, scale_wrt_gas=False)  # the loss is that of the whole step's targets already

    def something_learns(self) -> None:
        """DeepSpeed has taken the gradients by now."""

    def clip(self) -> None:
        """DeepSpeed does, as its configuration says."""

    def step(self) -> None:
        self.model.step()

    def zero_grad(self) -> None:
        """DeepSpeed does with its step."""

    def whole(self) -> AbstractContextManager[Any]:
        if self.stage < 3:
            return nullcontext()
        from deepspeed import zero

        gathered: AbstractContextManager[Any] = zero.GatheredParameters(self.trained, modifier_rank=0)
        return gathered

    def weights(self) -> dict[str, Tensor]:
        with self.whole():
            found = checkpoint.trained_tensors(self.module)
            # What is gathered is taken apart again on leaving.
            return {name: value.detach().cpu().clone() for name, value in found.items()}

    def _pieces(self) -> list[Tensor]:
        """The flat pieces of weights that this process's optimizer moves; none where nothing is sharded."""
        sharding = self.model.optimizer
        for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"):
            if hasattr(sharding, name):
                return list(getattr(sharding, name))
        return []

    def state(self) -> State:
        pieces = self._pieces()
        if not pieces:
            return checkpoint.optimizer_state(self.model.basic_optimizer)
        tensors, rest = dict[str, Tensor](), dict[str, Any]()
        for index, piece in enumerate(pieces):
            tensors[f"{index}.piece"] = piece.detach()
            for key, value in self.model.basic_optimizer.state[piece].items():
                (tensors if isinstance(value, Tensor) else rest)[f"{index}.{key}"] = value
        own = {name: value.cpu().clone() for name, value in tensors.items()}
        everyone = gather_object([(own, rest)])
        return (
            {f"{n}.{name}": value for n, (held, _) in enumerate(everyone) for name, value in held.items()},
            {f"{n}.{name}": value for n, (_, other) in enumerate(everyone) for name, value in other.items()},
        )

    def restore(self, trainable: Mapping[str, Tensor], tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        self.load(trainable)
        pieces = self._pieces()
        if not pieces:
            checkpoint.restore_optimizer(self.model.basic_optimizer, tensors, rest)
        for name, value in [*tensors.items(), *rest.items()] if pieces else ():
            number, index, key = name.split(".", 2)
            if int(number) != self.number:
                continue
            piece = pieces[int(index)]
            if key == "piece":
                with torch.no_grad():
                    piece.copy_(value)
            else:
                kept = value.to(piece.device) if isinstance(value, Tensor) and key != "step" else value
                self.model.basic_optimizer.state[piece][key] = kept


class Fsdp(Engine):
    """FSDP2 (Zhao et al., 2023): weights, gradients and optimizer state are sharded as tensors of their own kind."""

    lockstep = True

    @contextmanager
    def whole(self) -> Iterator[None]:
        sharded = [module for module in self.module.modules() if isinstance(module, FSDPModule)]
        for module in sharded:
            module.unshard()
        try:
            yield
        finally:
            for module in sharded:
                module.reshard()

    def weights(self) -> dict[str, Tensor]:
        with self.whole():
            found = checkpoint.trained_tensors(self.module)
            return {name: value.detach().cpu().clone() for name, value in found.items()}

    def load(self, trainable: Mapping[str, Tensor]) -> None:
        own = checkpoint.trained_tensors(self.module)
        checkpoint.restore_trained(self.module, {name: _like(value, own[name]) for name, value in trainable.items()})

    def state(self) -> State:
        tensors, rest = checkpoint.optimizer_state(self.optimizer)
        return {name: _full(value) for name, value in tensors.items()}, rest

    def restore(self, trainable: Mapping[str, Tensor], tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        self.load(trainable)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        sharded = {
            name: _like(value, parameters[int(name.split(".")[0])]) if value.ndim else value
            for name, value in tensors.items()
        }
        checkpoint.restore_optimizer(self.optimizer, sharded, rest)


def _full(value: Tensor) -> Tensor:
    """The whole tensor, which every process asks for together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _like(value: Tensor, sharded: Tensor) -> Tensor:
    """A whole tensor, sharded as another one is."""
    if not isinstance(sharded, DTensor):
        return value
    return distribute_tensor(value.to(sharded.device), sharded.device_mesh, sharded.placements)


ENGINES = {DistributedType.DEEPSPEED: DeepSpeed, DistributedType.FSDP: Fsdp}


def make_engine(recipe: Recipe, model: nn.Module, accelerator: Accelerator) -> Engine:
    """The engine of the world that is there."""
    return ENGINES.get(accelerator.distributed_type, Engine)(recipe, model, accelerator)
