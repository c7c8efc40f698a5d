from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.optimization import Adafactor

from peftkit.errors import InputError
from peftkit.plugins import Registry
from peftkit.recipe.optimizer_names import optimizer_arguments
from peftkit.train.optimizer import make_optimizer
from peftkit.train.run import run
from tests.tiny_runs import Make


def test_adafactor_uses_the_recipes_learning_rate(make: Make, registry: Registry) -> None:
    optimizer = make_optimizer(
        make("decoder", "train.optimizer=adafactor", "train.learning_rate=1e-3"), nn.Linear(2, 2)
    )
    (group,) = optimizer.param_groups
    assert type(optimizer).__name__ == "Adafactor"
    assert (group["lr"], group["scale_parameter"], group["relative_step"], group["warmup_init"]) == (
        1e-3,
        False,
        False,
        False,
    )


def test_adafactor_arguments_are_those_of_transformers() -> None:
    assert list(optimizer_arguments("adafactor")) == list(inspect.signature(Adafactor).parameters)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "NAdam", "Muon", "SGD"])
def test_weight_decay_is_that_of_the_recipe_not_the_optimizers_default(name: str, make: Make) -> None:
    model = nn.Linear(2, 2, bias=False)
    optimizer = make_optimizer(make("decoder", f"train.optimizer={name}"), model)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0]
    with_option = make("decoder", f"train.optimizer={name}", "train.optimizer_options={weight_decay=0.2}")
    assert [group["weight_decay"] for group in make_optimizer(with_option, model).param_groups] == [0.2]


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_fused_kernels_update_as_the_others_do(name: str, make: Make) -> None:
    updates = []
    for options, fused in (("{}", True), ("{fused=false}", False)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
        recipe = make("decoder", f"train.optimizer={name}", f"train.optimizer_options={options}")
        optimizer = make_optimizer(recipe, model)
        assert [group["fused"] for group in optimizer.param_groups] == [fused]
        for _ in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        updates.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.allclose(*updates, atol=1e-7)


def test_options_that_exclude_a_fused_kernel_are_kept(make: Make) -> None:
    recipe = make("decoder", "train.optimizer=AdamW", "train.optimizer_options={foreach=true}")
    (group,) = make_optimizer(recipe, nn.Linear(2, 2, bias=False)).param_groups
    assert (group["foreach"], group["fused"]) == (True, None)


def test_biases_get_no_weight_decay(make: Make) -> None:
    optimizer = make_optimizer(make("decoder", "train.optimizer=NAdam", "train.weight_decay=0.1"), nn.Linear(2, 2))
    assert [(g["weight_decay"], [p.ndim for p in g["params"]]) for g in optimizer.param_groups] == [
        (0.1, [2]),
        (0.0, [1]),
    ]


@pytest.mark.parametrize(
    ("optimizer", "options", "reason"),
    [
        ("SGD", {"momentum": -1.0}, "Invalid momentum value"),
        ("adamw", {"fused": True, "foreach": True}, "fused"),
        ("SGD", {"momentums": 0.9}, "momentums"),
    ],
)
def test_rejected_optimizer_options_are_an_error_before_the_run_directory(
    make: Make, registry: Registry, optimizer: str, options: dict[str, float], reason: str
) -> None:
    valid = make("decoder", f"train.optimizer={optimizer}")
    recipe = valid.model_copy(update={"train": valid.train.model_copy(update={"optimizer_options": options})})
    with pytest.raises(InputError, match=rf"train\.optimizer_options: {optimizer} does not accept them: .*{reason}"):
        run(recipe, registry)
    assert not Path(recipe.run.output).exists()
