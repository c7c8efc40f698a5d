"""Decoders that read the tokens they predict are rejected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from peftkit.errors import ModelError
from peftkit.models.checkpoints.causality import check_causality
from peftkit.models.load_base_model import load_base
from peftkit.recipe.model_names import model_path
from tests.tiny_runs import SIZES, SPECIAL, Make

CONFIG: dict[str, Any] = {**SIZES, **SPECIAL, "max_position_embeddings": 256, "initializer_range": 0.1}
OPEN: dict[str, dict[str, Any]] = {
    "bert": {"is_decoder": False},
    "roberta": {"is_decoder": False},
    "electra": {"is_decoder": False},
    "camembert": {"is_decoder": False},
}
"""Architectures with a language modeling head that are causal only if their config says so."""


def saved(folder: Path, model_type: str, **config: Any) -> Path:
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(tf.AutoConfig.for_model(model_type, **CONFIG | config))
    model.save_pretrained(folder)
    for file in Path(model_path("pocket-decoder")).glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)
    return folder


@pytest.mark.parametrize("model_type", OPEN)
def test_decoders_that_read_later_tokens_are_rejected(model_type: str, make: Make, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", model_type, **OPEN[model_type])
    with pytest.raises(ModelError, match="predicts tokens from later ones, so that it would read its targets"):
        load_base(make("decoder", "task.name=colour_text", f"model.name={folder}"))


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "camembert"])
def test_the_same_architectures_are_loaded_as_causal_models(model_type: str, make: Make, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", model_type, is_decoder=True)
    base = load_base(make("decoder", "task.name=colour_text", f"model.name={folder}"))
    assert base.kind == "decoder"


@pytest.mark.parametrize("setting", ["is_decoder", "causal"])
def test_encoders_whose_config_makes_them_causal_are_rejected(
    setting: str, make: Make, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models["encoder"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, setting: True}))
    with pytest.raises(ModelError, match=rf"sets {setting} = true, with which its encoder reads earlier tokens only"):
        load_base(make("encoder", "task.name=colours", f"model.name={folder}"))


MASKED: dict[str, dict[str, Any]] = {
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 2},
    "flaubert": {"emb_dim": 32, "n_layers": 2, "n_heads": 2},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
}
"""Architectures that are named like decoders, but were trained to read both directions."""


@pytest.mark.parametrize("model_type", MASKED)
def test_masked_language_models_named_like_decoders_are_encoders(model_type: str, make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    config = tf.AutoConfig.for_model(model_type, **{**SPECIAL, **MASKED[model_type]})
    auto = tf.AutoModelForCausalLM if model_type == "xlnet" else tf.AutoModelForMaskedLM
    auto.from_config(config).save_pretrained(folder)
    for file in Path(model_path("pocket-decoder")).glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)
    base = load_base(make("encoder", "task.name=colours", f"model.name={folder}"))
    assert (base.kind, base.head.kept) == ("encoder", False)
    assert base.head.num_new > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_causal_models_are_loaded_in_every_precision(kind: str, dtype: str, make: Make) -> None:
    base = load_base(make(kind, "task.name=colour_text", f"model.dtype={dtype}"))
    assert not base.model.training


def test_encoder_decoders_whose_decoder_reads_later_tokens_are_rejected() -> None:
    torch.manual_seed(0)
    model = tf.BartForConditionalGeneration(
        tf.BartConfig(d_model=32, encoder_layers=1, decoder_layers=1, vocab_size=32, init_std=0.2)
    )
    check_causality("bart", "encoder-decoder", model)
    embedding, summed = model.model.decoder.embed_tokens, torch.nn.Embedding.forward
    model.model.decoder.embed_tokens.forward = lambda ids: (
        summed(embedding, ids) + summed(embedding, ids).mean(1, keepdim=True)
    )
    with pytest.raises(ModelError, match="as an encoder-decoder"):
        check_causality("bart", "encoder-decoder", model)
