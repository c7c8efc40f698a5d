from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftkit.objectives import (
    ContrastiveEmbedding,
    FreeGeneration,
    NumberGeneration,
    RegressionHead,
    SimilarityEmbedding,
)
from peftkit.recipe.model_names import (
    ASSETS,
    BUILT_IN_MODELS,
    ENCODER_CLASSES,
    architectures_problem,
    model_config,
    model_kind,
    model_path,
    text_config,
    trained_kind,
    validate_model_name,
)


def test_built_in_models_have_their_kinds_and_paths() -> None:
    kinds = {name: model_kind(model_config(name)) for name in BUILT_IN_MODELS}
    assert kinds == {"pocket-t5": "encoder-decoder", "pocket-decoder": "decoder", "pocket-encoder": "encoder"}
    assert [model_path(name) for name in BUILT_IN_MODELS] == [str(ASSETS / name) for name in BUILT_IN_MODELS]
    assert model_path("google-t5/t5-base") == "google-t5/t5-base"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"is_encoder_decoder": True, "architectures": ["X"]}, "encoder-decoder"),
        ({"architectures": ["LlamaForCausalLM"]}, "decoder"),
        ({"architectures": ["GPT2LMHeadModel"]}, "decoder"),
        ({"architectures": ["XLMWithLMHeadModel"]}, "encoder"),
        ({"architectures": ["XLMWithLMHeadModel"], "causal": True}, "decoder"),
        ({"architectures": ["FlaubertWithLMHeadModel"], "causal": False}, "encoder"),
        ({"architectures": ["XLNetLMHeadModel"]}, "encoder"),
        ({"architectures": ["XLNetLMHeadModel"], "attn_type": "uni"}, "decoder"),
        ({"architectures": ["BertForMaskedLM"]}, "encoder"),
        ({"architectures": []}, None),
        ({"architectures": None}, None),
        ({"architectures": 3}, None),
        ({}, None),
    ],
)
def test_model_kind(config: dict[str, Any], expected: str | None) -> None:
    assert model_kind(config) == expected


@pytest.mark.parametrize(
    ("model_type", "objectives", "expected"),
    [
        ("t5", (ContrastiveEmbedding,), "encoder"),
        ("umt5", (SimilarityEmbedding,), "encoder"),
        ("bart", (ContrastiveEmbedding,), "encoder-decoder"),
        ("t5", (FreeGeneration,), "encoder-decoder"),
        ("t5", (RegressionHead, NumberGeneration), "encoder-decoder"),
    ],
)
def test_vectors_of_texts_need_the_encoder_of_an_encoder_decoder(
    model_type: str, objectives: Any, expected: str
) -> None:
    config = {"is_encoder_decoder": True, "architectures": ["X"], "model_type": model_type}
    assert trained_kind(config, objectives) == expected


def test_transformers_loads_the_encoders_alone() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES as NAMES

    assert all(NAMES[model_type].endswith("EncoderModel") for model_type in ENCODER_CLASSES)


