"""Generation is greedy and ends with the end-of-text token, whatever the checkpoint's generation config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from peftkit.components import Example
from peftkit.models.checkpoints.generation_settings import INTERNAL, reset_generation_config
from peftkit.models.load_base_model import LoadedBase, load_base
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from tests.tiny_runs import Make

TEXTS = ("colour: sky", "colour: grass and many other things", "a")
KINDS = ("decoder", "encoder-decoder")
OTHER_VALUES: dict[str, Any] = {
    "min_length": 40,
    "min_new_tokens": 9,
    "max_length": 2,
    "max_new_tokens": 1,
    "max_time": 1e-6,
    "num_beams": 3,
    "num_return_sequences": 2,
    "temperature": 0.1,
    "top_k": 1,
    "top_p": 0.1,
    "do_sample": True,
    "repetition_penalty": 9.0,
    "encoder_repetition_penalty": 9.0,
    "diversity_penalty": 9.0,
    "length_penalty": -9.0,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "bad_words_ids": [[5], [6], [7]],
    "suppress_tokens": [*range(4000)],
    "begin_suppress_tokens": [*range(4000)],
    "sequence_bias": [[[5], 50.0]],
    "forced_bos_token_id": 7,
    "forced_eos_token_id": 8,
    "decoder_start_token_id": 9,
    "eos_token_id": [*range(2, 4000)],
    "bos_token_id": 11,
    "pad_token_id": 12,
    "exponential_decay_length_penalty": [1, 9.0],
    "guidance_scale": 3.0,
    "penalty_alpha": 0.6,
    "prompt_lookup_num_tokens": 3,
    "stop_strings": ["e"],
    "cache_implementation": "static",
    "dola_layers": "high",
    "early_stopping": True,
    "num_beam_groups": 3,
    "constraints": [1],
    "force_words_ids": [[5]],
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
    "use_cache": False,
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "low_memory": True,
    "token_healing": True,
    "watermarking_config": {"greenlist_ratio": 0.1, "bias": 50.0},
}


def other_value(name: str) -> Any:
    """A value that is not the default one."""
    default = getattr(GenerationConfig(), name)
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    return (not default) if isinstance(default, bool) else 0.5 if isinstance(default, float) else 3


FIELDS = sorted(key for key in vars(GenerationConfig()) if not key.startswith("_") and key not in INTERNAL)


@pytest.fixture(scope="module")
def bases() -> dict[str, LoadedBase]:
    return {}


def base_of(kind: str, make: Make, bases: dict[str, LoadedBase]) -> LoadedBase:
    if kind not in bases:
        bases[kind] = load_base(make(kind, "task.name=colour_text"))
        bases[kind].model.eval()
    return bases[kind]


def generated(base: LoadedBase) -> list[str]:
    rows = base.family.tokenize_completions([Example(text, "red") for text in TEXTS], ranked=False, generated=True)
    with torch.inference_mode():
        return base.family.generate(base.model, rows, torch.device("cpu"), max_new_tokens=8, num_beams=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", FIELDS)
def test_generation_configs_do_not_change_generated_text(
    field: str, kind: str, make: Make, bases: dict[str, LoadedBase]
) -> None:
    base = base_of(kind, make, bases)
    expected = generated(base)
    changed = GenerationConfig()
    setattr(changed, field, other_value(field))
    base.model.generation_config = changed
    ignored = reset_generation_config(base.model, base.family)
    assert ignored == {field: other_value(field)}
    assert generated(base) == expected
    assert base.model.generation_config.eos_token_id == base.family.tokenizer.eos_token_id


@pytest.mark.parametrize("place", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_settings_with_the_default_value_are_not_listed_as_ignored(
    kind: str, place: str, make: Make, models: dict[str, Path], tmp_path: Path
) -> None:
    defaults = {"output_attentions": False, "output_hidden_states": False, "use_cache": True, "do_sample": False}
    defaults |= {"num_beams": 1, "max_length": 20, "top_k": 50, "temperature": 1.0, "repetition_penalty": 1.0}
    settings = {**defaults, "min_length": 4}
    in_config, in_file = (settings, {}) if place == "config.json" else ({}, settings)
    folder = with_config(models[kind], tmp_path / "model", in_config, in_file)
    base = load_base(make(kind, "task.name=colour_text", f"model.name={folder}"))
    assert base.ignored_generation_settings == {"min_length": 4}


IN_CONFIG: dict[str, Any] = {
    key: OTHER_VALUES[key]
    for key in (
        "min_length",
        "max_length",
        "repetition_penalty",
        "no_repeat_ngram_size",
        "num_beams",
        "do_sample",
        "forced_bos_token_id",
        "bad_words_ids",
        "suppress_tokens",
        "length_penalty",
        "early_stopping",
        "output_attentions",
        "output_hidden_states",
    )
} | {
    "return_dict": False,
    "prefix": "translate: ",
    "task_specific_params": {"summarization": {"prefix": "summarize: ", "min_length": 40, "num_beams": 4}},
}


def with_config(source: Path, folder: Path, config: dict[str, Any], generation: dict[str, Any]) -> Path:
    shutil.copytree(source, folder)
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, **config}))
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    else:
        (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", IN_CONFIG)
def test_generation_settings_in_model_configs_do_not_change_generated_text(
    key: str, kind: str, make: Make, models: dict[str, Path], bases: dict[str, LoadedBase], tmp_path: Path
) -> None:
    folder = with_config(models[kind], tmp_path / "model", {key: IN_CONFIG[key]}, {})
    base = load_base(make(kind, "task.name=colour_text", f"model.name={folder}"))
    base.model.eval()
    assert generated(base) == generated(base_of(kind, make, bases))


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_generation_settings_are_printed_and_recorded(
    kind: str,
    make: Make,
    models: dict[str, Path],
    registry: Registry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {"min_length": 40, "repetition_penalty": 9.0, "num_beams": 3, "eos_token_id": [1, 5]}
    folder = with_config(models[kind], tmp_path / "model", {}, settings)

    def scores(name: str, model: Path) -> tuple[Any, Path]:
        recipe: Recipe = make(
            kind,
            *("task.name=colour_text", f"model.name={model}", f"run.output={tmp_path / name}", "task.rows=24"),
            *("train.budget.steps=1", "evaluate.max_new_tokens=8", "evaluate.every=100%"),
        )
        path = run(recipe, registry)
        assert path
        return [(row["step"], row["dev"], row["test"]) for row in RunDirectory(path).evaluations()], path

    plain, _ = scores("plain", models[kind])
    changed, path = scores("changed", folder)
    assert changed == plain
    assert RunDirectory(path).environment()["ignored_generation_config"] == settings
    assert (
        "generation settings of the checkpoint that have no effect: eos_token_id = [1, 5], min_"
        in capsys.readouterr().out
    )
