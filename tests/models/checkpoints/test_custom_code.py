"""Classes that a checkpoint names are used, and not replaced by similar ones of transformers."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import ModelError
from peftkit.models.checkpoints.custom_code import check_architecture
from peftkit.models.load_base_model import load_base, load_objective
from tests.tiny_runs import Make

KINDS = ("encoder-decoder", "decoder", "encoder")
AUTO = {
    "encoder-decoder": "AutoModelForSeq2SeqLM",
    "decoder": "AutoModelForCausalLM",
    "encoder": "AutoModelForSequenceClassification",
}
UNKNOWN = {"encoder-decoder": "MemoryT5", "decoder": "MemoryForCausalLM", "encoder": "MemoryForMaskedLM"}


def changed(folder: Path, copy: Path, file: str, **values: Any) -> Path:
    shutil.copytree(folder, copy)
    settings = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps({**settings, **values}))
    return copy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trusted", ["false", "true"])
def test_an_unknown_class_is_refused_though_its_model_type_is_known(
    kind: str, trusted: str, make: Make, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = changed(models[kind], tmp_path / "model", "config.json", architectures=[UNKNOWN[kind]])
    with pytest.raises(ModelError, match=f"does not support the architecture '{UNKNOWN[kind]}'"):
        load_base(make(kind, f"model.name={folder}", f"model.trust_remote_code={trusted}"))


OTHERS = {
    "encoder-decoder": "BartForConditionalGeneration",
    "decoder": "GPT2LMHeadModel",
    "encoder": "RobertaForMaskedLM",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_of_another_model_type_is_refused(
    kind: str, make: Make, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = changed(models[kind], tmp_path / "model", "config.json", architectures=[OTHERS[kind]])
    with pytest.raises(
        ModelError, match=f"names the architecture '{OTHERS[kind]}' of the model_type .* correct one of"
    ):
        load_base(make(kind, f"model.name={folder}"))


@pytest.mark.parametrize("model_type", ["gpt-sw3", "gpt2"])
def test_types_that_share_a_class_are_accepted(model_type: str) -> None:
    described = {"architectures": ["GPT2LMHeadModel"], "model_type": model_type}
    check_architecture("x", described, "AutoModelForCausalLM", trusted=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["AutoConfig", "AutoModel", "the family's"])
def test_code_of_a_model_is_not_replaced(
    kind: str, key: str, make: Make, models: dict[str, Path], tmp_path: Path
) -> None:
    code = {key if key in ("AutoConfig", "AutoModel") else AUTO[kind]: "modeling_memory.ModelWithMemory"}
    folder = changed(models[kind], tmp_path / "model", "config.json", auto_map=code)
    with pytest.raises(
        ModelError, match=r"the model of .* is a ModelWithMemory in files .*model\.trust_remote_code = t"
    ):
        load_base(make(kind, f"model.name={folder}"))


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_x.SpacedTokenizer", None]}),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "tokenization_x.SpacedTokenizer"]}),
        ("tokenizer_config.json", {"AutoTokenizer": "tokenization_x.SpacedTokenizer"}),
        ("tokenizer_config.json", ["tokenization_x.SpacedTokenizer", None]),
        ("config.json", {"AutoTokenizer": ["tokenization_x.SpacedTokenizer", None]}),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_code_of_a_tokenizer_is_not_replaced(
    kind: str, file: str, code: Any, make: Make, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = changed(models[kind], tmp_path / "model", file, auto_map=code)
    with pytest.raises(
        ModelError, match=r"the tokenizer of .* is a SpacedTokenizer in files .*model\.trust_remote_code = true"
    ):
        load_objective(make(kind, f"model.name={folder}"))


def test_code_that_transformers_has_adopted_is_not_needed(
    make: Make, models: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = {"AutoConfig": "configuration_llama.LlamaConfig", "AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"}
    folder = changed(models["decoder"], tmp_path / "model", "config.json", auto_map=code)
    with caplog.at_level(logging.INFO):
        assert load_base(make("decoder", f"model.name={folder}")).kind == "decoder"
    assert "is the LlamaForCausalLM of transformers, not of the files that come with it" in caplog.text
