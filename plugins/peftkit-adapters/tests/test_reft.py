"""Methods that change representations (ReFT)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from peftkit.plugins import load_registry
from peftkit.testing import apply_method, batch, context, trained_tensors
from peftkit.testing.tiny_models import run_spec, tiny_model
from peftkit_adapters import ADAPTER


def method(name: str, **changes: Any) -> Any:
    """A method with options that suit the tiny models."""
    component: Any = load_registry().all("method")[name].component
    return component.model_validate({**component.tiny_options, **changes})


def test_weight_decay_leaves_the_axes_of_loreft_orthogonal() -> None:
    component, rows = method("loreft", r=4), batch("t5")
    model = apply_method(component, "t5")
    optimizer = torch.optim.AdamW(trained_tensors(model).values(), lr=0.01, weight_decay=0.1)
    axes = model.get_submodule(f"encoder.block.0.reft_layer.refts.{ADAPTER}.units.0.projection")
    for step in (1, 2):
        model(**rows).loss.backward()
        optimizer.step()
        if step == 1:
            assert axes.weight.abs().sum() == 0  # without the correction
        component.after_step(model, step)
        optimizer.zero_grad()
    torch.testing.assert_close(axes.weight @ axes.weight.T, torch.eye(4))


def test_only_existing_positions_are_trained() -> None:
    assert not any(".units.1." in name for name in trained_tensors(apply_method(method("loreft"), "bert")))
    both = trained_tensors(apply_method(method("loreft", suffix_positions=2), "bert"))
    assert any(".units.0." in name for name in both)
    assert any(".units.1." in name for name in both)


@pytest.mark.parametrize("name", ["loreft", "noreft", "direft"])
@pytest.mark.parametrize("architecture", ["t5", "bert", "gpt2"])
def test_reft_computes_in_the_models_precision(name: str, architecture: str) -> None:
    model = method(name).apply(tiny_model(architecture), context(architecture)).to(torch.float64)
    output = model(**batch(architecture))
    assert output.logits.dtype == torch.float64
    output.loss.backward()


def test_loreft_takes_targets_shorter_than_its_positions() -> None:
    rows = batch("t5")
    model = apply_method(method("loreft"), "t5")
    model(**{**rows, "labels": rows["labels"][:, :2].contiguous()}).loss.backward()
    assert all(p.grad is not None for p in trained_tensors(model).values())


CASES: list[dict[str, Any]] = [
    {"prefix_positions": 6},
    {"prefix_positions": 0, "suffix_positions": 6},
    {"prefix_positions": 3, "suffix_positions": 6},
    {"prefix_positions": 6, "suffix_positions": 6, "tied_weights": True},
]


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("changes", CASES)
def test_texts_shorter_than_the_positions_do_not_depend_on_their_batch(changes: dict[str, Any], left: bool) -> None:
    """The library fails on them with an index error, or takes states of other positions."""
    if left and "suffix_positions" in changes:
        return  # rejected for decoders
    model = apply_method(method("loreft", **changes), "gpt2" if left else "bert").eval()
    for name, parameter in trained_tensors(model).items():
        if "learned_source" in name:
            torch.nn.init.normal_(parameter)
    text, outputs = [5, 6, 7, 8], []
    for padding in ([], [0], [0] * 9):
        ids = torch.tensor([padding + text if left else text + padding, [9] * (4 + len(padding))])
        mask = torch.ones_like(ids)
        mask[0] = torch.tensor([0] * len(padding) + [1] * 4 if left else [1] * 4 + [0] * len(padding))
        places = {"position_ids": (mask.cumsum(-1) - 1).clamp(0)} if left else {}
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask, **places).logits[0]
        outputs.append(logits[len(padding) :] if left else logits)
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0])


def test_the_first_and_last_states_are_changed_as_by_the_library() -> None:
    from adapters.methods.reft import ReftModule

    rows = batch("bert")
    for changes in ({"prefix_positions": 2, "suffix_positions": 1}, {"suffix_positions": 2, "tied_weights": True}):
        model = apply_method(method("loreft", **changes), "bert").eval()
        logits = model(**rows).logits
        for module in model.modules():
            if isinstance(module, ReftModule):
                del module.forward
        torch.testing.assert_close(model(**rows).logits, logits)


@pytest.mark.parametrize("option", ["prefix_positions", "suffix_positions"])
def test_more_positions_than_texts_have_are_rejected(option: str) -> None:
    spec = dataclasses.replace(run_spec("bert"), max_text_length=64)
    fits, exceeds = (str(method("loreft", **{option: number}).incompatible_with(spec)) for number in (64, 65))
    assert "tokens" not in fits
    assert f"{option} = 65, but texts have at most 64 tokens" in exceeds
