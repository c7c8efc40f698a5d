"""Base classes by configuration class of the library: their options, validation, merging and fixes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from peftkit import Incompatibility, PublishedRate, RunSpec
from peftkit.components import ModelKind, Side
from peftkit.methods.published_learning_rates import PEFT_LEARNING_RATES
from peftkit_adapters.adapter_method import ADAPTER, MODEL_TYPES, AdapterMethod
from peftkit_adapters.config_options import config_options

if TYPE_CHECKING:
    from torch import nn

PHM = frozenset(name for name in config_options("BnConfig") if "phm" in name.lower()) | {"hypercomplex_nonlinearity"}
INVERTIBLE = frozenset({"inv_adapter", "inv_adapter_reduction_factor"})
GATED = frozenset({"use_gating", "shared_gating"})
HOOK_MODELS = ("gemma2", "gemma3_text", "qwen2", "qwen3")
"""The models that the library adapts by hooks, which support fewer methods than its own model code."""
PROMPT_MODELS = ("albert", "bert", "bert-generation", "deberta-v2", "distilbert", "electra", "roberta", "xlm-roberta")
"""The models for which the library supports prompt tuning."""
HE_REPOSITORY = "jxhe/unify-parameter-efficient-tuning"
LIBRARY_REPOSITORY = "adapter-hub/adapters (2026)"
RECOMMENDED_RATE = PublishedRate((1e-4,), f"{LIBRARY_REPOSITORY}: docs/training.md, for adapters of any kind")
"""The learning rate that the library's documentation recommends."""
HOULSBY_RATES = (
    PublishedRate((3e-5, 3e-4, 3e-3), "Houlsby et al. (2019): section 3.2", "Adam"),
    PublishedRate((3e-4,), "Houlsby et al. (2019): README.md in google-research/adapter-bert"),
)
TINY_BOTTLENECK: Mapping[str, Any] = {"reduction_factor": 2.0}
"""Options with which a bottleneck fits a model with a hidden size of 32."""


class Bottleneck(AdapterMethod):
    """Bottleneck layers after or parallel to those of the model."""

    configuration = "BnConfig"
    excluded_options = PHM | INVERTIBLE | GATED | {"is_parallel", "stochastic_depth"}
    tiny_options: ClassVar[Mapping[str, Any]] = TINY_BOTTLENECK

    @model_validator(mode="after")
    def _check_trains_something(self) -> Self:
        if self.value("output_adapter") is not None and not self.slots():
            raise ValueError("mh_adapter and output_adapter are both false: nothing would be trained")
        return self

    def slots(self) -> Sequence[str]:
        """Return the positions of the bottlenecks."""
        slots = {
            "mh_adapter": "a bottleneck at the attention",
            "output_adapter": "a bottleneck at the feed-forward layer",
            "cross_adapter": "a bottleneck at the cross-attention",
        }
        return [text for option, text in slots.items() if self.value(option)]

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe, each with its remedy."""
        reasons = super().incompatible_with(spec)
        if self.value("cross_adapter") and spec.model_kind not in (None, "encoder-decoder"):
            reasons.append("only encoder-decoders have cross-attention; leave out cross_adapter")
        if spec.model_type in HOOK_MODELS:
            if spec.gradient_checkpointing:
                reasons.append(
                    f"the library's bottlenecks have wrong gradients in {spec.model_type!r} with gradient "
                    "checkpointing; set train.gradient_checkpointing = false"
                )
            if self.value("original_ln_after") is False:
                reasons.append(
                    f"the library does not support bottlenecks before the last normalization of {spec.model_type!r}; "
                    "set original_ln_after = true, or use bottleneck"
                )
        return reasons


class Parallel(Bottleneck):
    """Bottlenecks parallel to the layers, outside the model's residual connections and layer norms."""

    configuration = "ParBnConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((5e-5,), f"He et al. (2022): exps/run_xsum.sh in {HE_REPOSITORY}"),
        PublishedRate((1e-4,), f"He et al. (2022): exps/run_glue.sh in {HE_REPOSITORY}"),
    )
    excluded_options = Bottleneck.excluded_options | {
        *("original_ln_before", "original_ln_after", "residual_before_ln", "adapter_residual_before_ln"),
    }


