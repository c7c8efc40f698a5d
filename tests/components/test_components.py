from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from pydantic import Field, ValidationError

from peftkit import ApplyContext, Example, Incompatibility, Meter, Method, Metric, RunSpec, StepStats, Task
from peftkit.components.options.option_docstrings import option_descriptions


class BitFit(Method):
    """Train the biases only."""

    name: Literal["bitfit"] = "bitfit"
    weight: float = Field(default=0.5, alias="lambda")
    """A weight."""

    incompatibilities = (Incompatibility(lambda s: s.model_type == "t5", "a T5 has no biases", "use another model"),)

    def apply(self, model: torch.nn.Module, context: ApplyContext) -> torch.nn.Module:
        for key, parameter in model.named_parameters():
            parameter.requires_grad = key.endswith("bias")
        return model


def run_spec(**config: str) -> RunSpec:
    return RunSpec(None, "generation", gradient_checkpointing=False, mixed_precision="no", config=config)


def trained(value: float) -> torch.nn.Module:
    model = BitFit().apply(torch.nn.Linear(2, 2), ApplyContext("decoder", "generation", seed=1, steps=None))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def test_the_public_module_imports_nothing_heavy() -> None:
    code = "import sys, peftkit; print(sorted({'torch', 'transformers', 'numpy', 'peft', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_options_are_documented_strict_and_frozen() -> None:
    assert option_descriptions(BitFit)["weight"] == "A weight."
    with pytest.raises(ValidationError, match="extra_forbidden"):
        BitFit.model_validate({"wieght": 1})
    with pytest.raises(ValidationError, match="finite"):
        BitFit.model_validate({"weight": float("nan")})
    with pytest.raises(ValidationError, match="literal_error"):
        BitFit.model_validate({"name": "lora"})
    with pytest.raises(ValidationError, match="frozen"):
        BitFit().weight = 1.0  # type: ignore[misc]
    assert BitFit.model_validate({"lambda": 1}) == BitFit.model_validate({"weight": 1})


def test_incompatible_with_gives_reason_and_remedy() -> None:
    assert BitFit().incompatible_with(run_spec(model_type="t5")) == ["a T5 has no biases; use another model"]
    assert BitFit().incompatible_with(run_spec()) == []
    assert run_spec().model_type == ""


def test_by_default_trained_parameters_are_saved_and_loaded(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    BitFit().save(trained(3.0), tmp_path)
    assert set(load_file(tmp_path / "trainable.safetensors")) == {"bias"}
    model = trained(1.0)
    BitFit().load(model, tmp_path)
    assert model.bias.tolist() == [3.0, 3.0]
    assert model.weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert model.bias.requires_grad
    model.weight.requires_grad = True
    with pytest.raises(ValueError, match="1 tensors do not match the model, such as weight"):
        BitFit().load(model, tmp_path)


def test_abstract_methods_raise_errors() -> None:
    class Bare(Task):
        name: Literal["bare"] = "bare"

    class Dumb(Metric):
        name: Literal["dumb"] = "dumb"

    class Idle(Meter):
        name: Literal["idle"] = "idle"

    class Empty(Method):
        name: Literal["empty"] = "empty"

    for call in (
        Bare().load,
        lambda: Bare().to_example({}),
        lambda: Dumb().compute([], [], []),
        Idle().totals,
        lambda: Empty().apply(torch.nn.Linear(1, 1), ApplyContext("decoder", "generation", 1, None)),
    ):
        with pytest.raises(NotImplementedError):
            call()
    assert Bare().labels == ()
    assert Dumb.higher_is_better
    assert set(Dumb.kinds) == {"classification", "multiple_choice", "generation"}


def test_optional_hooks_do_nothing() -> None:
    class Steps(Meter):
        name: Literal["steps"] = "steps"
        _count: int = 0

        def update(self, record: StepStats) -> None:
            self._count += record.samples

        def totals(self) -> dict[str, float]:
            return {"steps": float(self._count)}

    meter, other, model = Steps(), Steps(), trained(1.0)
    meter.start(model)
    meter.update(StepStats(samples=4, input_tokens=1, target_tokens=1, seconds=0.1))
    assert (meter.totals(), other.totals()) == ({"steps": 4.0}, {"steps": 0.0})
    BitFit().after_backward(model, 1)
    BitFit().after_step(model, 1)
    assert model.bias.tolist() == [1.0, 1.0]


def test_examples_are_frozen_and_have_empty_defaults() -> None:
    choices: Sequence[str] = ("a", "b")
    example = Example("q", "a", tuple(choices))
    assert (example.references, dict(example.extra)) == ((), {})
    with pytest.raises(AttributeError):
        example.target = "b"  # type: ignore[misc]
