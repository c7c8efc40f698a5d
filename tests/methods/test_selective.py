from __future__ import annotations

import pytest

from peftkit.errors import InputError
from peftkit.methods.selective import BitFit, HeadOnly, LayerNorm, TopLayers
from peftkit.testing import apply_method, context, run_spec, tiny_model, trained_tensors
from peftkit.testing.tiny_models import head_parameters


@pytest.mark.parametrize("architecture", ["bert", "bart", "gpt2", "qwen2"])
def test_bitfit_trains_all_biases_and_nothing_else(architecture: str) -> None:
    names = {name for name, _ in tiny_model(architecture).named_parameters() if name.endswith("bias")}
    assert names
    assert set(trained_tensors(apply_method(BitFit(), architecture))) == names | set(head_parameters(architecture))


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_bitfit_rejects_a_model_without_biases(architecture: str) -> None:
    assert "no biases" in BitFit().incompatible_with(run_spec(architecture))[0]
    with pytest.raises(InputError, match="has no biases; use another method"):
        apply_method(BitFit(), architecture)


@pytest.mark.parametrize(("architecture", "number"), [("t5", 10 + 2), ("llama", 5), ("gpt2", 10), ("bart", 24)])
def test_layer_norm_trains_the_normalisation_layers(architecture: str, number: int) -> None:
    names = trained_tensors(apply_method(LayerNorm(), architecture))
    assert len(names) == number
    assert all("norm" in name or ".ln_" in name for name in names)


def test_head_only_trains_the_head() -> None:
    layers = ("bert.pooler.dense", "classifier")  # a masked language model has no pooler
    assert set(trained_tensors(apply_method(HeadOnly(), "bert"))) == {
        f"{layer}.{n}" for layer in layers for n in ("weight", "bias")
    }
    assert set(trained_tensors(apply_method(HeadOnly(), "llama"))) == {"lm_head.weight"}


def test_head_only_rejects_a_tied_output_layer() -> None:
    assert "input embedding" in HeadOnly().incompatible_with(run_spec("t5"))[0]
    with pytest.raises(InputError, match="which would be trained too"):
        apply_method(HeadOnly(), "gpt2")


@pytest.mark.parametrize(
    ("architecture", "prefix"),
    [
        ("t5", "decoder.block.1."),
        ("bart", "model.decoder.layers.1."),
        ("llama", "model.layers.1."),
        ("gpt2", "transformer.h.1."),
        ("roberta", "roberta.encoder.layer.1."),
    ],
)
def test_top_layers_trains_the_last_layers(architecture: str, prefix: str) -> None:
    names = {
        name for name in trained_tensors(apply_method(TopLayers(number=1), architecture)) if "classifier" not in name
    }
    assert names == {name for name, _ in tiny_model(architecture).named_parameters() if name.startswith(prefix)}


def test_top_layers_rejects_more_layers_than_the_model_has() -> None:
    with pytest.raises(InputError, match=r"method\.number = 3, but LlamaForCausalLM has only 2 layers"):
        TopLayers(number=3).apply(tiny_model("llama"), context("llama"))
