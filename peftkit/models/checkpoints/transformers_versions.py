"""Reads tokenizers and configs saved by either transformers 4 or 5, and writes files that both can read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from peftkit.errors import ModelError

NEWER = int(transformers.__version__.split(".")[0]) >= 5
"""Whether transformers 5 is installed."""
BACKEND = "TokenizersBackend"
"""The class name that transformers 5 writes for a tokenizer that only has a ``tokenizer.json``; unknown to 4."""
FAST = "PreTrainedTokenizerFast"
"""The name of that class that both know."""
ROPE = "rope_parameters"
"""The config field of transformers 5 with all rotary position settings; 4 has several fields."""
THETA: Mapping[str, tuple[str, ...]] = {
    "": ("rope_theta", "rotary_emb_base"),
    "full_attention": ("rope_theta", "global_rope_theta"),
    "sliding_attention": ("rope_local_base_freq", "local_rope_theta"),
}
"""The config fields of transformers 4 for the RoPE base, by layer type."""
PARTIAL = ("partial_rotary_factor", "rotary_pct")
"""The config fields of transformers 4 for the share of dimensions that are rotated."""


def load_tokenizer(path: str, options: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Load a tokenizer that either version of transformers saved.

    Args:
        path: a local folder, or the name of a model on the hub.
        options: further arguments of ``from_pretrained``.
    """
    tokenizer: PreTrainedTokenizerBase
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    except (ValueError, AttributeError) as error:
        if NEWER or not any(word in str(error) for word in (BACKEND, "'list' object has no attribute 'keys'")):
            raise
        # extra_special_tokens is a list in transformers 5 and a dict in 4.
        options = {key: value for key, value in options.items() if key != "trust_remote_code"}
        tokens = get_tokenizer_config(path, **options).get("extra_special_tokens")
        additional = {"additional_special_tokens": tokens} if isinstance(tokens, list) else {}
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path, **options, extra_special_tokens={}, **additional)
    return tokenizer


def restore_rope_fields(name: str, config: Any) -> None:
    """Set the rotary position fields of transformers 4 in a config that transformers 5 saved.

    Args:
        name: the model, as in the recipe.
        config: the config as loaded; it is changed in place.

    Raises:
        ModelError: the installed transformers does not support its rotary positions.
    """
    rope = getattr(config, ROPE, None)
    if NEWER or not isinstance(rope, dict) or not rope:
        return
    for field, value in _version_4_fields(rope, config):
        if field is None:
            raise ModelError(
                f"the model {name!r} cannot be loaded: its config was saved by transformers 5, and its {ROPE} {value} "
                f"are not supported for {config.model_type!r} models by transformers {transformers.__version__}; "
                "install transformers 5"
            )
        setattr(config, field, value)


def write_compatible_files(folder: Path) -> None:
    """Rewrite the files of ``save_pretrained`` so that transformers 4 and 5 read them in the same way.

    Args:
        folder: a folder with ``config.json``, ``tokenizer_config.json`` or both.
    """
    if not NEWER:
        return
    file = folder / "tokenizer_config.json"
    tokenizer_config = _read_json(file)
    if tokenizer_config.get("tokenizer_class") == BACKEND:
        tokenizer_config["tokenizer_class"] = FAST
    if isinstance(tokens := tokenizer_config.get("extra_special_tokens"), list):
        del tokenizer_config["extra_special_tokens"]
        tokenizer_config["additional_special_tokens"] = tokens
    if tokenizer_config:
        file.write_text(json.dumps(tokenizer_config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    file = folder / "config.json"
    config = _read_json(file)
    if isinstance(rope := config.get(ROPE), dict) and rope:
        config |= {field: value for field, value in _version_4_fields(rope, None) if field is not None}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _version_4_fields(rope: Mapping[str, Any], config: Any) -> Iterator[tuple[str | None, Any]]:
    """Translate rotary position settings to the config fields of transformers 4.

    Args:
        rope: the settings as transformers 5 wrote them.
        config: the config that has to have the fields; None to use the most common ones.

    Yields:
        A field and its value, or None and the settings that no field can express.
    """
    by_layer_type = all(isinstance(value, dict) for value in rope.values())
    for layer_type, settings in rope.items() if by_layer_type else [("", rope)]:
        if settings is None:
            continue
        scaling = dict(settings)
        theta, partial = scaling.pop("rope_theta", None), scaling.pop("partial_rotary_factor", None)
        fields = THETA.get(layer_type, ())
        if config is None and not layer_type:
            fields = fields[:1]
        yield from _known_fields(fields, theta, config, settings)
        yield from _known_fields(PARTIAL if config is not None else PARTIAL[:1], partial, config, settings)
        is_scaled = scaling.get("rope_type", "default") != "default"
        unsupported = layer_type == "sliding_attention" or (config is not None and not hasattr(config, "rope_scaling"))
        if is_scaled and unsupported:
            yield None, settings
        elif layer_type != "sliding_attention" and (config is None or hasattr(config, "rope_scaling")):
            yield "rope_scaling", scaling if is_scaled else None


def _known_fields(
    fields: tuple[str, ...], value: Any, config: Any, settings: Mapping[str, Any]
) -> Iterator[tuple[str | None, Any]]:
    """Yield the fields that the config has with the value, or None and the settings if it has none of them."""
    if value is None:
        return
    known = [field for field in fields if config is None or hasattr(config, field)]
    yield from ((field, value) for field in known)
    if not known:
        yield None, settings


def _read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; empty if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
