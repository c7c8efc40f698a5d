"""Prefix tuning."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from peftkit.components import ApplyContext, Incompatibility, RunSpec
from peftkit.errors import InputError
from peftkit.methods.peft_base import PromptMethod

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


def _supported_encoders() -> frozenset[str]:
    """Return the encoders whose attention accepts a prefix, in a cache of keys and values that most do not have."""
    supported = {"bert", "ernie", "megatron-bert", "rembert"}
    if int(version("transformers").split(".")[0]) >= 5:
        supported |= {"camembert", "data2vec-text", "electra", "roberta", "roberta-prelayernorm", "xlm-roberta"}
        supported |= {"xlm-roberta-xl", "xmod"}
    return frozenset(supported)


class LearnedKVPrefix(PromptMethod):
    """Base class of methods that train keys and values in front of those of the text, in every layer.

    In encoder-decoders such as T5, peft adds them to **the decoder's self-attention only**, and not to the encoder or
    the cross-attention. In models with learned positions (BERT, GPT-2), they use ``num_virtual_tokens`` positions that
    the text could use. Generation needs the KV cache, which holds them.
    """

    prepends_embeddings: ClassVar[bool] = False
    incompatibilities: ClassVar[tuple[Incompatibility, ...]] = (
        Incompatibility(
            lambda s: s.gradient_checkpointing,
            "the prefix is stored in the KV cache, which gradient checkpointing disables",
            "set train.gradient_checkpointing = false",
        ),
        Incompatibility(
            lambda s: s.model_kind == "encoder" and bool(s.model_type) and s.model_type not in _supported_encoders(),
            "peft does not support a prefix in this encoder with the installed transformers",
            "use a BERT model (or, with transformers 5, RoBERTa or ELECTRA), or another method",
        ),
    )

    init_kv_cache_prefix: str | None = Field(default=None, min_length=1)
    """A text whose keys and values in the frozen model initialize the prefix, for decoders only; its first
    `num_virtual_tokens` tokens are used (named as in peft's method comparison)."""

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe, each with its remedy."""
        reasons = super().incompatible_with(spec)
        if self.init_kv_cache_prefix is not None and spec.model_kind in ("encoder", "encoder-decoder"):
            reasons.append(
                "init_kv_cache_prefix needs a decoder, which has keys and values of a text alone; leave it out"
            )
        return reasons

    def options(self, model: nn.Module, context: ApplyContext) -> dict[str, Any]:
        """Return peft's options, without ``init_kv_cache_prefix``."""
        return {key: value for key, value in super().options(model, context).items() if key != "init_kv_cache_prefix"}

    def config(self, model: nn.Module, context: ApplyContext) -> PeftConfig:
        """Return peft's configuration with the shape of the decoder's cache."""
        config = super().config(model, context)
        if context.model_kind == "encoder-decoder":
            for key, value in decoder_shape(cast(Any, model).config.to_dict()).items():
                setattr(config, key, value)
        return config

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Wrap the model into a ``PeftModel`` that trains the prefix and, on an encoder, its head.

        Raises:
            InputError: peft rejects the options for this model, or the initial text is shorter than the prefix.
        """
        text = self.init_kv_cache_prefix
        cache = None if text is None else cache_of_text(model, text, self.num_virtual_tokens)
        wrapped: Any = super().apply(model, context)
        if cache is not None:
            from peft import initialize_kv_prefix_from_past_key_values

            initialize_kv_prefix_from_past_key_values(wrapped, past_key_values=cache)
        if context.model_kind == "encoder-decoder":
            wrapped.base_model.register_forward_pre_hook(_drop_cache_position, with_kwargs=True)
        if context.model_kind != "encoder":
            # Without a cache, the prefix would silently be missing at every token but the first.
            wrapped.generate = MethodType(_generate_with_cache, wrapped)
        return cast("nn.Module", wrapped)


class PrefixTuning(LearnedKVPrefix):
    """Trained keys and values in front of those of the text, in every layer (Li and Liang, 2021).

    In encoder-decoders such as T5, peft adds the prefix to **the decoder's self-attention only**, and unlike the paper
    not to the encoder or the cross-attention. In models with learned positions (BERT, GPT-2), it uses
    ``num_virtual_tokens`` positions that the text could use. Generation needs the KV cache, which holds the prefix.
    """

    peft_type: ClassVar[str] = "PREFIX_TUNING"

    name: Literal["prefix_tuning"] = "prefix_tuning"
    prefix_projection: bool = False
    """Whether to reparameterize the prefix by a two-layer network during training, as in the paper."""
    encoder_hidden_size: int | None = Field(default=None, gt=0)
    """The hidden size of that network; by default the model's."""
    init_weights: Literal["zero"] | None = None
    """`zero` initializes the prefix with zeros; by default it is random."""

    @model_validator(mode="after")
    def _check_initial_text(self) -> Self:
        for option in ("prefix_projection", "init_weights"):
            if self.init_kv_cache_prefix is not None and getattr(self, option):
                raise ValueError(f"init_kv_cache_prefix does not work with {option}; use one of them")
        return self

    def reparameterized(self) -> bool:
        """Return whether the prefix is reparameterized."""
        return self.prefix_projection


def cache_of_text(model: nn.Module, text: str, length: int) -> Any:
    """Return the keys and values of a text in a decoder, whose tokenizer is loaded from where the model was.

    On ``meta``, return None.

    Args:
        model: The base model.
        text: The text.
        length: The number of tokens that are needed.

    Raises:
        InputError: The text has fewer tokens.
    """
    import torch
    from transformers import AutoTokenizer

    transformer, training = cast(Any, model), model.training
    ids = AutoTokenizer.from_pretrained(transformer.config._name_or_path)(text, return_tensors="pt")["input_ids"]
    if ids.shape[1] < length:
        raise InputError(
            f"method.init_kv_cache_prefix: has {ids.shape[1]} tokens, fewer than num_virtual_tokens = {length}; "
            "lower num_virtual_tokens, or use a longer text"
        )
    device = next(model.parameters()).device
    if device.type == "meta":  # where only shapes matter
        return None
    ids = ids[:, :length].to(device)
    try:
        with torch.no_grad():
            return transformer.eval()(input_ids=ids, use_cache=True).past_key_values
    finally:
        model.train(training)


def _generate_with_cache(model: Any, *args: Any, **kwargs: Any) -> Any:
    return type(model).generate(model, *args, **{**kwargs, "use_cache": True})


def decoder_shape(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the shape of a decoder's cache under peft's names, as far as the model's config has it.

    peft uses the encoder's layers and heads and the hidden size, which are not those of the decoder's cache in t5-3b
    and flan-t5-small.
    """
    layers = config.get("num_decoder_layers") or config.get("decoder_layers")
    heads = config.get("decoder_attention_heads") or config.get("num_heads")
    shape = {"num_layers": layers, "num_attention_heads": heads}
    if heads and config.get("d_kv"):
        shape["token_dim"] = heads * config["d_kv"]
    return {key: value for key, value in shape.items() if value}


def _drop_cache_position(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Drop ``cache_position``, so that the decoder counts the prefix, which ``generate`` of transformers 4 does not."""
    return args, {**kwargs, "cache_position": None} if "cache_position" in kwargs else kwargs