@pytest.mark.parametrize(
    "text", ["[1]", "{", "", "\xff", "[" * 100_000], ids=["list", "broken", "empty", "latin", "deep"]
)
def test_an_unreadable_config_is_empty(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    assert model_config(str(tmp_path)) == {}
    assert validate_model_name(str(tmp_path)).startswith(f"the config.json of {str(tmp_path)!r} ")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("LlamaForCausalLM", """not 'LlamaForCausalLM'; write ["LlamaForCausalLM"]"""),
        ("", "not ''"),
        (3, "not 3"),
        ([3], r"not [3]"),
        ([""], "not ['']"),
        ([None], "not [None]"),
        ({"a": "b"}, "not {'a': 'b'}"),
    ],
)
def test_architectures_that_are_no_list_of_names_are_invalid(value: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": value}))
    expected = f"the config.json of {str(tmp_path)!r} is invalid: architectures must be a list of class names, {words}"
    assert validate_model_name(str(tmp_path)) == expected


@pytest.mark.parametrize("value", [None, [], ["LlamaForCausalLM"], ("A", "B")])
def test_a_config_may_list_architectures_or_none(value: Any) -> None:
    assert architectures_problem(value) == ""


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "is not a model: it has no config.json"),
        ({"config.json": "{}"}, "is not a JSON object"),
        ({"config.json": "version https://git-lfs.github.com/spec/v1"}, "is a Git LFS pointer; run: git lfs pull"),
        ({"config.json": "\ufeff{}"}, "is not a JSON object"),
        ({"config.json": "{"}, "cannot be read: "),
        ({"b.gguf": "", "a.gguf": ""}, "contains GGUF weights only (a.gguf)"),
        ({"b.gguf": "", "config.json": '{"model_type": "t5"}'}, ""),
        ({"recipe.toml": "", "summary.json": ""}, "is a run and not a model"),
        ({"recipe.toml": "", "config.json": '{"model_type": "t5"}'}, ""),
        ({"summary.json": "", "config.json": '{"model_type": "t5"}'}, ""),
        ({"adapter_config.json": '{"base_model_name_or_path": "gpt2"}'}, "use its base model, 'gpt2', or merge"),
        ({"adapter_config.json": "{}", "config.json": '{"model_type": "t5"}'}, "use the model that it was trained on"),
        ({"adapter_config.json": '{"base_model_name_or_path": null}'}, "use the model that it was trained on"),
        ({"adapter_config.json": "[]"}, "use the model that it was trained on"),
        ({"adapter_config.json": "{"}, "use the model that it was trained on"),
    ],
)
def test_a_folder_without_a_model_is_reported(files: dict[str, str], expected: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    problem = validate_model_name(str(tmp_path))
    assert expected in problem
    assert bool(problem) == bool(expected)


def test_misspelt_models_and_missing_folders_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "weights.safetensors").write_bytes(b"")
    assert validate_model_name("pocket-t6").endswith("(did you mean 'pocket-t5'?)")
    assert validate_model_name("./modle").endswith("(did you mean 'model'?)")
    assert validate_model_name("./weights.safetensor").endswith("pocket-encoder)"), "files are not models"
    assert validate_model_name("./other/modle").endswith("(pocket-t5, pocket-decoder, pocket-encoder)")
    assert "is a file; use the folder that contains it" in validate_model_name("weights.safetensors")
    assert "is not a folder" in validate_model_name("a/b/c")
    assert "is not a folder" in validate_model_name("a\0b")


TEXT = {"model_type": "llama", "vocab_size": 7, "hidden_size": 8}
IMAGES = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "text_config": TEXT,
    "vision_config": {"x": 1},
}


@pytest.mark.parametrize(
    ("changes", "is_text"),
    [
        ({}, True),
        ({"architectures": ["XForCausalLM"]}, True),
        ({"architectures": ["XModel"]}, False),
        ({"vision_config": {}}, False),
        ({"vision_config": None, "audio_config": {"x": 1}}, True),
        ({"vision_config": None, "quantization_config": {"x": 1}}, False),
        ({"vision_config": None, "generation_config": {"x": 1}}, False),
        ({"vision_config": None, "task_specific_params": {"x": 1}}, False),
        ({"text_config": None}, False),
        ({"is_encoder_decoder": True}, False),
        ({"text_config": {**TEXT, "is_encoder_decoder": True}}, False),
    ],
)
def test_text_models_of_multimodal_configs(changes: dict[str, Any], is_text: bool) -> None:
    config = {**IMAGES, **changes}
    expected = {**TEXT, "architectures": ["TextModelForCausalLM"]} if is_text else config
    assert text_config(config) == expected


def test_a_text_config_inherits_type_and_vocabulary() -> None:
    config = {**IMAGES, "text_config": {"hidden_size": 8}, "vocab_size": 9}
    text = text_config(config)
    assert (text["model_type"], text["vocab_size"]) == ("llava", 9)
    assert model_kind(config) == "decoder"


@pytest.mark.parametrize("name", [*BUILT_IN_MODELS, "gpt2", "google-t5/t5-base", "EleutherAI/pythia-70m", "a_b/c.d"])
def test_model_names_that_may_exist_are_valid(name: str) -> None:
    assert validate_model_name(name) == ""


def test_a_local_model_is_valid(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    assert validate_model_name(str(tmp_path)) == ""
    assert model_config(str(tmp_path)) == {"model_type": "t5"}


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_a_folder_that_cannot_be_read_is_no_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    opened = Path.open

    def denied(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "config.json":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    problem = validate_model_name(str(tmp_path))
    assert problem.endswith("cannot be read: Permission denied" if name == "config.json" else "or merge them first")


def test_a_name_that_is_too_long_is_no_model() -> None:
    assert validate_model_name("a/" * 3000).endswith("cannot be read: File name too long")
