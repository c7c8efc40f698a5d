"""Steps the optimizer: plainly (data parallelism included), with DeepSpeed or with FSDP2."""

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

from peftkit.distributed.accelerator import AcceleratorOptions
from peftkit.errors import RunError
from peftkit.monitor.trackers import enabled_trackers
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, dump_recipe
from peftkit.recipe.deepspeed import deepspeed_config
from peftkit.train import checkpoint
from peftkit.train.optimizer import make_optimizer

State = tuple[dict[str, Tensor], dict[str, Any]]
"""An optimizer's state: tensors, and other values as JSON."""


class Strategy:
    """The wrapped model and its optimizer, on one process or with data parallelism.

    Args:
        recipe: The recipe of the run.
        model: The model with the method applied.
        accelerator: The Accelerator of the run.
    """

    all_ranks_forward = False
    """Whether all processes must call the model equally often, because each holds a part of every weight."""

    def __init__(self, recipe: Recipe, model: nn.Module, accelerator: Accelerator) -> None:
        self.recipe, self.module, self.accelerator = recipe, model, accelerator
        self.model, self.optimizer = accelerator.prepare(model.train(), make_optimizer(recipe, model))
        self.trained = [p for p in model.parameters() if p.requires_grad]

    def release(self) -> None:
        """Release the wrapped model, before the process group is destroyed."""
        self.model = self.optimizer = None

    def microbatch_context(self, *, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one microbatch; ``last`` is whether it is the last one of the step."""
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Accumulate gradients, averaged over processes.

        Args:
            loss: The loss of a microbatch, a scalar.
            last: Whether it is the last microbatch of the step.
        """
        self.accelerator.backward(loss)

    def check_gradients(self) -> None:
        """Check that any trainable parameter has a gradient; waits for the device.

        Raises:
            RunError: None has, so nothing would be trained.
        """
        if not any(p.grad is not None and bool(p.grad.any()) for p in self.trained):
            raise RunError(
                f"none of the {len(self.trained)} trainable parameters of {self.recipe.method.name!r} has a gradient "
                "at the second step: the loss does not depend on them; this is a bug of the method"
            )

    def clip(self) -> None:
        """Clip the gradients to ``train.max_grad_norm``."""
        if self.recipe.train.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.trained, self.recipe.train.max_grad_norm)

    def step(self) -> None:
        """Update the parameters."""
        self.optimizer.step()

    def zero_grad(self) -> None:
        """Reset the gradients."""
        self.optimizer.zero_grad()

    def gathered(self) -> AbstractContextManager[Any]:
        """Return a context in which ``module`` has full weights on every process; a collective operation."""
        return nullcontext()

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the trainable parameters and the buffers; a collective operation."""
        return checkpoint.trained_tensors(self.module)

    def load(self, trainable: Mapping[str, Tensor]) -> None:
        """Restore what ``trainable_state`` returned; a collective operation."""
        with self.gathered():
            checkpoint.restore_trained(self.module, trainable)

    def state_dict(self) -> State:
        """Return the optimizer's state of all processes; a collective operation."""
        return checkpoint.optimizer_state(self.optimizer)

    def load_state_dict(
        self, trainable: Mapping[str, Tensor], tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
    ) -> None:
        """Restore the trainable parameters and the optimizer's state; a collective operation.

        Args:
            trainable: What ``trainable_state`` returned, with the shapes of the model's.
            tensors: The tensors that ``state_dict`` returned, of any shape.
            rest: The other values that ``state_dict`` returned.
        """
        self.load(trainable)
        checkpoint.restore_optimizer(self.optimizer, tensors, rest)


