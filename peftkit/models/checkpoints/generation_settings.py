"""Resets generation settings, so that text is generated as the recipe says and not as the checkpoint's files do."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME, cached_file

from peftkit.models import ModelFamily
from peftkit.recipe.model_names import model_path

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""Settings that a model needs for more than generation."""
INTERNAL = ("transformers_version", "cache_config", "compile_config", "continuous_batching_config")
"""Attributes of a ``GenerationConfig`` that do not affect which text is generated."""


def greedy_generation_config(family: ModelFamily) -> GenerationConfig:
    """Return the settings of greedy search that stops at the token that ends targets."""
    tokenizer = family.tokenizer
    start_id = getattr(family.config, "decoder_start_token_id", None)
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=family.eos_id,
        pad_token_id=family.pad_id,
        decoder_start_token_id=start_id if isinstance(start_id, int) else None,
        do_sample=False,
    )


def reset_generation_config(model: nn.Module, family: ModelFamily) -> dict[str, Any]:
    """Replace the checkpoint's generation settings, including those in its config, by greedy search.

    Args:
        model: the loaded model.
        family: its model family.

    Returns:
        The checkpoint's settings that no longer have an effect, with their values.
    """
    greedy_config = greedy_generation_config(family)
    checkpoint_config = getattr(model, "generation_config", None)
    ignored = _non_default_settings(checkpoint_config) if checkpoint_config is not None else {}
    defaults = _default_settings()
    for config in {id(c): c for c in (model.config, family.config)}.values():
        for key in [*_settings_in_model_config(config)]:
            value = config.__dict__.pop(key)
            if value != defaults.get(key):
                ignored.setdefault(key, value)
    model.generation_config = greedy_config
    greedy = _non_default_settings(greedy_config)
    return {key: value for key, value in sorted(ignored.items()) if greedy.get(key) != value}


def copy_generation_config(name: str, revision: str | None, folder: Path) -> None:
    """Copy the generation settings of a base model to a saved model, for use outside peftkit.

    Args:
        name: the base model, as in the recipe.
        revision: its commit on the hub.
        folder: the folder of the saved model.
    """
    options = dict.fromkeys(
        (
            "_raise_exceptions_for_gated_repo",
            "_raise_exceptions_for_missing_entries",
            "_raise_exceptions_for_connection_errors",
        ),
        False,
    )
    file = cached_file(str(model_path(name)), GENERATION_CONFIG_NAME, revision=revision, **options)
    if file is not None:
        shutil.copyfile(file, folder / GENERATION_CONFIG_NAME)


def generation_notice(ignored: Mapping[str, Any]) -> str:
    """Describe the ignored generation settings of a checkpoint; empty if there are none.

    Args:
        ignored: the settings that ``reset_generation_config`` returned.
    """
    if not ignored:
        return ""
    settings = ", ".join(f"{key} = {value}" for key, value in ignored.items())
    return f"generation settings of the checkpoint that have no effect: {settings}"


def _non_default_settings(config: Any) -> dict[str, Any]:
    """Return the settings of a ``GenerationConfig`` that differ from the defaults."""
    defaults = _default_settings()
    return {
        key: value
        for key, value in vars(config).items()
        if not key.startswith("_") and key not in INTERNAL and value is not None and value != defaults.get(key)
    }


def _default_settings() -> dict[str, Any]:
    """Return the settings of ``generate()`` without a configuration.

    Those of transformers 5 are None in a ``GenerationConfig``, and filled in when text is generated.
    """
    get_defaults = getattr(GenerationConfig, "_get_default_generation_params", dict)
    settings = {key: value for key, value in vars(GenerationConfig()).items() if value is not None}
    return {"output_attentions": False, "output_hidden_states": False, **get_defaults(), **settings}


def _settings_in_model_config(config: Any) -> Mapping[str, Any]:
    """Return the generation settings in a model's config, where old checkpoints have them."""
    names = ("_get_generation_parameters", "_get_non_default_generation_parameters")  # transformers 5 and 4.57
    get_settings = next((getattr(config, name) for name in names if hasattr(config, name)), None)
    settings: Mapping[str, Any] = get_settings() if get_settings is not None else {}
    return {key: value for key, value in settings.items() if key not in TOKENS and key in vars(config)}
