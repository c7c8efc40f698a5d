"""Counts the positions of a model, and limits the lengths of sources and targets to them."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn

from peftkit.components import ModelKind, Side
from peftkit.errors import Problem, RecipeError
from peftkit.models.lengths import LONGER_SOURCES, LONGER_TARGETS
from peftkit.models.special_tokens import side_config
from peftkit.recipe import Recipe

log = logging.getLogger(__name__)
TABLE = re.compile(r"(^|\.)(wpe|[^.]*pos(ition)?s?_?(emb|enc)[^.]*|embed_positions|positions_embed)(\.embedding)?$")
"""Names of the modules and tensors that hold absolute position embeddings."""
RELATIVE = re.compile(r"relative|rel_|distance|rotary")
"""Names of relative and rotary position embeddings, which limit nothing."""
GROWING = ("make_weights", "make_weight")
"""Methods of position embeddings that grow on demand."""
WINDOWED = ("led",)
"""Model types that pad their encoder's input to a multiple of ``attention_window``; the padding takes positions too."""
LENGTHENING = ("linear",)
"""RoPE scaling types whose factor multiplies ``max_position_embeddings``."""
SWITCHING = ("dynamic", "longrope", "su")
"""RoPE scaling types that change the frequencies of all texts of a batch if one of them has more positions."""


@dataclass(frozen=True)
class Positions:
    """Number of positions of a model; None for a side that is unlimited or missing.

    Attributes:
        encoder: positions of the encoder.
        decoder: positions of the decoder.
        limit: why there are not more, if that is not obvious.
    """

    encoder: int | None = None
    decoder: int | None = None
    limit: str = field(default="", compare=False)


@dataclass(frozen=True)
class Lengths:
    """Maximum lengths of texts in tokens.

    Attributes:
        source: maximum length of sources.
        target: maximum length of targets.
        padded: maximum padded length of each side.
        source_remedy: what to do about longer sources.
        target_remedy: what to do about longer targets.
    """

    source: int
    target: int
    padded: Positions
    source_remedy: str = LONGER_SOURCES
    target_remedy: str = LONGER_TARGETS


def count_positions(config: Any, kind: ModelKind, auto_class: str, **options: Any) -> Positions:
    """Count the positions of a model by the size of its position embeddings, or otherwise by its config.

    Args:
        config: the model's config.
        kind: the model's architecture.
        auto_class: name of the transformers class that builds it.
        options: further arguments of ``from_config``.
    """
    tables = _build_and_measure_tables(config, auto_class, options)
    sides: tuple[Side, ...] = ("encoder", "decoder") if kind == "encoder-decoder" else (kind,)
    by_side: dict[str, int | None] = {}
    for side in sides:
        configured = _configured_positions(config, side)
        sizes = [size for name, size in tables.items() if len(sides) == 1 or _side_of_module(name) == side]
        if growing := any(size is None for size in sizes):
            configured = None
        limits = [size for size in (*sizes, configured) if size is not None]
        by_side[side] = None if growing or not limits else min(limits)
    if config.model_type in WINDOWED and (available := by_side.get("encoder")):
        by_side["encoder"] = available - available % _window(config)
    kinds = {rope_type for side in sides for rope_type, _ in _switches(side_config(config, side))}
    limit = f"beyond them, {min(kinds)!r} scaling changes how the other texts of a batch are read" if kinds else ""
    return Positions(by_side.get("encoder"), by_side.get("decoder"), limit)


def _window(config: Any) -> int:
    """Return the number of positions to a multiple of which the model pads its inputs."""
    windows = config.attention_window
    return max(windows) if isinstance(windows, (list, tuple)) else int(windows)


def fit_lengths(recipe: Recipe, kind: ModelKind, positions: Positions, *, generates: bool) -> Lengths:
    """Limit the recipe's lengths to the positions that the method's virtual tokens leave.

    Args:
        recipe: the recipe.
        kind: the model's architecture.
        positions: the model's positions.
        generates: whether texts are generated.

    Raises:
        RecipeError: there is no room for any source, or not for all tokens to generate.
    """
    train = recipe.train
    virtual = recipe.method.virtual_tokens(kind)
    virtual_encoder, virtual_decoder = virtual.get("encoder", 0), virtual.get("decoder", 0)
    encoder = None if positions.encoder is None else positions.encoder - virtual_encoder
    decoder = None if positions.decoder is None else positions.decoder - virtual_decoder
    source, target, new = train.max_source_length, train.max_target_length, recipe.evaluate.max_new_tokens
    longest = ("evaluate.max_new_tokens", new) if generates and new > target else ("train.max_target_length", target)
    if kind == "decoder":
        if decoder is not None:
            source = min(source, decoder - longest[1])
        if source < 1:
            raise _no_room_error(recipe, longest, positions.decoder, virtual_decoder, for_source=True)
    else:
        source = source if encoder is None else min(source, encoder)
        if source < 1:
            key = ("train.max_source_length", train.max_source_length)
            raise _no_room_error(recipe, key, positions.encoder, virtual_encoder)
    if kind == "encoder-decoder" and decoder is not None:
        if decoder < 1 or (generates and new > decoder):
            key = ("evaluate.max_new_tokens", new)
            raise _no_room_error(recipe, key, positions.decoder, virtual_decoder)
        target = min(target, decoder)
    return Lengths(
        source,
        target,
        Positions(encoder, decoder),
        LONGER_SOURCES if source == train.max_source_length else _shorter(recipe, kind, positions, longest),
        LONGER_TARGETS if target == train.max_target_length else _shorter(recipe, kind, positions, None),
    )


