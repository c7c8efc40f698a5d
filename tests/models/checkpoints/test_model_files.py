"""Checkpoints without a vocabulary or with pickled weights are rejected, and the remedies work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from peftkit.errors import ModelError
from peftkit.models.load_base_model import load_base
from peftkit.testing.tiny_models import save_tiny_model
from tests.tiny_runs import Make


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5", "xlm-roberta"])
@pytest.mark.parametrize("removed", ["all files", "the vocabulary"])
def test_a_checkpoint_without_vocabulary_is_rejected(
    architecture: str, removed: str, make: Make, tmp_path: Path
) -> None:
    """transformers 5 creates a tokenizer to which every word is unknown."""
    folder = save_tiny_model(architecture, tmp_path / "model")
    for file in [*folder.glob("tokenizer*"), *folder.glob("special_tokens*")]:
        file.unlink()
    if removed == "the vocabulary":
        (folder / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    with pytest.raises(ModelError, match=r"cannot be loaded: .*tokenizer"):
        load_base(make("decoder", f"model.name={folder.as_posix()}"))


@pytest.mark.parametrize("architecture", ["gpt2", "t5", "bert"])
def test_pickled_weights_load_once_they_are_converted_as_the_error_says(
    architecture: str, make: Make, tmp_path: Path
) -> None:
    folder = save_tiny_model(architecture, tmp_path / "model")
    intact = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(intact, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled") as error:
        load_base(make("decoder", f"model.name={folder.as_posix()}"))
    call = re.search(r"convert them once: (\w+)\.from_pretrained\(.*\)\.save_pretrained", str(error.value))
    assert call is not None
    getattr(transformers, call[1]).from_pretrained(folder, use_safetensors=False).save_pretrained(folder)
    assert load_file(folder / "model.safetensors").keys() == intact.keys()
    load_base(make("decoder", f"model.name={folder.as_posix()}"))
