"""The text model of a multimodal checkpoint is loaded, or rejected if transformers cannot load it alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer

from peftkit.components import ModelKind
from peftkit.errors import ModelError
from peftkit.models.load_base_model import apply_method, init_random_base, load_base
from peftkit.recipe.model_names import model_config, model_kind, model_path, text_config
from tests.tiny_runs import Make

TEXT = {
    **{"vocab_size": 8192, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3, "hidden_size": 32},
    **{"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"head_dim": 8, "max_position_embeddings": 256},
}
VISION = {
    **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"image_size": 16, "patch_size": 8},
}
GEMMA = {"mm_tokens_per_image": 4, "image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7}
LOADED: dict[str, dict[str, Any]] = {
    "gemma3": {"text_config": TEXT | {"model_type": "gemma3_text"}, "vision_config": VISION, **GEMMA},
    "llava": {"text_config": TEXT | {"model_type": "llama"}, "vision_config": VISION, "image_token_index": 5},
    "mistral3": {
        **{"text_config": TEXT | {"model_type": "mistral"}, "image_token_index": 5},
        "vision_config": VISION | {"model_type": "pixtral"},
    },
    "idefics3": {"text_config": TEXT | {"model_type": "llama"}, "vision_config": VISION},
    "smolvlm": {"text_config": TEXT | {"model_type": "llama"}, "vision_config": VISION},
    "llava_next": {"text_config": TEXT | {"model_type": "llama"}, "vision_config": VISION, "image_token_index": 5},
}
REJECTED: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        "text_config": TEXT | {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
        "vision_config": {"embed_dim": 16, "depth": 1, "num_heads": 2, "hidden_size": 32, "patch_size": 8},
    },
}


def saved(kind: str, options: dict[str, Any], folder: Path) -> Any:
    """Saves a tiny multimodal model and a tokenizer; returns the model."""
    config = AutoConfig.for_model(kind, **options)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    model.save_pretrained(folder)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"architectures": [type(model).__name__]}))
    AutoTokenizer.from_pretrained(model_path("pocket-decoder")).save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", LOADED)
def test_the_text_model_is_loaded_alone(kind: str, make: Make, tmp_path: Path) -> None:
    folder = tmp_path / kind
    whole = saved(kind, LOADED[kind], folder)
    recipe = make("decoder", f"model.name={folder.as_posix()}", "task.name=colour_text", "method.name=lora")
    base = load_base(recipe)
    assert base.kind == "decoder"
    assert base.loading_report.missing == ()
    assert base.loading_report.unexpected, "weights of the vision tower are unexpected"
    assert not [name for name, _ in base.model.named_parameters() if "vision" in name]
    ids = torch.arange(10, 22)[None]
    with torch.no_grad():
        torch.testing.assert_close(base.model.eval()(input_ids=ids).logits, whole(input_ids=ids).logits)
    shapes = {name: p.shape for name, p in base.model.named_parameters()}
    assert {name: p.shape for name, p in init_random_base(recipe, "meta").model.named_parameters()} == shapes
    apply_method(recipe, base, 2)


def test_text_weights_of_paligemma_are_loaded(make: Make, tmp_path: Path) -> None:
    """Compares weights: in evaluation, PaliGemma's attention is not causal, so logits differ; its text model's is."""
    folder = tmp_path / "paligemma"
    sizes = {"hidden_size": 32, "projection_dim": 32, "vocab_size": 8192, "image_token_index": 5}
    vision = VISION | {"model_type": "siglip_vision_model"}
    whole = saved(
        "paligemma", {"text_config": TEXT | {"model_type": "gemma"}, "vision_config": vision, **sizes}, folder
    )
    base = load_base(make("decoder", f"model.name={folder.as_posix()}", "task.name=colour_text", "method.name=lora"))
    texts = {name.split("language_model.")[-1].removeprefix("model."): p for name, p in whole.named_parameters()}
    for name, parameter in base.model.named_parameters():
        assert parameter.equal(texts[name.removeprefix("model.")])


def test_files_outside_the_index_are_ignored(make: Make, tmp_path: Path) -> None:
    """Mistral's checkpoints have a second copy of their weights in a file with other names."""
    folder = tmp_path / "model"
    saved("llava", LOADED["llava"], folder)
    part = folder / "model-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(part)
    tensors = load_file(part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(tensors, part.name)}))
    recipe = make("decoder", f"model.name={folder.as_posix()}", "task.name=colour_text", "method.name=lora")
    first = load_base(recipe)
    others = {key: torch.zeros_like(value) for key, value in tensors.items()} | {"other.weight": torch.ones(1)}
    save_file(others, folder / "zzz.safetensors", metadata={"format": "pt"})
    second = load_base(recipe)
    assert second.loading_report == first.loading_report
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert one.equal(other)


@pytest.mark.parametrize("kind", REJECTED)
def test_multimodal_models_without_a_text_model_are_rejected(kind: str, make: Make, tmp_path: Path) -> None:
    folder = tmp_path / kind
    architecture = type(saved(kind, REJECTED[kind], folder)).__name__
    with pytest.raises(ModelError, match=f"it is a {re.escape(architecture)}, a multimodal model"):
        load_base(make("decoder", f"model.name={folder.as_posix()}", "task.name=colour_text"))


@pytest.mark.parametrize(
    ("config", "kind", "model_type"),
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "decoder", "llama"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "encoder", "bert"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "encoder-decoder", None),
        (
            {
                "architectures": ["Gemma3ForConditionalGeneration"],
                "text_config": {"model_type": "gemma3_text"},
                "vision_config": {"hidden_size": 8},
            },
            "decoder",
            "gemma3_text",
        ),
        ({"architectures": ["CLIPModel"], "text_config": {}, "vision_config": {"a": 1}}, "encoder", None),
        ({"text_config": {"model_type": "llama"}}, None, None),
    ],
)
def test_the_model_kind_is_that_of_the_text_model(config: Any, kind: ModelKind | None, model_type: str | None) -> None:
    assert model_kind(config) == kind
    assert text_config(config).get("model_type") == model_type


def test_the_recipe_check_uses_the_text_models_config(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "gemma3"
    saved("gemma3", LOADED["gemma3"], folder)
    assert text_config(model_config(folder.as_posix()))["model_type"] == "gemma3_text"
    assert make("decoder", f"model.name={folder.as_posix()}", "task.name=colour_text").method.name == "full"