def _shorter(recipe: Recipe, kind: ModelKind, positions: Positions, reserved: tuple[str, int] | None) -> str:
    """Return what to do about texts that are limited by the model's positions, some of which may be reserved.

    Args:
        recipe: the recipe.
        kind: the model's architecture.
        positions: the model's positions.
        reserved: in a decoder, the key and the number of tokens after the source; None for targets.
    """
    side: Side = "encoder" if kind != "decoder" and reserved is not None else "decoder"
    number, virtual = getattr(positions, side), recipe.method.virtual_tokens(kind).get(side, 0)
    uses = [f"{recipe.method.name!r} uses {virtual} for virtual tokens"] if virtual else []
    lower = ""
    if kind == "decoder" and reserved is not None:
        uses.append(f"{reserved[0]} reserves {reserved[1]}")
        lower = f"lower {reserved[0]}, "
    of_which = f", of which {' and '.join(uses)}" if uses else ""
    of_which += f" ({positions.limit})" if positions.limit else ""
    return f"the model has only {number} positions{of_which}; {lower}shorten the text, or use a model with more"


def _no_room_error(
    recipe: Recipe, key: tuple[str, int], positions: int | None, virtual: int, *, for_source: bool = False
) -> RecipeError:
    """Build the error for a length, given by its key and value, that the model's positions do not allow."""
    name, tokens = key
    used = f", of which {recipe.method.name!r} uses {virtual} for virtual tokens" if virtual else ""
    text = f"{tokens} tokens exceed the model's {positions} positions{used}; lower it"
    if for_source:
        text = f"{tokens} tokens leave no room for a source in the model's {positions} positions{used}; lower it"
    return RecipeError([Problem(recipe.model.name, None, name, text)])


def _build_and_measure_tables(config: Any, auto_class: str, options: dict[str, Any]) -> dict[str, int | None]:
    """Build the model on ``meta`` and measure its position embeddings; empty if it cannot be built there."""
    try:
        with torch.device("meta"):
            model = getattr(transformers, auto_class).from_config(copy.deepcopy(config), **options)
    except Exception as error:  # custom code may compute with weights during construction
        log.info("the model's positions are read from its config: %s", error)
        return {}
    return table_positions(model)


def table_positions(model: nn.Module) -> dict[str, int | None]:
    """Return the number of positions of each position embedding, by name; None for one that grows on demand."""
    sizes: dict[str, int | None] = {}
    for name, module in model.named_modules():
        if TABLE.search(name) and not RELATIVE.search(name):
            if any(hasattr(module, method) for method in GROWING):
                sizes[name] = None
            elif isinstance(module, nn.Embedding):
                # RoBERTa's positions start after the padding id, those of OPT and BART at an offset.
                first = 0 if module.padding_idx is None else module.padding_idx + 1
                sizes[name] = module.num_embeddings - max(first, int(getattr(module, "offset", 0)))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if TABLE.search(name) and not RELATIVE.search(name) and tensor.ndim == 2:
            sizes[name] = tensor.shape[0]
    return sizes


def _side_of_module(name: str) -> str:
    parts = name.split(".")
    return "decoder" if "decoder" in parts and "encoder" not in parts[: parts.index("decoder")] else "encoder"


def _configured_positions(config: Any, side: Side) -> int | None:
    """Return the positions of one side according to the config; None if positions are relative, as in T5."""
    part = side_config(config, side)
    if getattr(part, "alibi", False):
        return None
    names = (f"max_{side}_position_embeddings", "max_position_embeddings", "max_seq_len")  # LED, most models, MPT
    number = next((n for name in names if (n := getattr(part, name, None)) is not None), None)
    if not isinstance(number, int) or number < 1:  # XLNet has -1 for unlimited
        return None
    switches = [limit or number for _, limit in _switches(part)]
    if switches:
        return min(number, *switches)
    rope = _rope_settings(part)
    kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor") or 1
    if kind in LENGTHENING:
        return int(number * factor)
    if kind == "yarn":
        return max(number, int((rope.get("original_max_position_embeddings") or number) * factor))
    return number


def _rope_settings(config: Any) -> dict[str, Any]:
    return getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}


def _switches(config: Any) -> Iterator[tuple[str, int | None]]:
    """Yield the RoPE scaling types that depend on the longest text of a batch, and up to which length they do not."""
    rope = _rope_settings(config)
    layers = [each for each in rope.values() if isinstance(each, dict)]  # by the type of layers, or for all
    for each in (rope, *layers):
        kind = each.get("rope_type", each.get("type"))
        if isinstance(kind, str) and kind in SWITCHING:
            original = each.get("original_max_position_embeddings")
            yield kind, original or getattr(config, "original_max_position_embeddings", None)
