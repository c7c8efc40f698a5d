"""Files saved by transformers 4 and 5 are read correctly by both."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from peftkit.errors import ModelError
from peftkit.models.checkpoints import transformers_versions
from peftkit.models.checkpoints.transformers_versions import (
    BACKEND,
    load_tokenizer,
    restore_rope_fields,
    write_compatible_files,
)
from peftkit.recipe.model_names import model_path

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}
LAYERS = {
    "full_attention": {"rope_theta": 160000.0, "rope_type": "default"},
    "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "plain": (
        {"rope_theta": 10000.0, "rope_scaling": None},
        {"rope_theta": 500000.0, "rope_type": "default"},
        {"rope_theta": 500000.0, "rope_scaling": None},
    ),
    "scaled": (
        {"rope_theta": 10000.0, "rope_scaling": None},
        {"rope_theta": 500000.0, **LLAMA3},
        {"rope_theta": 500000.0, "rope_scaling": LLAMA3},
    ),
    "partial": (
        {"rotary_pct": 0.25, "rotary_emb_base": 10000, "rope_scaling": None},
        {"rope_theta": 20000.0, "rope_type": "default", "partial_rotary_factor": 0.5},
        {"rotary_pct": 0.5, "rotary_emb_base": 20000.0, "rope_scaling": None},
    ),
    "by layer, Gemma": (
        {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": None},
        LAYERS,
        {"rope_theta": 160000.0, "rope_local_base_freq": 10000.0, "rope_scaling": None},
    ),
    "by layer, ModernBERT": (
        {"global_rope_theta": 1.0, "local_rope_theta": 1.0},
        LAYERS,
        {"global_rope_theta": 160000.0, "local_rope_theta": 10000.0},
    ),
}


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaves as with transformers 4."""
    monkeypatch.setattr(transformers_versions, "NEWER", False)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("older")
def test_transformers_4_restores_the_rope_fields_saved_by_5(case: str) -> None:
    before, rope, after = CASES[case]
    config = SimpleNamespace(model_type="some", rope_parameters=rope, **before)
    restore_rope_fields("x", config)
    assert {key: getattr(config, key) for key in after} == after


@pytest.mark.usefixtures("older")
def test_rope_types_that_transformers_4_lacks_are_rejected() -> None:
    config = SimpleNamespace(model_type="some", rope_parameters={"rope_theta": 3.0, "rope_type": "default"})
    with pytest.raises(ModelError, match=r"saved by transformers 5.*install transformers 5"):
        restore_rope_fields("x", config)


@pytest.mark.parametrize("case", ["plain", "scaled", "by layer, Gemma"])
def test_saved_files_have_the_fields_of_both_versions(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rope, after = CASES[case]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "rope_parameters": rope}))
    tokens = {"tokenizer_class": BACKEND, "extra_special_tokens": ["<a>"], "pad_token": "<pad>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokens))
    monkeypatch.setattr(transformers_versions, "NEWER", True)
    write_compatible_files(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_parameters"] == rope
    assert {key: config[key] for key in after} == after
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert written["additional_special_tokens"] == ["<a>"]


def test_configs_and_tokenizers_of_both_versions_are_read(tmp_path: Path) -> None:
    theta = {"rope_theta": 12345.0}
    config = {"model_type": "llama", **theta, "rope_scaling": None, "rope_parameters": theta | {"rope_type": "default"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = AutoConfig.from_pretrained(tmp_path)
    restore_rope_fields("x", read)
    assert (read.rope_parameters if transformers_versions.NEWER else vars(read))["rope_theta"] == 12345.0
    original = AutoTokenizer.from_pretrained(model_path("pocket-decoder"))
    original.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    written = json.loads(file.read_text())
    as_newer = {"tokenizer_class": BACKEND, "backend": "tokenizers", "extra_special_tokens": ["<extra_id_0>"]}
    file.write_text(json.dumps({k: v for k, v in written.items() if k != "added_tokens_decoder"} | as_newer))
    tokenizer = load_tokenizer(str(tmp_path), {})
    text = "a small dog</s><extra_id_0>"
    assert tokenizer(text)["input_ids"] == original(text)["input_ids"]
    assert tokenizer.eos_token_id == original.eos_token_id
