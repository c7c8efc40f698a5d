"""Models that need other arguments than token ids and their mask, or read padding, are refused before training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from peftkit.components import ModelKind
from peftkit.errors import ModelError
from peftkit.models import FAMILIES
from peftkit.models.checkpoints.forward_check import check_forward
from peftkit.models.load_base_model import load_base
from peftkit.recipe.model_names import model_path
from tests.tiny_runs import SIZES, SPECIAL, Make, tiny

KINDS: tuple[ModelKind, ...] = ("encoder-decoder", "decoder", "encoder")
XMOD = {**SIZES, **SPECIAL, "max_position_embeddings": 256, "languages": ["en_XX"]}
CPMANT = {
    **SPECIAL,
    **{"hidden_size": 32, "num_attention_heads": 2, "dim_head": 16, "dim_ff": 64, "num_hidden_layers": 2},
    "prompt_length": 4,
}
AUTO = {"encoder": tf.AutoModelForMaskedLM, "decoder": tf.AutoModelForCausalLM}


def saved(folder: Path, kind: str, model_type: str, **config: Any) -> Path:
    torch.manual_seed(0)
    AUTO[kind].from_config(tf.AutoConfig.for_model(model_type, **config)).save_pretrained(folder)
    for file in Path(model_path(f"pocket-{kind}")).glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)
    return folder


@pytest.mark.parametrize(
    ("kind", "task", "model_type", "config", "words"),
    [
        (
            "encoder",
            "colours",
            "xmod",
            XMOD,
            "as an encoder: XmodForSequenceClassification fails on token ids and their",
        ),
        ("encoder", "colours", "xmod", XMOD, "Input language unknown"),
        (
            "decoder",
            "colour_text",
            "xmod",
            {**XMOD, "is_decoder": True},
            "as a decoder: XmodForCausalLM fails on token",
        ),
        ("decoder", "colour_text", "cpmant", CPMANT, "CpmAntForCausalLM reads padding despite the mask"),
    ],
)
def test_models_that_need_something_else_are_refused(
    kind: str, task: str, model_type: str, config: Any, words: str, make: Make, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "model", kind, model_type, **config)
    with pytest.raises(ModelError, match=words):
        load_base(make(kind, f"task.name={task}", f"model.name={folder}"))


def test_a_model_that_knows_its_language_is_loaded(make: Make, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "encoder", "xmod", **XMOD, default_language="en_XX")
    assert load_base(make("encoder", "task.name=colours", f"model.name={folder}")).kind == "encoder"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [TypeError, ValueError, KeyError, IndexError, AttributeError, AssertionError])
def test_whatever_a_models_code_raises_is_explained(
    kind: ModelKind, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, family = built(kind)
    check_forward("mine", kind, model, family)

    def forward(*args: Any, **inputs: Any) -> Any:
        raise error("needs a langid")

    monkeypatch.setattr(type(model), "forward", forward)
    with pytest.raises(ModelError, match=rf"the model 'mine' cannot be trained as an? {kind}: .*needs a langid"):
        check_forward("mine", kind, model, family)


def test_a_model_without_generation_is_refused_where_text_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    model, family = built("encoder-decoder")
    check_forward("mine", "encoder-decoder", model, family, generates=True)
    monkeypatch.setattr(type(model), "generate", None)
    check_forward("mine", "encoder-decoder", model, family)
    with pytest.raises(
        ModelError, match=r"'mine' cannot generate text: T5ForConditionalGeneration has no generate\(\)"
    ):
        check_forward("mine", "encoder-decoder", model, family, generates=True)


def built(kind: ModelKind) -> tuple[Any, Any]:
    model, name = tiny(kind)
    if kind == "encoder":
        model = tf.BertForSequenceClassification(model.config)
    tokenizer = tf.AutoTokenizer.from_pretrained(model_path(name))
    return model, FAMILIES[kind](tokenizer, model.config, 64, 16)
