from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from pydantic import ValidationError
from torch import nn

from peftkit.errors import InputError
from peftkit.methods.prefix_tuning import PrefixTuning, decoder_shape
from peftkit.plugins import load_registry
from peftkit.testing import (
    apply_method,
    architecture_kind,
    batch,
    check_generation_matches_scores,
    check_method,
    context,
    logits,
    run_spec,
    train_on_batch,
    trained_tensors,
)
from peftkit.testing.tiny_models import save_tiny_model, tiny_model

SHORT = PrefixTuning(num_virtual_tokens=5)
UNLIKE = {
    "heads narrower than the model, as flan-t5-small": ("t5", {"num_heads": 3}),
    "heads wider than the model, as t5-3b": ("t5", {"d_kv": 16}),
    "a decoder shorter than the encoder": ("t5", {"num_decoder_layers": 1}),
    "a decoder longer than the encoder": ("t5", {"num_decoder_layers": 3}),
    "a short decoder with other heads, as distilbart": ("bart", {"decoder_layers": 1, "decoder_attention_heads": 2}),
}


def reopen(model: nn.Module, folder: Path) -> nn.Module:
    return PeftModel.from_pretrained(model, folder)


def strong(model: nn.Module) -> nn.Module:
    """Scales the prefix so that a missing one changes the output."""
    with torch.no_grad():
        for parameter in model.prompt_encoder.parameters():
            parameter.mul_(3)
    return model


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("architecture", ["t5", "mt5", "bart", "llama", "qwen2", "gpt2"])
def test_generation_and_scoring_use_the_same_prefix(architecture: str, projected: bool) -> None:
    method = SHORT.model_copy(update={"prefix_projection": projected})
    check_generation_matches_scores(strong(apply_method(method, architecture)), architecture)


def test_a_copied_model_generates_with_its_own_prefix() -> None:
    model = strong(apply_method(SHORT, "t5"))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.prompt_encoder["default"].embedding.weight.neg_()
    check_generation_matches_scores(other, "t5")
    assert not torch.allclose(logits(other, "t5"), logits(model, "t5"), atol=1e-3)


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_beam_scores_use_the_prefix(architecture: str) -> None:
    model = strong(apply_method(SHORT, architecture)).eval()
    row = batch(architecture)
    with torch.no_grad():
        generated = model.generate(
            input_ids=row["input_ids"],
            attention_mask=row["attention_mask"],
            max_new_tokens=4,
            min_new_tokens=4,
            num_beams=3,
            length_penalty=0.0,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            eos_token_id=63,
        )
        text = generated.sequences
        scored = model(input_ids=row["input_ids"], attention_mask=row["attention_mask"], decoder_input_ids=text).logits
    likely = scored.log_softmax(-1)[:, :-1].gather(-1, text[:, 1:, None])[..., 0].sum(-1)
    torch.testing.assert_close(generated.sequences_scores, likely, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("architecture", "changes"), UNLIKE.values(), ids=UNLIKE)
