"""The FSDP2 strategy on two CPU processes; a fake accelerator shards the model, as Accelerate cannot on CPUs."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from peftkit import ApplyContext
from peftkit.errors import RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.testing.processes import fork_all, free_port
from peftkit.train.run import run
from peftkit.train.steps.parallel_strategies import FsdpStrategy, Strategy, make_strategy
from tests.tiny_runs import Make, tiny

STEPS = 3


def sharding(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Shards like Accelerate's ``prepare``."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    wanted = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
    mesh = init_device_mesh("cpu", (2,))
    for module in model.modules():
        if type(module).__name__ == "LlamaDecoderLayer":
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    parameters = dict(model.named_parameters())
    for group, chosen in zip(optimizer.param_groups, wanted, strict=True):
        group["params"] = [parameters[name] for name in chosen]
    return model, optimizer


def accelerator(prepare: Callable[..., Any], kind: DistributedType) -> Any:
    return SimpleNamespace(
        prepare=prepare,
        distributed_type=kind,
        no_sync=lambda model: nullcontext(),
        backward=lambda loss: loss.backward(),
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
    )


def strategy_for(recipe: Recipe, *, sharded: bool) -> Strategy:
    model, _ = tiny("decoder")
    torch.manual_seed(0)
    model = recipe.method.apply(model, ApplyContext("decoder", "classification", seed=0, steps=None))
    kind = DistributedType.FSDP if sharded else DistributedType.NO
    strategy = make_strategy(recipe, model, accelerator(sharding if sharded else lambda *both: both, kind))
    assert isinstance(strategy, FsdpStrategy) == sharded
    return strategy


def step(strategy: Strategy) -> None:
    ids = torch.arange(24).reshape(2, 12) % 100 + 5
    with strategy.microbatch_context(last=True):
        strategy.backward(strategy.model(input_ids=ids, labels=ids, use_cache=False).loss, last=True)
    strategy.clip()
    strategy.step()
    strategy.zero_grad()


def trained(recipe: Recipe, *, sharded: bool) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Weights and optimizer state after some steps, and weights after one more step from the restored state."""
    first = strategy_for(recipe, sharded=sharded)
    for _ in range(STEPS):
        step(first)
    weights, (state, rest) = copy.deepcopy((first.trainable_state(), first.state_dict()))
    second = strategy_for(recipe, sharded=sharded)
    second.load_state_dict(weights, copy.deepcopy(state), rest)
    step(second)
    return weights, state, second.trainable_state()


def train_sharded(recipe: Recipe, rank: int, port: int, out: Path) -> None:
    variables = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in variables.items()})
    torch.distributed.init_process_group("gloo")
    for name, tensors in zip("abc", trained(recipe, sharded=True), strict=True):
        if rank == 0:
            save_file({key: value.contiguous() for key, value in tensors.items()}, out / f"{name}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_sharded_weights_train_and_are_restored_unsharded(method: str, make: Make, tmp_path: Path) -> None:
    recipe = make(
        "decoder",
        f"method.name={method}",
        "train.max_grad_norm=0.5",
        "train.optimizer=SGD",
        "train.optimizer_options={momentum=0.9}",
    )
    port = free_port()
    assert fork_all([partial(train_sharded, recipe, rank, port, tmp_path) for rank in range(2)]) == [0, 0]
    for name, right in zip("abc", trained(recipe, sharded=False), strict=True):
        tensors = load_file(tmp_path / f"{name}.safetensors")
        assert tensors.keys() == right.keys()
        for key, value in right.items():
            assert tensors[key].shape == value.shape
            assert (tensors[key] - value).abs().max() < 1e-5, (name, key)


@pytest.mark.parametrize(
    ("variables", "recipe", "words"),
    [
        ({}, ["train.fsdp=true"], "train.fsdp needs GPUs"),
        ({"ACCELERATE_USE_FSDP": "true"}, [], r"the recipe does not; set train\.fsdp = true"),
    ],
)
def test_fsdp_without_effect_is_an_error(
    variables: dict[str, str],
    recipe: list[str],
    words: str,
    make: Make,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=words):
        run(make("decoder", *recipe), registry)