class Sequential(Bottleneck):
    """Bottlenecks after the layers, in one of two variants."""

    configuration = "SeqBnConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        *HOULSBY_RATES,
        RECOMMENDED_RATE,
    )
    variants: ClassVar[Mapping[str, str]] = {"pfeiffer": "SeqBnConfig", "houlsby": "DoubleSeqBnConfig"}

    variant: Literal["pfeiffer", "houlsby"] = Field(
        default="pfeiffer",
        description="pfeiffer: after each feed-forward layer (Pfeiffer et al., 2020); houlsby: also after the "
        "attention (Houlsby et al., 2019). The variant also determines the defaults of other options.",
    )

    def config_class(self) -> str:
        """Return the name of the variant's configuration class."""
        return self.variants[self.variant]

    def options(self) -> dict[str, Any]:
        """Return the arguments of the configuration."""
        return {key: value for key, value in super().options().items() if key != "variant"}


class Invertible(Sequential):
    """Sequential bottlenecks with an invertible layer after the embeddings."""

    configuration = "SeqBnInvConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((1e-4,), f"{LIBRARY_REPOSITORY}: docs/training.md, for language adapters"),
    )
    variants: ClassVar[Mapping[str, str]] = {"pfeiffer": "SeqBnInvConfig", "houlsby": "DoubleSeqBnInvConfig"}
    # inv_adapter stays excluded: its other value, glow, fails in the first forward pass.
    excluded_options = Sequential.excluded_options - {"inv_adapter_reduction_factor"}


class Compacter(Bottleneck):
    """Bottlenecks whose weights are sums of Kronecker products."""

    configuration = "CompacterConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((3e-3,), "Karimi Mahabadi et al. (2021): seq2seq/configs/compacter.json in rabeehk/compacter"),
    )
    uses_forward_context = True  # for the matrices that layers share
    excluded_options = (Bottleneck.excluded_options - PHM) | {"phm_layer"}


class CompacterPlusPlus(Compacter):
    """Compacter after the feed-forward layers only."""

    configuration = "CompacterPlusPlusConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((3e-3,), "Karimi Mahabadi et al. (2021): seq2seq/configs/compacter++.json in rabeehk/compacter"),
    )


