"""How text is generated: greedily, or with the recipe's beams, whatever a checkpoint's files would have."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME, cached_file

from peftkit.recipe.names import model_path
from peftkit.runner.forms import Form

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""Settings that a model needs beside generation; what targets begin and end with decides them here."""
INTERNAL = ("transformers_version", "cache_config", "compile_config", "continuous_batching_config")


def set_plain_outputs(config: Any) -> None:
    """Makes a model return what peftkit reads of it: some checkpoints' configs ask for tuples, or for attentions.

    Args:
        config: the model's config.
    """
    config.output_attentions = config.output_hidden_states = False
    config.return_dict = True


def plain_generation(form: Form) -> GenerationConfig:
    """The settings of greedy search that ends at the token which targets end with.

    Args:
        form: the form of the model, with its config and tokenizer.
    """
    tokenizer = form.tokenizer
    start = getattr(form.config, "decoder_start_token_id", None)
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=form.end,
        pad_token_id=form.pad,
        decoder_start_token_id=start if isinstance(start, int) else None,
        do_sample=False,
    )


def set_plain_generation(model: nn.Module, form: Form) -> dict[str, Any]:
    """Replaces the checkpoint's settings of generation, those in its config too.

    Args:
        model: the loaded model.
        form: its form.

    Returns:
        The settings that have no effect, with their values.
    """
    plain = plain_generation(form)
    loaded = getattr(model, "generation_config", None)
    ignored = _settings(loaded) if loaded is not None else {}
    for config in {id(c): c for c in (model.config, form.config)}.values():
        for key in [*_legacy(config)]:
            ignored.setdefault(key, getattr(config, key))
            config.__dict__.pop(key, None)
    model.generation_config = plain
    own = _settings(plain)
    return {key: value for key, value in sorted(ignored.items()) if own.get(key) != value}


def keep_generation_config(name: str, revision: str | None, folder: Path) -> None:
    """Gives a saved model the settings of generation that its base comes with, for those who use it elsewhere.

    Args:
        name: the base model, as the recipe has it.
        revision: its commit on the hub.
        folder: where the model was saved.
    """
    missing = dict.fromkeys(("gated_repo", "missing_entries", "connection_errors"), False)
    options = {f"_raise_exceptions_for_{what}": value for what, value in missing.items()}
    file = cached_file(str(model_path(name)), GENERATION_CONFIG_NAME, revision=revision, **options)
    if file is not None:
        shutil.copyfile(file, folder / GENERATION_CONFIG_NAME)


def generation_notice(ignored: Mapping[str, Any]) -> str:
    """What a user should know about a checkpoint's settings; empty where it has none.

    Args:
        ignored: as ``set_plain_generation`` returns them.
    """
    if not ignored:
        return ""
    settings = ", ".join(f"{key} = {value}" for key, value in ignored.items())
    return f"settings of generation in the checkpoint, without effect: {settings}"


def _settings(config: Any) -> dict[str, Any]:
    """What is set in it, other than the defaults."""
    defaults = vars(GenerationConfig())
    return {
        key: value
        for key, value in vars(config).items()
        if not key.startswith("_") and key not in INTERNAL and value is not None and value != defaults.get(key)
    }


def _legacy(config: Any) -> Mapping[str, Any]:
    """Settings of generation that stand in a model's config, as they did before there was a file for them."""
    names = ("_get_generation_parameters", "_get_non_default_generation_parameters")  # transformers 5, and 4.57
    read = next((getattr(config, name) for name in names if hasattr(config, name)), None)
    settings: Mapping[str, Any] = read() if read is not None else {}
    return {key: value for key, value in settings.items() if key not in TOKENS and key in vars(config)}
