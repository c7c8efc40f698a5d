"""Compiled layers train as the plain ones do, and what cannot be compiled is trained plainly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.recipe.conflicts.find_conflicts import find_conflicts
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from peftkit.train.steps import compiled_layers
from peftkit.train.steps.compiled_layers import CompiledLayers, repeated_layers
from peftkit.train.steps.fast_dropout import fast_dropout
from peftkit.train.steps.step_timer import StepTimer
from tests.tiny_runs import Make

RUNS = [
    ("encoder", "eager"),  # leaves out the gradients' graphs too
    *(pytest.param(k, "inductor", marks=pytest.mark.exhaustive) for k in ("encoder", "decoder", "encoder-decoder")),
]


class Layer(nn.Module):
    """A layer with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(4, 4), nn.Dropout(0.5)

    def forward(self, values: Tensor) -> Tensor:
        """Transform values of shape (rows, length, 4)."""
        outputs: Tensor = values + self.dropout(self.linear(values).relu())
        return outputs


class Model(nn.Module):
    """Repeated layers, and others."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.layers = nn.Linear(4, 4), nn.ModuleList([Layer(), Layer()])

    def forward(self, values: Tensor) -> Tensor:
        """Transform values of shape (rows, length, 4)."""
        values = self.inputs(values)
        for layer in self.layers:
            values = layer(values)
        return values


@pytest.fixture(autouse=True)
def traced_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Traces and differentiates the layers, but leaves out the C++ compiler, which takes most of the time."""
    monkeypatch.setattr(compiled_layers, "BACKEND", "aot_eager")
    yield
    torch.compiler.reset()  # type: ignore[no-untyped-call]


def gradients_of(model: nn.Module, values: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    torch.manual_seed(0)
    with fast_dropout():
        loss = model(values).square().sum()
        loss.backward()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    return loss.detach(), gradients


def test_layers_are_those_in_the_outermost_lists() -> None:
    model = Model()
    model.layers[0].inner = nn.ModuleList([Layer()])  # type: ignore[union-attr,assignment]
    assert repeated_layers(model) == [*model.layers]
    assert repeated_layers(nn.Sequential(nn.Linear(2, 2))) == []


def test_few_variants_compute_all_shapes_with_the_same_masks() -> None:
    model, shapes = Model(), [(rows, length, 4) for rows in (2, 3) for length in (2, 5, 7, 11)]
    layers = CompiledLayers(model)
    variants = []
    for shape in shapes:
        values = torch.randn(shape)
        expected = gradients_of(model, values)
        with layers.active():
            torch.testing.assert_close(gradients_of(model, values), expected)
        variants.append(layers.variants)
    record = layers.record()
    assert (record["layers"], record["why_not"]) == (2, "")
    assert len({*variants[2:]}) == 1  # of shapes whose lengths differ from the number of rows, no other variant
    assert 1 <= record["variants"] <= 3
    assert record["seconds"] > 0
    assert not any("orig_mod" in name for name in model.state_dict())
    assert [layer._compiled_call_impl for layer in model.layers] == [None, None]
    before = layers.variants
    gradients_of(model, torch.randn(2, 3, 4, 4))  # outside of steps nothing is compiled
    assert layers.variants == before


@pytest.mark.parametrize("error", [None, ValueError("no"), torch.OutOfMemoryError("CUDA out of memory.")])
def test_layers_that_compute_something_else_are_left_alone(error: Exception | None) -> None:
    model = Model()
    layers, values = CompiledLayers(model), torch.randn(2, 3, 4)

    def gradients() -> tuple[Tensor, list[Tensor | None]]:
        loss, computed = gradients_of(model, values)
        if any(layer._compiled_call_impl is not None for layer in model.layers):
            if error is not None:
                raise error
            computed[-1] = -computed[-1]  # type: ignore[operator]
        return loss, computed

    if isinstance(error, torch.OutOfMemoryError):
        with pytest.raises(torch.OutOfMemoryError):
            layers.check(gradients)
        return
    layers.check(gradients)
    assert layers.why_not == ("torch.compile fails: ValueError: no" if error else compiled_layers.OTHER_RESULTS)
    with layers.active():
        assert [layer._compiled_call_impl for layer in model.layers] == [None, None]
    assert layers.record()["layers"] == 0


@pytest.mark.parametrize(
    "option",
    ["model.quantization=4bit", "train.deepspeed.stage=1", "train.fsdp=true", "train.gradient_checkpointing=true"],
)
def test_what_cannot_be_compiled_is_refused(option: str, make: Make) -> None:
    recipe = make("decoder", "method.name=lora")
    table, _, setting = option.partition(".")
    key, value = setting.removeprefix("deepspeed.").split("=")
    part: Any = getattr(recipe, table)
    is_deepspeed = "deepspeed" in option
    changed = {"deepspeed": part.deepspeed.model_copy(update={"stage": 1})} if is_deepspeed else {key: value}
    update = {"train": recipe.train, table: part.model_copy(update=changed)}
    update["train"] = update["train"].model_copy(update={"compile": True})
    conflicts = dict(find_conflicts(recipe.model_copy(update=update), {}))
    assert "leave it out" in conflicts["train", "compile"]


def test_compilation_is_no_part_of_a_step() -> None:
    seconds = [3.0]
    timer = StepTimer(torch.device("cpu"), by_events=False, apart=lambda: seconds[0])
    timer.start_step()
    started = time.perf_counter()
    while time.perf_counter() < started + 0.02:
        pass
    seconds[0] += 0.02
    assert 0 <= timer.end_step().read()[0] < 0.02
    timer.start_step()
    seconds[0] += 60
    assert timer.end_step().read()[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "backend"), RUNS)
def test_runs_are_the_same(
    kind: str, backend: str, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_layers, "BACKEND", backend)
    options = ("method.name=lora", "evaluate.at_start=false", "evaluate.every=100%", "train.budget.steps=3")
    recipes = [make(kind, *options, f"train.compile={each}", f"run.name=compile-{each}") for each in ("false", "true")]
    (expected, plain), (summary, compiled) = (train(recipe, registry) for recipe in recipes)
    assert expected["compiled"] is None
    record = summary["compiled"]
    assert (record["why_not"], record["layers"] > 0, record["seconds"] > 0) == ("", True, True)
    assert 0 < record["variants"] <= compiled_layers.MAX_VARIANTS
    assert summary["cost"]["gmacs"] == expected["cost"]["gmacs"]
    assert summary["cost"]["train_seconds"] < record["seconds"]
    for split in ("train", "dev", "test"):
        assert compiled[-1][split] == pytest.approx(plain[-1][split], rel=1e-4)


def train(recipe: Recipe, registry: Registry) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    path = run(recipe, registry)
    assert path is not None
    directory = RunDirectory(path)
    return directory.summary(), list(directory.evaluations())
