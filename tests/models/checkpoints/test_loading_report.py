"""Loaded weights equal the checkpoint's, and broken checkpoints are rejected with an explanation."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from peftkit.errors import InputError, ModelError, PeftkitError, RecipeError, RunError
from peftkit.methods.full import Full
from peftkit.models.checkpoints import transformers_versions
from peftkit.models.checkpoints.load_errors import explain_load_error
from peftkit.models.checkpoints.loading_report import wrapper_prefix
from peftkit.models.load_base_model import load_base
from peftkit.testing.tiny_models import FAMILIES, architecture_kind, save_tiny_model
from tests.tiny_runs import Make

Tensors = dict[str, torch.Tensor]
EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe")
"""Their checkpoints have other names and shapes than the model, which transformers joins when it loads them."""
ARCHITECTURES = [name for family in FAMILIES.values() for name in family if name not in EXPERTS]
WRAPPERS = ("module.", "_orig_mod.", "base_model.model.", "model.", "transformer.", "_fsdp_wrapped_module.")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an intact tiny checkpoint of an architecture."""
    folders: dict[str, Path] = {}

    def checkpoint(architecture: str) -> Path:
        if architecture not in folders:
            folders[architecture] = save_tiny_model(architecture, tmp_path_factory.mktemp("checkpoints") / architecture)
        return folders[architecture]

    return checkpoint