def test_decoders_that_differ_from_the_encoder(architecture: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = apply_method(SHORT, architecture, **changes)
    losses, silent = train_on_batch(model, architecture)
    assert losses[-1] < losses[0]
    assert silent == []
    check_generation_matches_scores(model, architecture)
    SHORT.save(model, tmp_path)
    opened = reopen(tiny_model(architecture, **changes), tmp_path)
    torch.testing.assert_close(logits(opened, architecture), logits(model, architecture), atol=1e-6, rtol=0)


def test_decoder_shape_leaves_missing_values_to_peft() -> None:
    assert decoder_shape({"num_decoder_layers": None, "num_heads": 4}) == {"num_attention_heads": 4}


def test_the_prefix_is_in_the_decoders_self_attention_only() -> None:
    model = strong(apply_method(SHORT, "t5"))
    seen = {}
    for name, module in model.named_modules():
        if name.endswith(("SelfAttention", "EncDecAttention")):
            module.register_forward_hook(
                lambda _, args, kwargs, out, name=name: seen.update({name: kwargs.get("past_key_values")}),
                with_kwargs=True,
            )
    prefixed_logits = logits(model, "t5")
    prefixed = {name for name, cache in seen.items() if cache is not None and cache.get_seq_length() > 5}
    assert prefixed == {n for n in seen if ".decoder." in n}
    cache = seen["base_model.decoder.block.0.layer.0.SelfAttention"]
    assert cache.self_attention_cache.get_seq_length() == 5 + 5
    assert cache.cross_attention_cache.get_seq_length() == 8
    assert not torch.allclose(prefixed_logits, logits(tiny_model("t5"), "t5"), atol=1e-2)


def test_a_projection_is_kept_for_resuming_but_not_for_inference(tmp_path: Path) -> None:
    method = PrefixTuning(num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=7)
    model = apply_method(method, "llama")
    assert "prompt_encoder.default.transform.0.weight" in trained_tensors(model)
    assert trained_tensors(model)["prompt_encoder.default.transform.0.weight"].shape[0] == 7
    method.save(model, tmp_path)
    assert (tmp_path / "trainable.safetensors").exists()
    opened = reopen(tiny_model("llama"), tmp_path)
    assert not hasattr(opened.prompt_encoder["default"], "transform")


def test_a_prefix_may_start_at_zero(tmp_path: Path) -> None:
    method = PrefixTuning(num_virtual_tokens=5, init_weights="zero")
    assert not any(parameter.any() for parameter in trained_tensors(apply_method(method, "llama")).values())
    check_method(method, "llama", tmp_path / "saved", reopen)


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
def test_gradient_checkpointing_is_incompatible(architecture: str) -> None:
    (reason,) = SHORT.incompatible_with(run_spec(architecture, gradient_checkpointing=True))
    assert "train.gradient_checkpointing = false" in reason
    model = tiny_model(architecture)
    model.gradient_checkpointing_enable()
    with pytest.raises(InputError, match="does not work with gradient checkpointing"):
        SHORT.apply(model, context(architecture))


@pytest.mark.parametrize(
    "architecture", ["bert", "ernie", "roberta", "xlm-roberta", "electra", "deberta-v2", "distilbert"]
)
def test_encoders_are_incompatible_exactly_if_they_fail(architecture: str) -> None:
    assert architecture_kind(architecture) == "encoder"
    reasons = SHORT.incompatible_with(run_spec(architecture))
    try:
        model = apply_method(SHORT, architecture)
        train_on_batch(model, architecture, steps=2)
    except (InputError, TypeError, ValueError):
        assert len(reasons) == 1
        assert "use a BERT model" in reasons[0]
    else:
        assert reasons == []
        assert not torch.allclose(
            logits(model, architecture), logits(tiny_model(architecture), architecture), atol=1e-3
        )
    newer = int(transformers.__version__.split(".")[0]) >= 5
    assert bool(reasons) == (architecture in {"deberta-v2", "distilbert"} or (architecture[-1] == "a" and not newer))


# ---- initial texts

TEXT = "a large bird of prey with a hooked beak, seen from below in the morning"


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Loads a tiny decoder of an architecture with its tokenizer."""
    folders: dict[str, Path] = {}

    def load(architecture: str) -> Any:
        if architecture not in folders:
            folders[architecture] = save_tiny_model(architecture, tmp_path_factory.mktemp(architecture))
        return transformers.AutoModelForCausalLM.from_pretrained(folders[architecture]).eval()

    return load


@pytest.mark.parametrize("name", ["prefix_tuning", "cartridge"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_prefix_of_a_text_is_continued_like_the_text(name: str, architecture: str, saved_model: Any) -> None:
    model = saved_model(architecture)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model.config._name_or_path)
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    method: Any = load_registry("").all("method")[name].component
    prefix, text = ids[:, :6], ids[:, 6:]
    with torch.no_grad():
        expected = model(input_ids=torch.cat([prefix, text], 1)).logits[:, 6:]
        wrapped = method(num_virtual_tokens=6, init_kv_cache_prefix=TEXT).apply(model, context(architecture)).eval()
        actual = wrapped(input_ids=text, attention_mask=torch.ones_like(text)).logits
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert trained_tensors(wrapped)


def test_a_text_that_is_shorter_than_the_prefix_is_rejected(saved_model: Any) -> None:
    method = PrefixTuning(num_virtual_tokens=20, init_kv_cache_prefix="short")
    with pytest.raises(InputError, match=r"init_kv_cache_prefix: has \d+ tokens, fewer than num_virtual_tokens = 20"):
        method.apply(saved_model("llama"), context("llama"))


def test_initial_texts_are_for_prefixes_of_decoders_without_a_network() -> None:
    for options in ({"prefix_projection": True}, {"init_weights": "zero"}):
        with pytest.raises(ValidationError, match="init_kv_cache_prefix does not work with"):
            PrefixTuning(init_kv_cache_prefix=TEXT, **options)  # type: ignore[arg-type]
    for architecture in ("t5", "bert"):
        assert "needs a decoder" in PrefixTuning(init_kv_cache_prefix=TEXT).incompatible_with(run_spec(architecture))[0]
    assert PrefixTuning(init_kv_cache_prefix=TEXT).incompatible_with(run_spec("llama")) == []


def test_a_prompt_of_a_text_starts_from_its_embeddings(saved_model: Any) -> None:
    model = saved_model("llama")
    ids = transformers.AutoTokenizer.from_pretrained(model.config._name_or_path)(TEXT)["input_ids"][:5]
    expected = model.get_input_embeddings().weight[ids].detach().clone()
    method: Any = load_registry("").all("method")["prompt_tuning"].component
    prompt = method(num_virtual_tokens=5, prompt_tuning_init="TEXT", prompt_tuning_init_text=TEXT)
    [parameter] = trained_tensors(prompt.apply(model, context("llama"))).values()
    assert torch.equal(parameter, expected)
