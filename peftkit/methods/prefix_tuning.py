"""Prefix tuning, as peft has it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from peftkit.components import Context, Refusal
from peftkit.methods._peft import PromptMethod

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


def _encoders() -> frozenset[str]:
    """The encoders whose attention takes a prefix: most have no cache of keys and values to put it into."""
    found = {"bert", "ernie", "megatron-bert", "rembert"}
    if int(version("transformers").split(".")[0]) >= 5:
        found |= {"camembert", "data2vec-text", "electra", "roberta", "roberta-prelayernorm", "xlm-roberta"}
        found |= {"xlm-roberta-xl", "xmod"}
    return frozenset(found)


class LearntCache(PromptMethod):
    """A method that puts learnt keys and values before those of the text, in every layer.

    In an encoder-decoder such as T5 peft puts them into **the decoder's self-attention only**, not into the encoder and
    not into the cross-attention. Where positions are learnt (BERT, GPT-2), they take ``num_virtual_tokens`` of them
    from the text. Generation uses the cache, which carries them.
    """

    before_embeddings: ClassVar[bool] = False
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(
            lambda s: s.gradient_checkpointing,
            "the prefix lies in the attention cache, which gradient checkpointing switches off",
            "set train.gradient_checkpointing = false",
        ),
        Refusal(
            lambda s: s.model_kind == "encoder" and bool(s.model_type) and s.model_type not in _encoders(),
            "peft cannot put a prefix into this encoder with the installed transformers",
            "use a BERT model (transformers 5 adds RoBERTa and ELECTRA), or another method",
        ),
    )

    def config(self, model: nn.Module, context: Context) -> PeftConfig:
        """peft's configuration, with the shape of the decoder's cache."""
        config = super().config(model, context)
        if context.model_kind == "encoder-decoder":
            for key, value in decoder_shape(cast(Any, model).config.to_dict()).items():
                setattr(config, key, value)
        return config

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Wraps the model into a ``PeftModel`` that trains the prefix and, on an encoder, its head."""
        wrapped: Any = super().apply(model, context)
        if context.model_kind == "encoder-decoder":
            wrapped.base_model.register_forward_pre_hook(_without_cache_position, with_kwargs=True)
        if context.model_kind != "encoder":
            # Without a cache the prefix would be lost at every token but the first, in silence.
            wrapped.generate = MethodType(_generate_with_cache, wrapped)
        return cast("nn.Module", wrapped)


class PrefixTuning(LearntCache):
    """Learnt keys and values before those of the text, in every layer (Li and Liang, 2021).

    This is peft's prefix tuning: in an encoder-decoder such as T5 it reaches **the decoder's self-attention only**,
    not the encoder and not the cross-attention, unlike the paper's. Where positions are learnt (BERT, GPT-2), the
    prefix takes ``num_virtual_tokens`` of them from the text. Generation uses the cache, which carries the prefix.
    """

    peft_type: ClassVar[str] = "PREFIX_TUNING"

    name: Literal["prefix_tuning"] = "prefix_tuning"
    prefix_projection: bool = False
    """Whether a two-layer network makes the prefix while training, as in the paper; it is not needed afterwards."""
    encoder_hidden_size: int | None = Field(default=None, gt=0)
    """The width of that network; unset for the model's."""
    init_weights: Literal["zero"] | None = None
    """`zero` begins with a prefix of zeros, unset with a random one."""

    def made_by_network(self) -> bool:
        """Whether the prefix is projected."""
        return self.prefix_projection


def _generate_with_cache(model: Any, *args: Any, **kwargs: Any) -> Any:
    return type(model).generate(model, *args, **{**kwargs, "use_cache": True})


def decoder_shape(config: Mapping[str, Any]) -> dict[str, int]:
    """The layers, heads and width of a decoder's cache, as peft calls them, where the model's config says them.

    peft takes them from the encoder, and the width from the hidden states; t5-3b and flan-t5-small have others.
    """
    layers = config.get("num_decoder_layers") or config.get("decoder_layers")
    heads = config.get("decoder_attention_heads") or config.get("num_heads")
    shape = {"num_layers": layers, "num_attention_heads": heads}
    if heads and config.get("d_kv"):
        shape["token_dim"] = heads * config["d_kv"]
    return {key: value for key, value in shape.items() if value}


def _without_cache_position(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Lets the decoder count its positions from the cache: transformers 4's ``generate`` counts without the prefix."""
    return args, {**kwargs, "cache_position": None} if "cache_position" in kwargs else kwargs