class Plus(Bottleneck):
    """Bottlenecks with a scale for each channel."""

    configuration = "AdapterPlusConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((1e-3,), "Steitz and Roth (2024): conf/train/optimizer/adamw.yaml in visinf/adapter_plus"),
        PublishedRate((1e-2,), f"{LIBRARY_REPOSITORY}: notebooks/ViT_AdapterPlus_FineTuning.ipynb"),
    )
    excluded_options = Bottleneck.excluded_options - {"stochastic_depth"}

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe, each with its remedy."""
        reasons = super().incompatible_with(spec)
        if self.value("stochastic_depth") and find_spec("torchvision") is None:
            reasons.append("stochastic_depth needs torchvision, which is not installed; install it, or set 0")
        return reasons


class PrefixTuning(AdapterMethod):
    """Trained keys and values in front of those of the text."""

    configuration = "PrefixTuningConfig"
    search_space, published_rates = PEFT_LEARNING_RATES["prefix_tuning"]
    slot = "prefix tuning"
    excluded_options = GATED
    needs_eager_attention = True
    uses_forward_context = True
    tiny_options: ClassVar[Mapping[str, Any]] = {"bottleneck_size": 16}

    incompatibilities = (
        *AdapterMethod.incompatibilities,
        Incompatibility(
            lambda s: s.model_type in HOOK_MODELS,
            "the adapters library does not support prefix tuning of this model type",
            f"use one of {', '.join(sorted(set(MODEL_TYPES) - set(HOOK_MODELS)))}, or peft's prefix_tuning",
        ),
        Incompatibility(
            lambda s: s.model_type == "distilbert",
            "DistilBERT's attention does not accept the library's mask of the prefix",
            "use a BERT or RoBERTa model, or another method",
        ),
    )

    def virtual_tokens(self, model_kind: ModelKind) -> Mapping[Side, int]:
        """Return the length of a decoder's prefix, because GPT-2's mask covers its positions only."""
        return {"decoder": int(self.value("prefix_length"))} if model_kind == "decoder" else {}


class PromptTuning(AdapterMethod):
    """Trained vectors in front of those of the text."""

    configuration = "PromptTuningConfig"
    slot = "prompt tuning"
    search_space, published_rates = PEFT_LEARNING_RATES["prompt_tuning"]
    uses_forward_context = True
    excluded_options = frozenset({"prompt_init", "prompt_init_text"})  # would load a tokenizer from a hub
    option_types: ClassVar[Mapping[str, Any]] = {"combine": Literal["prefix", "prefix_after_bos"]}

    incompatibilities = (
        *AdapterMethod.incompatibilities,
        Incompatibility(
            lambda s: s.model_type in set(MODEL_TYPES) - set(PROMPT_MODELS),
            "the adapters library does not support prompt tuning of this model type",
            f"use one of {', '.join(PROMPT_MODELS)}, or peft's prompt_tuning",
        ),
    )


class Lora(AdapterMethod):
    """Low-rank updates, which can be merged."""

    configuration = "LoRAConfig"
    mergeable = True
    search_space, published_rates = PEFT_LEARNING_RATES["lora"]
    slot = "updates of the weights"
    excluded_options = GATED | {"composition_mode", "vera_d", "vera_b"}
    option_types: ClassVar[Mapping[str, Any]] = {"init_weights": Literal["lora", "bert"]}
    merge_tolerance = 1e-4

    @model_validator(mode="after")
    def _check_trains_something(self) -> Self:
        if all(self.value(option) is False for option in ("selfattn_lora", "intermediate_lora", "output_lora")):
            raise ValueError("selfattn_lora, intermediate_lora and output_lora are all false: nothing would be trained")
        return self

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe, each with its remedy."""
        reasons = super().incompatible_with(spec)
        if self.value("use_dora") and spec.model_type == "gpt2":
            reasons.append(
                "the library's DoRA does not support the transposed layers of 'gpt2'; leave out use_dora, or use lora"
            )
        return reasons

    def merge(self, model: nn.Module) -> nn.Module:
        """Merge the updates, and copy the weights to a model of the original class."""
        merged = cast(Any, model)
        for module in merged.modules():
            if ADAPTER in getattr(module, "loras", {}):
                self.merge_bias(module, module.loras[ADAPTER])
        merged.merge_adapter(ADAPTER)
        base_class, config = merged.peftkit_base
        plain: nn.Module = base_class(config).to(merged.dtype)
        state = model.state_dict()
        plain.load_state_dict({key: state[key] for key in plain.state_dict()})
        return plain.to(merged.device).train(model.training)

    def merge_bias(self, layer: Any, update: Any) -> None:
        """Scale the bias for DoRA, which scales the whole output of a layer; the library does not merge it.

        Args:
            layer: The linear layer.
            update: Its LoRA module.
        """
        if getattr(update, "use_dora", False) and layer.bias is not None:
            from adapters.methods.lora import compute_dora_norm

            norm = compute_dora_norm(layer.weight, update.delta_w).reshape(-1)
            layer.bias.data *= (update.m.weight.reshape(-1) / norm).detach()


class Ia3(Lora):
    """Trained scales of keys, values and the inner activations of feed-forward layers."""

    configuration = "IA3Config"
    search_space, published_rates = PEFT_LEARNING_RATES["ia3"]
    # The rank is 1, and the library rejects other values.
    excluded_options = Lora.excluded_options | {"r", "alpha", "dropout", "use_dora", "init_weights"}

    def merge_bias(self, layer: Any, update: Any) -> None:
        """Scale the bias, because the scales apply to the whole output of a layer."""
        if layer.bias is not None:
            scale = update.lora_B.detach().reshape(1, -1)
            scale = layer.pad(scale, update) if hasattr(layer, "pad") else scale
            layer.bias.data *= scale.reshape(-1) * update.scaling