class DeepSpeedStrategy(Strategy):
    """DeepSpeed ZeRO (Rajbhandari et al., 2020): shards optimizer state, gradients and weights, by stage."""

    def __init__(self, recipe: Recipe, model: nn.Module, accelerator: Accelerator) -> None:
        super().__init__(recipe, model, accelerator)
        self.stage = int(self.model.zero_optimization_stage())
        self.all_ranks_forward = self.stage == 3
        self.rank = accelerator.process_index

    def microbatch_context(self, *, last: bool) -> AbstractContextManager[Any]:
        return nullcontext()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.model.set_gradient_accumulation_boundary(last)
        self.model.backward(loss, scale_wrt_gas=False)  # the loss is already divided by the targets of the whole step

    def check_gradients(self) -> None:
        """Do nothing: DeepSpeed has already consumed the gradients."""

    def clip(self) -> None:
        """Do nothing: DeepSpeed clips, by its configuration."""

    def step(self) -> None:
        self.model.step()

    def zero_grad(self) -> None:
        """Do nothing: DeepSpeed resets the gradients in its step."""

    def gathered(self) -> AbstractContextManager[Any]:
        if self.stage < 3:
            return nullcontext()
        from deepspeed import zero

        gathered: AbstractContextManager[Any] = zero.GatheredParameters(self.trained, modifier_rank=0)
        return gathered

    def trainable_state(self) -> dict[str, Tensor]:
        with self.gathered():
            # Copies, since the parameters are sharded again on leaving the context.
            return _cpu_copies(checkpoint.trained_tensors(self.module))

    def _partitions(self) -> list[Tensor]:
        """Return the flat fp32 partitions that this process's optimizer updates; none if nothing is sharded."""
        zero_optimizer = self.model.optimizer
        for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"):
            if hasattr(zero_optimizer, name):
                return list(getattr(zero_optimizer, name))
        return []

    def state_dict(self) -> State:
        partitions = self._partitions()
        if not partitions:
            return checkpoint.optimizer_state(self.model.basic_optimizer)
        tensors, rest = dict[str, Tensor](), dict[str, Any]()
        for index, partition in enumerate(partitions):
            tensors[f"{index}.piece"] = partition
            for key, value in self.model.basic_optimizer.state[partition].items():
                (tensors if isinstance(value, Tensor) else rest)[f"{index}.{key}"] = value
        by_rank = gather_object([(_cpu_copies(tensors), rest)])
        return (
            {f"{rank}.{name}": value for rank, (part, _) in enumerate(by_rank) for name, value in part.items()},
            {f"{rank}.{name}": value for rank, (_, part) in enumerate(by_rank) for name, value in part.items()},
        )

    def load_state_dict(
        self, trainable: Mapping[str, Tensor], tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
    ) -> None:
        self.load(trainable)
        partitions = self._partitions()
        if not partitions:
            checkpoint.restore_optimizer(self.model.basic_optimizer, tensors, rest)
        for name, value in [*tensors.items(), *rest.items()] if partitions else ():
            rank, index, key = name.split(".", 2)
            if int(rank) != self.rank:
                continue
            partition = partitions[int(index)]
            if key == "piece":
                with torch.no_grad():
                    partition.copy_(value)
            else:
                on_device = value.to(partition.device) if isinstance(value, Tensor) and key != "step" else value
                self.model.basic_optimizer.state[partition][key] = on_device


class FsdpStrategy(Strategy):
    """FSDP2 (Zhao et al., 2023): shards weights, gradients and optimizer state as ``DTensor``s."""

    all_ranks_forward = True

    @contextmanager
    def gathered(self) -> Iterator[None]:
        sharded = [module for module in self.module.modules() if isinstance(module, FSDPModule)]
        for module in sharded:
            module.unshard()
        try:
            yield
        finally:
            for module in sharded:
                module.reshard()

    def trainable_state(self) -> dict[str, Tensor]:
        with self.gathered():
            return _cpu_copies(checkpoint.trained_tensors(self.module))

    def load(self, trainable: Mapping[str, Tensor]) -> None:
        current = checkpoint.trained_tensors(self.module)
        sharded = {name: _shard_like(value, current[name]) for name, value in trainable.items()}
        checkpoint.restore_trained(self.module, sharded)

    def state_dict(self) -> State:
        tensors, rest = checkpoint.optimizer_state(self.optimizer)
        return {name: _unsharded(value) for name, value in tensors.items()}, rest

    def load_state_dict(
        self, trainable: Mapping[str, Tensor], tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
    ) -> None:
        self.load(trainable)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        sharded = {
            name: _shard_like(value, parameters[int(name.split(".")[0])]) if value.ndim else value
            for name, value in tensors.items()
        }
        checkpoint.restore_optimizer(self.optimizer, sharded, rest)


def _cpu_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


def _unsharded(value: Tensor) -> Tensor:
    """Return the full tensor; a collective operation if it is sharded."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _shard_like(value: Tensor, other: Tensor) -> Tensor:
    """Shard a full tensor like another tensor of the same shape."""
    if not isinstance(other, DTensor):
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)


STRATEGIES = {DistributedType.DEEPSPEED: DeepSpeedStrategy, DistributedType.FSDP: FsdpStrategy}


def make_strategy(recipe: Recipe, model: nn.Module, accelerator: Accelerator) -> Strategy:
    """Create the strategy of the launch.

    Args:
        recipe: The recipe of the run.
        model: The model with the method applied.
        accelerator: The Accelerator of the run.
    """
    return STRATEGIES.get(accelerator.distributed_type, Strategy)(recipe, model, accelerator)


def accelerator_options(recipe: Recipe, registry: Registry) -> AcceleratorOptions:
    """Return the options of a run's Accelerator.

    Args:
        recipe: The recipe of the run.
        registry: The installed components, which must be the same on all processes.
    """
    return AcceleratorOptions(
        mixed_precision=recipe.train.mixed_precision,
        fsdp=recipe.train.fsdp,
        activation_offloading=recipe.train.activation_offloading,
        deepspeed=deepspeed_config(recipe) if recipe.train.deepspeed.used else None,
        log_with=tuple(enabled_trackers(recipe)),
        project_dir=recipe.run.output,
        shared=(dump_recipe(recipe), sorted(registry.distributions.items())),
    )