def damaged(source: Path, folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of a checkpoint with other tensors."""
    shutil.copytree(source, folder)
    tensors = load_file(source / "model.safetensors")
    changed = {key: value.clone() for key, value in change(dict(tensors)).items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def loaded(make: Make, folder: Path, *overrides: str) -> Any:
    return load_base(make("decoder", f"model.name={folder.as_posix()}", *overrides))


def layer_name(tensors: Tensors) -> str:
    """A matrix in a numbered block, of an attention or a feed-forward layer."""
    return next(k for k, v in sorted(tensors.items()) if v.ndim == 2 and any(p.isdigit() for p in k.split(".")))


def is_held(tensors: Tensors) -> Any:
    """Whether a parameter has the values that the checkpoint holds."""
    sums = {(tuple(value.shape), value.double().sum().item()) for value in tensors.values()}
    return lambda p: (tuple(p.shape), p.detach().double().sum().item()) in sums


# ---- every architecture


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_weight_comes_from_the_checkpoint_or_the_new_head(
    architecture: str, checkpoints: Callable[[str], Path], make: Make
) -> None:
    folder = checkpoints(architecture)
    base = loaded(make, folder)
    held = is_held(load_file(folder / "model.safetensors"))
    assert base.kind == architecture_kind(architecture)
    others = {name for name, p in base.model.named_parameters() if not held(p)}
    assert others <= {*base.head.parameters}
    assert {*base.loading_report.missing} == {*base.head.parameters}
    if base.kind != "encoder":
        assert base.loading_report.unexpected == ()
        assert base.loading_report.notice("x") == ""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_missing_weight_is_named(
    architecture: str, checkpoints: Callable[[str], Path], make: Make, tmp_path: Path
) -> None:
    tensors = load_file(checkpoints(architecture) / "model.safetensors")
    lost = layer_name(tensors)
    folder = damaged(
        checkpoints(architecture), tmp_path / "lacking", lambda t: {k: v for k, v in t.items() if k != lost}
    )
    with pytest.raises(ModelError, match=rf"lacks 1 of \d+ weights of the model, such as '{lost}'; "):
        loaded(make, folder)


@pytest.mark.parametrize("prefix", ["module.", "base_model.model._orig_mod."])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_wrapper_prefixes_are_detected(
    architecture: str, prefix: str, checkpoints: Callable[[str], Path], make: Make, tmp_path: Path
) -> None:
    folder = damaged(
        checkpoints(architecture), tmp_path / "wrapped", lambda t: {f"{prefix}{k}": v for k, v in t.items()}
    )
    with pytest.raises(ModelError, match=rf"its names contain the prefix '{prefix}'") as error:
        loaded(make, folder)
    assert f'k.replace("{prefix}", "", 1)' in str(error.value)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_weight_of_another_shape_is_named(
    architecture: str, checkpoints: Callable[[str], Path], make: Make, tmp_path: Path
) -> None:
    name = layer_name(load_file(checkpoints(architecture) / "model.safetensors"))
    folder = damaged(checkpoints(architecture), tmp_path / "wider", lambda t: {**t, name: t[name].repeat(2, 1)})
    with pytest.raises(ModelError, match=rf"the shapes of 1 weights do not match its config, such as '{name}'"):
        loaded(make, folder)


# ---- wrappers


@pytest.mark.parametrize("outer", WRAPPERS)
@pytest.mark.parametrize("inner", ["", *WRAPPERS])
def test_combined_wrappers_are_one_prefix(outer: str, inner: str) -> None:
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"]
    assert wrapper_prefix(names, [f"{outer}{inner}{name}" for name in names]) == f"{outer}{inner}"


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_wrappers_of_single_blocks_are_detected(wrapper: str) -> None:
    names = [f"model.layers.{number}.mlp.up_proj.weight" for number in range(3)]
    inside = [name.replace(".mlp", f".{wrapper}.mlp") for name in names]
    assert wrapper_prefix(names, inside) == f"{wrapper}."
    assert wrapper_prefix(names, ["cls.predictions.bias", "vision.layers.0.weight"]) is None


def test_adapters_inside_a_checkpoint_are_an_error(
    checkpoints: Callable[[str], Path], make: Make, tmp_path: Path
) -> None:
    def adapted(tensors: Tensors) -> Tensors:
        layers = {key.replace("q_proj.weight", "q_proj.base_layer.weight"): value for key, value in tensors.items()}
        return layers | {"model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(4, 32)}

    folder = damaged(checkpoints("llama"), tmp_path / "adapted", adapted)
    with pytest.raises(ModelError, match=r"it contains an unmerged adapter.*merge_and_unload"):
        loaded(make, folder)


def test_a_checkpoint_resaved_as_the_error_suggests_loads(
    checkpoints: Callable[[str], Path], make: Make, tmp_path: Path
) -> None:
    folder = damaged(checkpoints("llama"), tmp_path / "ddp", lambda t: {f"module.{k}": v for k, v in t.items()})
    file = folder / "model.safetensors"
    save_file({k.replace("module.", "", 1): v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    assert loaded(make, folder).loading_report.missing == ()


def test_conflicting_tied_weights_are_kept_or_an_error(
    checkpoints: Callable[[str], Path], make: Make, tmp_path: Path
) -> None:
    """transformers 4 silently drops one of the two weights; 5 keeps both."""
    folder = damaged(checkpoints("llama"), tmp_path / "both", lambda t: t)
    configured(tie_word_embeddings=True)(folder)
    output = load_file(folder / "model.safetensors")["lm_head.weight"]
    if transformers_versions.NEWER:
        assert loaded(make, folder).model.lm_head.weight.equal(output)
        return
    with pytest.raises(ModelError, match=r"'lm_head\.weight'.* set tie_word_embeddings = false"):
        loaded(make, folder)


def test_a_missing_output_layer_may_be_tied(checkpoints: Callable[[str], Path], make: Make, tmp_path: Path) -> None:
    folder = damaged(
        checkpoints("llama"), tmp_path / "tied", lambda t: {k: v for k, v in t.items() if k != "lm_head.weight"}
    )
    with pytest.raises(ModelError, match=r"lacks 1 of .* set tie_word_embeddings = true"):
        loaded(make, folder)
    configured(tie_word_embeddings=True)(folder)
    assert loaded(make, folder).loading_report.missing == ()


# ---- missing and unexpected weights


def test_unexpected_tensors_are_listed(checkpoints: Callable[[str], Path], make: Make, tmp_path: Path) -> None:
    more = {f"value_head.{number}.weight": torch.zeros(2) for number in range(3)}
    base = loaded(make, damaged(checkpoints("llama"), tmp_path / "more", lambda t: t | more))
    assert base.loading_report.record() == {"missing": [], "unexpected": sorted(more), "mismatched": []}
    assert base.loading_report.notice("x") == (
        "3 tensors of x are not part of this model and were skipped: value_head (3)"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_rejected(
    value: float, checkpoints: Callable[[str], Path], make: Make, tmp_path: Path
) -> None:
    def spoil(tensors: Tensors) -> Tensors:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value
        return tensors

    with pytest.raises(ModelError, match=r"are NaN or infinite in float32, such as 'model.layers.1.mlp.up_proj"):
        loaded(make, damaged(checkpoints("llama"), tmp_path / "spoilt", spoil))


def test_weights_too_large_for_the_dtype_are_rejected(
    checkpoints: Callable[[str], Path], make: Make, tmp_path: Path
) -> None:
    folder = damaged(checkpoints("llama"), tmp_path / "large", lambda t: {k: v * 1e6 for k, v in t.items()})
    with pytest.raises(ModelError, match=r"NaN or infinite in float16.*model\.dtype"):
        loaded(make, folder, "model.dtype=float16")
    assert loaded(make, folder, "model.dtype=bfloat16").loading_report.missing == ()


# ---- files


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:20_000])


def sharded(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = load_file(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00002.safetensors")}
    index["weight_map"]["lm_head.weight"] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def renamed(name: str, other: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).rename(folder / other)

    return change


def written(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def configured(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def without_tokenizer(folder: Path) -> None:
    for file in [*folder.glob("tokenizer*"), *folder.glob("special_tokens*")]:
        file.unlink()


def with_two_copies(folder: Path) -> None:
    """Weights in model.safetensors and other weights in an indexed file."""
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v * 0 for k, v in tensors.items()}, folder / "part.safetensors", metadata={"format": "pt"})
    index = {"weight_map": dict.fromkeys(tensors, "part.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def stored(change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    """A change of the tensors."""

    def write(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return write


def with_scales(suffix: str) -> Callable[[Path], None]:
    return stored(lambda t: t | {f"{k.removesuffix('.weight')}.{suffix}": torch.ones(1) for k in t if ".mlp." in k})


def indexed(content: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return change


SCALES = ("weight_scale", "weight_scale_inv", "scales", "qzeros", "g_idx", "SCB", "weight.absmax", "weight.quant_map")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
HEADER = (50).to_bytes(8, "little") + b"{not json".ljust(50)
NO_WEIGHTS = renamed("model.safetensors", "notes.txt")
FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut short": (cut, r"model\.safetensors has 20,000 bytes instead of [\d,]+; download model\.safetensors"),
    "in its header": (written("model.safetensors", (9000).to_bytes(8, "little") + b"{"), "is truncated"),
    "empty": (written("model.safetensors", b""), "model.safetensors is empty; download"),
    "broken header": (written("model.safetensors", HEADER), "its header is broken"),
    "no safetensors": (written("model.safetensors", b"PK\x03\x04" * 100), "is not a safetensors file"),
    "pointer": (written("model.safetensors", POINTER), "model.safetensors is a Git LFS pointer; run: git lfs pull"),
    "tokenizer's pointer": (
        written("tokenizer.json", POINTER),
        "tokenizer.json is a Git LFS pointer",
    ),
    "tokenizer cut": (written("tokenizer.json", b'{"model": {"vo'), "tokenizer.json is not valid JSON"),
    "no tokenizer": (without_tokenizer, "it has no tokenizer; download tokenizer.json"),
    "lost shard": (sharded, "1 of 2 files listed in model.safetensors.index.json are missing, such as model-00002"),
    "lost index": (renamed("model.safetensors", "model-00001-of-00002.safetensors"), "download the index"),
    "no weights": (NO_WEIGHTS, "it has no weights: model.safetensors is missing"),
    "pickled": (renamed("model.safetensors", "pytorch_model.bin"), "pickled.*must be safetensors; .* convert them"),
    "GGUF": (renamed("model.safetensors", "x.Q4_K_M.gguf"), "are GGUF .* use the original model"),
    "TensorFlow": (renamed("model.safetensors", "tf_model.h5"), "for another framework .*safetensors"),
    "unknown": (
        configured(model_type="lllama"),
        r"support the model_type 'lllama' \(did you mean 'llama'\?\); correct",
    ),
    "no type": (configured(model_type=""), r"config\.json has no \"model_type\"; add it"),
    "remote code": (
        configured(model_type="mine", auto_map={"AutoConfig": "conf.Mine", "AutoModelForCausalLM": "mod.Mine"}),
        r"needs custom code that comes with it; review the code, then set model\.trust_remote_code = true",
    ),
    "quantised": (
        configured(quantization_config={"quant_method": "gptq", "bits": 4}),
        r"saved quantized \(by gptq\), but the recipe asks for float32; use the original checkpoint",
    ),
    **{f"index {c}": (indexed(c), r"index\.json lists no files; download") for c in ([], {}, {"weight_map": ["part"]})},  # type: ignore[misc]
    "weights twice": (
        with_two_copies,
        "has both model.safetensors and model.safetensors.index.json .* which may differ",
    ),
    "whole numbers": (
        stored(lambda t: {k: (v * 100).to(torch.int8) if ".mlp." in k else v for k, v in t.items()}),
        r"integers for \d+ weights, such as 'model\.layers\.0\.mlp\..*no quantization_config; use the original",
    ),
    **{f"scales {s}": (with_scales(s), r"was saved quantized: it contains .* no quantization_config") for s in SCALES},
    **{
        f"float8 {dtype}": (
            stored(lambda t, dtype=dtype: {k: v.to(dtype) if ".mlp." in k else v for k, v in t.items()}),
            r"it has F8_E\w+ numbers for \d+ weights, .*no quantization_config; use the original",
        )
        for dtype in (torch.float8_e4m3fn, torch.float8_e5m2)
    },
    "fewer blocks": (
        configured(num_hidden_layers=1),
        r"contains more layers than its config specifies, such as 'model\.layers\.1'; correct the number of layers",
    ),
    "unknown architecture": (
        configured(architectures=["LlamaForCausalML"]),
        r"does not support the architecture 'LlamaForCausalML'.*\(did you mean 'LlamaForCausalLM'\?\)",
    ),
    "unknown activation": (configured(hidden_act="nonsense"), r"'nonsense'; check its config\.json"),
    "quantised by bitsandbytes": (
        configured(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        'or set model.quantization = "4bit"',
    ),
}


@pytest.mark.parametrize("fault", FILES)
def test_every_damaged_file_has_its_own_message(
    fault: str, checkpoints: Callable[[str], Path], make: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(checkpoints("llama"), folder)
    change, words = FILES[fault]
    change(folder)
    with pytest.raises(ModelError, match=words) as error:
        loaded(make, folder)
    assert error.value.exit_code == 2
    assert fault in ("pickled", "GGUF", "TensorFlow") or "must be safetensors" not in str(error.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "generation_config.json"])
def test_a_file_that_cannot_be_read_is_named(
    name: str, make: Make, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(models["decoder"], tmp_path / "model")
    recipe, opened = make("decoder", f"model.name={tmp_path / 'model'}"), Path.open

    def denied(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ModelError, match=rf"cannot be loaded: {re.escape(name)} cannot be read: Permission denied"):
        load_base(recipe)


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_extra_blocks_of_another_kind_are_ignored(
    architecture: str, checkpoints: Callable[[str], Path], make: Make, tmp_path: Path
) -> None:
    """For example blocks that predict further tokens, whose parts no block of the model has."""

    def more(tensors: Tensors) -> Tensors:
        block = next(key for key in tensors if ".1." in key).split(".1.")[0]
        others = {f"{block}.2.{key.split('.1.')[1]}": value for key, value in tensors.items() if ".1." in key}
        return (
            tensors
            | {key: value.clone() for key, value in others.items()}
            | {f"{block}.2.eh_proj.weight": torch.ones(2)}
        )

    base = loaded(make, damaged(checkpoints(architecture), tmp_path / "more", more))
    assert any(name.endswith("2.eh_proj.weight") for name in base.loading_report.unexpected)


CONFIGS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (renamed("config.json", "notes.txt"), "it has no config.json"),
    "no JSON": (written("config.json", b'{"model_type": '), r"config\.json of .* cannot be read: JSONDecodeError"),
    "no table": (written("config.json", b"[]"), "is not a JSON object"),
    "pointer": (written("config.json", POINTER), "git lfs pull"),
    "adapter": (
        written("adapter_config.json", b'{"base_model_name_or_path": "me/base"}'),
        r"is an adapter and not a model \(adapter_config\.json\); use its base model, 'me/base'",
    ),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_a_folder_without_a_model_is_a_recipe_error(
    fault: str, checkpoints: Callable[[str], Path], make: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(checkpoints("llama"), folder)
    change, words = CONFIGS[fault]
    change(folder)
    with pytest.raises(RecipeError, match=words):
        make("decoder", f"model.name={folder.as_posix()}")


def test_gguf_weights_and_single_files_are_rejected(make: Make, tmp_path: Path) -> None:
    (tmp_path / "model.Q8_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="contains GGUF weights only"):
        make("decoder", f"model.name={tmp_path.as_posix()}")
    with pytest.raises(InputError, match="is a file; use the folder"):
        make("decoder", f"model.name={(tmp_path / 'model.Q8_0.gguf').as_posix()}")


# ---- kept heads, and finished runs


def test_a_kept_head_must_be_complete(checkpoints: Callable[[str], Path], make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "classifier"
    config = AutoConfig.from_pretrained(checkpoints("bert"), num_labels=3)
    config.id2label = {0: "red", 1: "green", 2: "blue"}
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    for file in checkpoints("bert").glob("*token*"):
        shutil.copy(file, folder)
    assert loaded(make, folder, "model.keep_head=true").head.kept
    lacking = damaged(folder, tmp_path / "lacking", lambda t: {k: v for k, v in t.items() if k != "classifier.bias"})
    with pytest.raises(ModelError, match=r"lacks 1 of .* such as 'classifier\.bias'"):
        loaded(make, lacking, "model.keep_head=true")
    assert "classifier.bias" in loaded(make, lacking).head.parameters


def test_full_load_rejects_a_checkpoint_with_a_missing_weight(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoints("llama"), dtype=torch.float32)
    Full().load(model, checkpoints("llama"))
    name = "model.layers.1.mlp.up_proj.weight"
    folder = damaged(checkpoints("llama"), tmp_path / "lost", lambda t: {k: v for k, v in t.items() if k != name})
    with pytest.raises(ValueError, match=f"1 weights of the model are missing, such as {name}"):
        Full().load(model, folder)


HUB: dict[str, tuple[Exception, type[PeftkitError], str]] = {
    "unknown": (
        OSError("me/x is not a local folder and is not a valid model identifier listed on 'https://huggingface.co'"),
        ModelError,
        "neither a local folder nor a model on the hub; check its name",
    ),
    "gated": (OSError("You are trying to access a gated repo.\nMake sure"), ModelError, "gated; .* hf auth login"),
    "revision": (
        OSError("v9 is not a valid git identifier (branch name, tag name or commit id) that exists"),
        ModelError,
        r"no revision 'v9' on the hub; correct model\.revision",
    ),
    "away": (OSError("We couldn't connect to 'https://huggingface.co'"), RunError, r"\(hf download me/x\)"),
    "offline": (LocalEntryNotFoundError("not in the cache"), RunError, "the hub cannot be reached"),
}


@pytest.mark.parametrize("case", HUB)
def test_load_errors_of_the_hub_are_explained(case: str) -> None:
    cause, kind, words = HUB[case]
    error = explain_load_error("me/x", "me/x", "v9", cause)
    assert type(error) is kind
    assert re.search(words, str(error))
