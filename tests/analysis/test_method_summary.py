"""The modules that a method trains, from a config without weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from peftkit import RunSpec
from peftkit.analysis.method_summary import OUTSIDE_MODULES, summarize_method
from peftkit.errors import InputError, ModelError
from peftkit.models.load_base_model import apply_method, load_base
from peftkit.models.parameter_counts import count_parameters
from peftkit.plugins import Registry, load_registry
from tests.tiny_runs import Make

METHODS = sorted(load_registry().all("method", presets=False))
TYPES = {"encoder-decoder": "t5", "decoder": "llama", "encoder": "bert"}


@pytest.fixture(params=["encoder-decoder", "decoder", "encoder"])
def weightless(request: pytest.FixtureRequest, models: dict[str, Path], tmp_path: Path) -> tuple[str, Path]:
    """A model's kind, and a folder that holds only its config."""
    shutil.copy(models[request.param] / "config.json", tmp_path / "config.json")
    return request.param, tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_summary_equals_the_parameters_that_a_run_trains(
    name: str, weightless: tuple[str, Path], make: Make, registry: Registry
) -> None:
    kind, folder = weightless
    component: Any = registry.all("method")[name].component
    method = component.model_validate(dict(component.tiny_options))
    spec = RunSpec(kind, "classification", False, "no", {"model_type": TYPES[kind], "tie_word_embeddings": True})  # type: ignore[arg-type]
    if method.incompatible_with(spec):
        with pytest.raises(InputError, match="is incompatible with"):
            summarize_method(method, str(folder))
        return
    summary = summarize_method(method, str(folder))
    assert summary.kind == kind
    assert sum(t.parameters for t in summary.groups) == summary.trainable
    for group in summary.groups:
        assert group.number > 0
    if component.tiny_options:
        return
    recipe = make(kind, f"method.name={name}")
    base = load_base(recipe)
    modules = {n for n, _ in base.model.named_modules()}
    trained, _ = count_parameters(apply_method(recipe, base, 6))
    head = sum(t.parameters for t in summary.groups if t.modules in ("classifier", "score"))
    # The size of the head depends on the task's labels, which are unknown here.
    assert summary.trainable - head == trained - (32 * 3 + 3 if kind == "encoder" else 0)
    for group in summary.groups:
        assert group.modules == OUTSIDE_MODULES or any(_fits(group.modules, n) for n in modules)


def _fits(pattern: str, name: str) -> bool:
    parts, other = pattern.split("."), name.split(".")
    return len(parts) == len(other) and all(a in ("*", b) for a, b in zip(parts, other, strict=True))


def test_modules_that_differ_in_layer_numbers_are_one_group(models: dict[str, Path]) -> None:
    lora: Any = load_registry().all("method")["lora"].component
    numbers = {t.modules: t.number for t in summarize_method(lora(), str(models["decoder"])).groups}
    assert numbers == {"model.layers.*.self_attn.q_proj": 2, "model.layers.*.self_attn.v_proj": 2}


def test_a_missing_module_is_an_error_that_lists_the_modules(models: dict[str, Path], tmp_path: Path) -> None:
    lora: Any = load_registry().all("method")["lora"].component
    with pytest.raises(InputError, match=r"no module is called 'query'; available: .*k_proj.*q_proj"):
        summarize_method(lora(target_modules=("query",)), str(models["decoder"]))
    with pytest.raises(ModelError, match="cannot be loaded"):
        summarize_method(lora(), str(tmp_path))
