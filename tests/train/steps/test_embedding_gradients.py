"""Gradients of embeddings that are added to their tables equal those of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from peftkit.plugins import Registry
from peftkit.recipe.tables.train_config import TrainConfig
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from peftkit.train.steps.embedding_gradients import added_embedding_gradients, applies, kept_embedding_gradients
from tests.tiny_runs import Make

ORIGINAL = functional.embedding
INDICES = torch.tensor([[3, 0, 3, 1], [1, 1, 6, 0]])
Use = Callable[[nn.Embedding], torch.Tensor]


def tied(table: nn.Embedding) -> torch.Tensor:
    """Look rows up twice, and multiply them with the table, as a model with tied weights."""
    return (table(INDICES).tanh() + table(INDICES.flip(0))) @ table.weight.T


USES: dict[str, Use] = {"once": lambda table: table(INDICES), "tied": tied, "no rows": lambda table: table(INDICES[:0])}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.parametrize(
    "options",
    [{}, {"padding_idx": 1}, {"padding_idx": -1}, {"max_norm": 0.5}, {"scale_grad_by_freq": True}],
    ids=str,
)
def test_gradients_equal_those_of_torch(use: Use, options: dict[str, Any]) -> None:
    table = nn.Embedding(7, 5, dtype=torch.float64, **options)
    weights = torch.randn(5, 7, dtype=torch.float64)
    gradients, outputs = [], []
    for mine in (False, True):
        table.zero_grad()
        for _ in range(2):  # the second is added to the first
            if mine:
                with added_embedding_gradients():
                    outputs.append(output := use(table))
                    (output * weights[0, : output.shape[-1]]).square().sum().backward()
            else:
                outputs.append(output := use(table))
                (output * weights[0, : output.shape[-1]]).square().sum().backward()
        assert table.weight.grad is not None
        gradients.append(table.weight.grad.clone())
    assert torch.equal(outputs[0], outputs[2])
    assert torch.allclose(*gradients, rtol=1e-12, atol=1e-12)
    assert functional.embedding is ORIGINAL


def test_a_table_with_hooks_or_without_a_gradient_takes_the_plain_road() -> None:
    hooked, frozen = nn.Embedding(7, 5), nn.Embedding(7, 5).requires_grad_(False)
    seen: list[torch.Tensor] = []
    hooked.weight.register_hook(seen.append)
    with kept_embedding_gradients() as uses:
        (hooked(INDICES).sum() + frozen(INDICES).sum()).backward()
    assert not uses
    assert len(seen) == 1


def test_only_a_single_process_on_a_cpu_adds_them() -> None:
    train, cpu = TrainConfig(), torch.device("cpu")
    assert applies(train, cpu, 1)
    assert not applies(train, cpu, 2)
    assert not applies(train, torch.device("cuda"), 1)
    assert not applies(train.model_copy(update={"fsdp": True}), cpu, 1)
    assert not applies(train.model_copy(update={"fast_embedding_gradients": False}), cpu, 1)


@pytest.mark.parametrize("method", ["full", "prompt_tuning"])  # both train tables
@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder", "encoder"])
def test_runs_train_alike(kind: str, method: str, make: Make, registry: Registry) -> None:
    def losses(fast: str) -> list[float]:
        options = (f"method.name={method}", f"train.fast_embedding_gradients={fast}", "evaluate.at_start=false")
        more = ("model.dtype=float64", "evaluate.every=100%", f"run.name={method}{fast}")
        path = run(make(kind, *options, *more), registry)
        assert path is not None
        return [row["train"]["step_loss"] for row in RunDirectory(path).evaluations()]

    assert losses("true") == pytest.approx(losses("false"), rel=1e-9)
