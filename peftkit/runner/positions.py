"""How many positions a model has for texts, and which lengths fit into them."""

from __future__ import annotations

import copy
import logging
import re
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from peftkit.components import ModelKind, Side
from peftkit.errors import Problem, RecipeError
from peftkit.recipe import Recipe
from peftkit.runner.forms.tokens import side_config

log = logging.getLogger(__name__)
TABLE = re.compile(r"(^|\.)(wpe|[^.]*pos(ition)?s?_?(emb|enc)[^.]*|embed_positions|positions_embed)(\.embedding)?$")
"""What models call their tables of positions."""
RELATIVE = re.compile(r"relative|rel_|distance|rotary")
GROWING = ("make_weights", "make_weight")
"""The methods of tables that are lengthened as texts need it."""
LENGTHENING = ("linear", "dynamic")
"""The scalings of rotary positions after which a model holds so many times what its config says."""


@dataclass(frozen=True)
class Positions:
    """How many positions the encoder and the decoder hold; None where there is no limit or no such side."""

    encoder: int | None = None
    decoder: int | None = None


@dataclass(frozen=True)
class Lengths:
    """The tokens of sources and targets that are kept, and the widest that batches of each side may be."""

    source: int
    target: int
    widest: Positions


def count_positions(config: Any, kind: ModelKind, auto_class: str, **options: Any) -> Positions:
    """How many positions a model holds: as many as its tables have rows, or else as its config says.

    Args:
        config: the model's.
        kind: what kind of model it is.
        auto_class: the transformers class that makes it.
        options: further arguments of ``from_config``.
    """
    tables = _tables(config, auto_class, options)
    sides: tuple[Side, ...] = ("encoder", "decoder") if kind == "encoder-decoder" else (kind,)
    found: dict[str, int | None] = {}
    for side in sides:
        said = _configured(config, side)
        rows = [number for name, number in tables.items() if len(sides) == 1 or _side(name) == side]
        if growing := any(number is None for number in rows):
            said = None
        numbers = [number for number in (*rows, said) if number is not None]
        found[side] = None if growing or not numbers else min(numbers)
    return Positions(**found)


def fit_lengths(recipe: Recipe, kind: ModelKind, positions: Positions) -> Lengths:
    """The lengths of the recipe, shortened to what the positions hold beside the method's own.

    Raises:
        RecipeError: no source, or not all that is to be generated, has room.
    """
    train, generates = recipe.train, type(recipe.task).kind == "generation"
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
            raise _without_room(recipe, longest, positions.decoder, virtual_decoder, " for a source")
    else:
        source = source if encoder is None else min(source, encoder)
        if source < 1:
            name = ("train.max_source_length", train.max_source_length)
            raise _without_room(recipe, name, positions.encoder, virtual_encoder, "")
    if kind == "encoder-decoder" and decoder is not None:
        if decoder < 1 or (generates and new > decoder):
            name = ("evaluate.max_new_tokens", new)
            raise _without_room(recipe, name, positions.decoder, virtual_decoder, "")
        target = min(target, decoder)
    return Lengths(source, target, Positions(encoder, decoder))


def _without_room(recipe: Recipe, key: tuple[str, int], number: int | None, virtual: int, what: str) -> RecipeError:
    name, value = key
    beside = f", of which {virtual} are the virtual tokens' of {recipe.method.name!r}" if virtual else ""
    text = f"{value} tokens leave no room{what} in the {number} positions of the model{beside}; lower it"
    if not what:
        text = f"{value} tokens are more than the {number} positions of the model hold{beside}; lower it"
    return RecipeError([Problem(recipe.model.name, None, name, text)])


def _tables(config: Any, auto_class: str, options: dict[str, Any]) -> dict[str, int | None]:
    """How many positions the tables of a model hold, by their names; None for one that grows."""
    try:
        with torch.device("meta"):
            model = getattr(transformers, auto_class).from_config(copy.deepcopy(config), **options)
    except Exception as error:  # a model's code that computes with its weights while it makes them
        log.info("the positions of the model are taken from its config: %s", error)
        return {}
    return table_positions(model)


def table_positions(model: nn.Module) -> dict[str, int | None]:
    """How many positions each of a model's tables holds, by its name; None for one that grows."""
    found: dict[str, int | None] = {}
    for name, module in model.named_modules():
        if TABLE.search(name) and not RELATIVE.search(name):
            if any(hasattr(module, method) for method in GROWING):
                found[name] = None
            elif isinstance(module, nn.Embedding):
                # RoBERTa begins after its padding id, OPT and BART at an offset of their own.
                begin = 0 if module.padding_idx is None else module.padding_idx + 1
                found[name] = module.num_embeddings - max(begin, int(getattr(module, "offset", 0)))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if TABLE.search(name) and not RELATIVE.search(name) and tensor.ndim == 2:
            found[name] = tensor.shape[0]
    return found


def _side(name: str) -> str:
    parts = name.split(".")
    return "decoder" if "decoder" in parts and "encoder" not in parts[: parts.index("decoder")] else "encoder"


def _configured(config: Any, side: Side) -> int | None:
    """How many positions a config says that side of the model has; None where positions are relative, as in T5."""
    part = side_config(config, side)
    if getattr(part, "alibi", False):
        return None
    names = (f"max_{side}_position_embeddings", "max_position_embeddings", "max_seq_len")  # LED's, most, MPT's
    number = next((n for name in names if (n := getattr(part, name, None)) is not None), None)
    if not isinstance(number, int) or number < 1:  # XLNet says -1 for none
        return None
    rope = getattr(part, "rope_parameters", None) or getattr(part, "rope_scaling", None) or {}
    kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor") or 1
    if kind in LENGTHENING:
        return int(number * factor)
    if kind == "yarn":
        return max(number, int((rope.get("original_max_position_embeddings") or number) * factor))
    return number
