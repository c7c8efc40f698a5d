"""What a method would touch is told from a config alone, and is what a run then trains."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from peftkit import Situation
from peftkit.errors import InputError, ModelError
from peftkit.plugins import Registry, load_registry
from peftkit.runner.models import apply_method, load_base, parameters
from peftkit.runner.outline import BESIDE, outline
from tests.runner.conftest import Make

METHODS = sorted(load_registry().of("method"))
TYPES = {"encoder-decoder": "t5", "decoder": "llama", "encoder": "bert"}


@pytest.fixture(params=["encoder-decoder", "decoder", "encoder"])
def weightless(request: pytest.FixtureRequest, models: dict[str, Path], tmp_path: Path) -> tuple[str, Path]:
    """A model's kind, and a folder of its config and nothing else."""
    shutil.copy(models[request.param] / "config.json", tmp_path / "config.json")
    return request.param, tmp_path


@pytest.mark.parametrize("name", METHODS)
def test_it_is_what_a_run_trains(name: str, weightless: tuple[str, Path], make: Make, registry: Registry) -> None:
    kind, folder = weightless
    component: Any = registry.of("method")[name].component
    method = component.model_validate(dict(component.trial))
    situation = Situation(kind, "classification", False, "no", {"model_type": TYPES[kind], "tie_word_embeddings": True})  # type: ignore[arg-type]
    if method.refuses(situation):
        with pytest.raises(InputError, match="cannot be used so"):
            outline(method, str(folder))
        return
    told = outline(method, str(folder))
    assert told.kind == kind
    assert sum(t.parameters for t in told.touched) == told.trainable
    for touched in told.touched:
        assert touched.number > 0
    if component.trial:
        return
    recipe = make(kind, f"method.name={name}")
    base = load_base(recipe)
    own = {n for n, _ in base.model.named_modules()}
    trained, _ = parameters(apply_method(recipe, base, 6))
    head = sum(t.parameters for t in told.touched if t.modules in ("classifier", "score"))
    # The head is as wide as the task has labels, of which nothing is known here.
    assert told.trainable - head == trained - (32 * 3 + 3 if kind == "encoder" else 0)
    for touched in told.touched:
        assert touched.modules == BESIDE or any(_fits(touched.modules, n) for n in own)


def _fits(pattern: str, name: str) -> bool:
    parts, other = pattern.split("."), name.split(".")
    return len(parts) == len(other) and all(a in ("*", b) for a, b in zip(parts, other, strict=True))


def test_modules_that_differ_in_numbers_are_one_line(models: dict[str, Path]) -> None:
    lora: Any = load_registry().of("method")["lora"].component
    found = {t.modules: t.number for t in outline(lora(), str(models["decoder"])).touched}
    assert found == {"model.layers.*.self_attn.q_proj": 2, "model.layers.*.self_attn.v_proj": 2}


def test_what_cannot_be_applied_is_told_with_what_there_is(models: dict[str, Path], tmp_path: Path) -> None:
    lora: Any = load_registry().of("method")["lora"].component
    with pytest.raises(InputError, match=r"no module is called 'query'; there are .*k_proj.*q_proj"):
        outline(lora(target_modules=("query",)), str(models["decoder"]))
    with pytest.raises(ModelError, match="cannot be loaded"):
        outline(lora(), str(tmp_path))
