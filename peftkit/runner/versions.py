"""What transformers 4 and 5 write differently: each can read here what the other has saved."""

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
BACKEND = "TokenizersBackend"
"""What transformers 5 calls the class of a tokenizer that is ``tokenizer.json`` alone; 4 does not know it."""
FAST = "PreTrainedTokenizerFast"
"""What both know it by."""
ROPE = "rope_parameters"
"""Where a config of transformers 5 has what 4 reads from fields of its own."""
THETA: Mapping[str, tuple[str, ...]] = {
    "": ("rope_theta", "rotary_emb_base"),
    "full_attention": ("rope_theta", "global_rope_theta"),
    "sliding_attention": ("rope_local_base_freq", "local_rope_theta"),
}
"""The fields of transformers 4 for the base of the rotary positions, by the kind of layer."""
PARTIAL = ("partial_rotary_factor", "rotary_pct")


def load_tokenizer(path: str, options: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Loads a tokenizer, also one that the other transformers has saved.

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
        # transformers 5 lists the tokens that 4 has a table of.
        given = {key: value for key, value in options.items() if key != "trust_remote_code"}
        tokens = get_tokenizer_config(path, **given).get("extra_special_tokens")
        further = {"additional_special_tokens": tokens} if isinstance(tokens, list) else {}
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path, **given, extra_special_tokens={}, **further)
    return tokenizer


def restore_positions(name: str, config: Any) -> None:
    """Gives a config that transformers 5 has saved the fields from which 4 computes rotary positions.

    Args:
        name: the model, as the recipe has it.
        config: the config as transformers has read it.

    Raises:
        ModelError: it says something that the installed transformers cannot compute.
    """
    rope = getattr(config, ROPE, None)
    if NEWER or not isinstance(rope, dict) or not rope:
        return
    for field, value in _older(rope, config):
        if field is None:
            raise ModelError(
                f"the model {name!r} cannot be loaded: its config was saved by transformers 5, and its {ROPE} are "
                f"{value}, which transformers {transformers.__version__} cannot compute for a "
                f"{config.model_type!r} model; install transformers 5"
            )
        setattr(config, field, value)


def write_for_both(folder: Path) -> None:
    """Changes the files that ``save_pretrained`` wrote into such as both transformers read alike.

    Args:
        folder: a folder with ``config.json``, ``tokenizer_config.json`` or both.
    """
    if not NEWER:
        return
    file = folder / "tokenizer_config.json"
    written = _json(file)
    if written.get("tokenizer_class") == BACKEND:
        written["tokenizer_class"] = FAST
    if isinstance(tokens := written.get("extra_special_tokens"), list):
        del written["extra_special_tokens"]
        written["additional_special_tokens"] = tokens
    if written:
        file.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    file = folder / "config.json"
    config = _json(file)
    if isinstance(rope := config.get(ROPE), dict) and rope:
        config |= {field: value for field, value in _older(rope, None) if field is not None}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _older(rope: Mapping[str, Any], config: Any) -> Iterator[tuple[str | None, Any]]:
    """The fields of transformers 4 that say the same, with their values; None for the field where there is none.

    Args:
        rope: what transformers 5 has written.
        config: the config that has to know the fields; None for those that most do.
    """
    by_layer = all(isinstance(value, dict) for value in rope.values())
    for kind, given in rope.items() if by_layer else [("", rope)]:
        if given is None:
            continue
        rest = dict(given)
        theta, partial = rest.pop("rope_theta", None), rest.pop("partial_rotary_factor", None)
        names = THETA.get(kind, ())
        if config is None and not kind:
            names = names[:1]
        yield from _placed(names, theta, config, given)
        yield from _placed(PARTIAL if config is not None else PARTIAL[:1], partial, config, given)
        scaled = rest.get("rope_type", "default") != "default"
        if scaled and (kind == "sliding_attention" or (config is not None and not hasattr(config, "rope_scaling"))):
            yield None, given
        elif kind != "sliding_attention" and (config is None or hasattr(config, "rope_scaling")):
            yield "rope_scaling", rest if scaled else None


def _placed(
    names: tuple[str, ...], value: Any, config: Any, given: Mapping[str, Any]
) -> Iterator[tuple[str | None, Any]]:
    if value is None:
        return
    known = [name for name in names if config is None or hasattr(config, name)]
    yield from ((name, value) for name in known)
    if not known:
        yield None, given


def _json(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
