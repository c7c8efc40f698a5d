"""The kinds of methods: which of the library's options each has, and what peftkit knows of it beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from peftkit import PublishedRate, Refusal, Situation
from peftkit.components import ModelKind, Side
from peftkit.methods.published import PEFT
from peftkit_adapters.family import ADAPTER, MODEL_TYPES, AdapterMethod
from peftkit_adapters.reader import options

if TYPE_CHECKING:
    from torch import Tensor, nn

PHM = frozenset(name for name in options("BnConfig") if "phm" in name.lower()) | {"hypercomplex_nonlinearity"}
INVERTIBLE = frozenset({"inv_adapter", "inv_adapter_reduction_factor"})
GATED = frozenset({"use_gating", "shared_gating"})
HOOKED = ("gemma2", "gemma3_text", "qwen2", "qwen3")
"""The models of which the library changes no code, but listens to their layers; not all can be done so."""
PROMPTED = ("albert", "bert", "bert-generation", "deberta-v2", "distilbert", "electra", "roberta", "xlm-roberta")
"""The models before whose texts the library puts prompts."""
HE = "jxhe/unify-parameter-efficient-tuning"
LIBRARY = "adapter-hub/adapters (2026)"
BY_DEFAULT = PublishedRate((1e-4,), f"{LIBRARY}: docs/training.md, for adapters of any kind")
"""The learning rate that the library's documentation recommends."""
NARROW: Mapping[str, Any] = {"reduction_factor": 2.0}
"""With which a bottleneck fits a model of width 32."""


class Bottleneck(AdapterMethod):
    """Layers that narrow and widen, put behind or beside those of the model."""

    configuration = "BnConfig"
    without = PHM | INVERTIBLE | GATED | {"is_parallel", "stochastic_depth"}
    trial: ClassVar[Mapping[str, Any]] = NARROW

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.value("output_adapter") is not None and not self.places():
            raise ValueError("mh_adapter and output_adapter are both false, so that nothing would be trained")
        return self

    def places(self) -> Sequence[str]:
        """Where the layers are put."""
        where = {
            "mh_adapter": "a bottleneck at the attention",
            "output_adapter": "a bottleneck at the feed-forward layer",
            "cross_adapter": "a bottleneck at the cross-attention",
        }
        return [text for option, text in where.items() if self.value(option)]

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so."""
        reasons = super().refuses(situation)
        if self.value("cross_adapter") and situation.model_kind not in (None, "encoder-decoder"):
            reasons.append("only an encoder-decoder has cross-attention; leave out cross_adapter")
        if situation.model_type in HOOKED:
            if situation.gradient_checkpointing:
                reasons.append(
                    f"in {situation.model_type!r} the library's bottlenecks have other gradients when a block is "
                    "computed once more; set train.gradient_checkpointing = false"
                )
            if self.value("original_ln_after") is False:
                reasons.append(
                    f"the library cannot put bottlenecks before the last normalisation of {situation.model_type!r}; "
                    "set original_ln_after = true, or use bottleneck"
                )
        return reasons


class Parallel(Bottleneck):
    """Beside the layers: no residual connection and no layer normalisation of the model's is around it."""

    configuration = "ParBnConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((5e-5,), f"He et al. (2022): exps/run_xsum.sh in {HE}"),
        PublishedRate((1e-4,), f"He et al. (2022): exps/run_glue.sh in {HE}"),
    )
    without = Bottleneck.without | {
        *("original_ln_before", "original_ln_after", "residual_before_ln", "adapter_residual_before_ln"),
    }


class Sequential(Bottleneck):
    """Behind the layers, in one of two forms."""

    configuration = "SeqBnConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((3e-5, 3e-4, 3e-3), "Houlsby et al. (2019): section 3.2", "Adam"),
        PublishedRate((3e-4,), "Houlsby et al. (2019): README.md in google-research/adapter-bert"),
        BY_DEFAULT,
    )
    variants: ClassVar[Mapping[str, str]] = {"pfeiffer": "SeqBnConfig", "houlsby": "DoubleSeqBnConfig"}

    variant: Literal["pfeiffer", "houlsby"] = Field(
        default="pfeiffer",
        description="pfeiffer: one behind each feed-forward layer (Pfeiffer et al., 2020); houlsby: one behind the "
        "attention too (Houlsby et al., 2019). Other options, left unset, are as the variant has them.",
    )

    def configured(self) -> str:
        """The library's name of the variant's configuration."""
        return self.variants[self.variant]

    def options(self) -> dict[str, Any]:
        """What the configuration is made with."""
        return {key: value for key, value in super().options().items() if key != "variant"}


class Invertible(Sequential):
    """With an invertible layer behind the embeddings."""

    configuration = "SeqBnInvConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((1e-4,), f"{LIBRARY}: docs/training.md, for language adapters"),
    )
    variants: ClassVar[Mapping[str, str]] = {"pfeiffer": "SeqBnInvConfig", "houlsby": "DoubleSeqBnInvConfig"}
    # The library's other sort, glow, fails in the first pass.
    without = Sequential.without - {"inv_adapter_reduction_factor"}


class Compacter(Bottleneck):
    """With weights that are sums of Kronecker products."""

    configuration = "CompacterConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((3e-3,), "Karimi Mahabadi et al. (2021): seq2seq/configs/compacter.json in rabeehk/compacter"),
    )
    contextual = True  # the rule that its layers share
    without = (Bottleneck.without - PHM) | {"phm_layer"}


class CompacterPlusPlus(Compacter):
    """Behind the feed-forward layers only."""

    configuration = "CompacterPlusPlusConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((3e-3,), "Karimi Mahabadi et al. (2021): seq2seq/configs/compacter++.json in rabeehk/compacter"),
    )


class Plus(Bottleneck):
    """With a scale for each channel."""

    configuration = "AdapterPlusConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((1e-3,), "Steitz and Roth (2024): conf/train/optimizer/adamw.yaml in visinf/adapter_plus"),
        PublishedRate((1e-2,), f"{LIBRARY}: notebooks/ViT_AdapterPlus_FineTuning.ipynb"),
    )
    without = Bottleneck.without - {"stochastic_depth"}

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so."""
        reasons = super().refuses(situation)
        if self.value("stochastic_depth") and find_spec("torchvision") is None:
            reasons.append("stochastic_depth needs the package torchvision, which is not there; install it, or set 0")
        return reasons


class PrefixTuning(AdapterMethod):
    """Learnt keys and values before those of the text."""

    configuration = "PrefixTuningConfig"
    search, published_rates = PEFT["prefix_tuning"]
    place = "prefix tuning"
    without = GATED
    eager = True
    contextual = True
    trial: ClassVar[Mapping[str, Any]] = {"bottleneck_size": 16}

    refusals = (
        *AdapterMethod.refusals,
        Refusal(
            lambda s: s.model_type in HOOKED,
            "the adapters library has no prefixes for this kind of model",
            f"use one of {', '.join(sorted(set(MODEL_TYPES) - set(HOOKED)))}, or peft's prefix_tuning",
        ),
        Refusal(
            lambda s: s.model_type == "distilbert",
            "DistilBERT's attention does not take the prefix's mask of the adapters library",
            "use a BERT or RoBERTa model, or another method",
        ),
    )

    def virtual_tokens(self, model_kind: ModelKind) -> Mapping[Side, int]:
        """The prefix of a decoder: GPT-2's mask has as many columns as it has positions."""
        return {"decoder": int(self.value("prefix_length"))} if model_kind == "decoder" else {}


class PromptTuning(AdapterMethod):
    """Learnt vectors before those of the text."""

    configuration = "PromptTuningConfig"
    place = "prompt tuning"
    search, published_rates = PEFT["prompt_tuning"]
    contextual = True
    without = frozenset({"prompt_init", "prompt_init_text"})  # it would ask a hub
    kinds: ClassVar[Mapping[str, Any]] = {"combine": Literal["prefix", "prefix_after_bos"]}

    refusals = (
        *AdapterMethod.refusals,
        Refusal(
            lambda s: s.model_type in set(MODEL_TYPES) - set(PROMPTED),
            "the adapters library has no prompts for this kind of model",
            f"use one of {', '.join(PROMPTED)}, or peft's prompt_tuning",
        ),
    )


class Lora(AdapterMethod):
    """Updates of low rank, which can be folded into the weights."""

    configuration = "LoRAConfig"
    search, published_rates = PEFT["lora"]
    place = "factors of the weights"
    without = GATED | {"composition_mode", "vera_d", "vera_b"}
    kinds: ClassVar[Mapping[str, Any]] = {"init_weights": Literal["lora", "bert"]}
    merge_tolerance = 1e-4

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if all(self.value(place) is False for place in ("selfattn_lora", "intermediate_lora", "output_lora")):
            raise ValueError("selfattn_lora, intermediate_lora and output_lora are all false: nothing would be trained")
        return self

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so."""
        reasons = super().refuses(situation)
        if self.value("use_dora") and situation.model_type == "gpt2":
            reasons.append(
                "the library's DoRA does not know the transposed layers of 'gpt2'; leave out use_dora, or use lora"
            )
        return reasons

    def merge(self, model: nn.Module) -> nn.Module:
        """Folds the update into the weights, and those into a model of the class that it was applied to."""
        merged = cast(Any, model)
        for module in merged.modules():
            if ADAPTER in getattr(module, "loras", {}):
                self.merge_bias(module, module.loras[ADAPTER])
        merged.merge_adapter(ADAPTER)
        kind, config = merged.peftkit_plain
        plain: nn.Module = kind(config).to(merged.dtype)
        state = model.state_dict()
        plain.load_state_dict({key: state[key] for key in plain.state_dict()})
        return plain.to(merged.device).train(model.training)

    def merge_bias(self, layer: Any, factors: Any) -> None:
        """What the library's merging forgets: DoRA scales the whole output of a layer, its bias too."""
        if getattr(factors, "use_dora", False) and layer.bias is not None:
            from adapters.methods.lora import compute_dora_norm

            norm = compute_dora_norm(layer.weight, factors.delta_w).reshape(-1)
            layer.bias.data *= (factors.m.weight.reshape(-1) / norm).detach()


class Ia3(Lora):
    """Factors of keys, values and of what the feed-forward layers compute within."""

    configuration = "IA3Config"
    search, published_rates = PEFT["ia3"]
    # It has a rank of one, and the library refuses the rest.
    without = Lora.without | {"r", "alpha", "dropout", "use_dora", "init_weights"}

    def merge_bias(self, layer: Any, factors: Any) -> None:
        """The factors apply to the whole output of a layer, its bias too."""
        if layer.bias is not None:
            factor = factors.lora_B.detach().reshape(1, -1)
            factor = layer.pad(factor, factors) if hasattr(layer, "pad") else factor
            layer.bias.data *= factor.reshape(-1) * factors.scaling


class Reft(AdapterMethod):
    """Changes of what the blocks give, at the first and last positions only."""

    place = "changes of what blocks give"
    trial: ClassVar[Mapping[str, Any]] = {"dropout": 0.0}
    cached = False  # with a cache every new token is taken for the first
    contextual = True
    without = frozenset({"orthogonality", "output_reft"})
    kinds: ClassVar[Mapping[str, Any]] = {"layers": Literal["all"] | tuple[int, ...]}

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.value("prefix_positions") == self.value("suffix_positions") == 0:
            raise ValueError("prefix_positions and suffix_positions are both 0, so that nothing would be trained")
        return self

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so."""
        reasons = super().refuses(situation)
        if self.value("suffix_positions") and situation.model_kind in ("decoder", "encoder-decoder"):
            reasons.append(
                "the library counts the suffix from the end of what is being said, so that a model would learn "
                "otherwise than it generates; set suffix_positions = 0, or use a model with a classification head"
            )
        return reasons

    def settle(self, model: nn.Module) -> None:
        """Freezes what belongs to positions of which there are none, and which the library would count as learning.

        Positions that were looked up for texts of one length are not kept for those of another, such as a decoder's
        after an encoder's, which the library gets wrong.
        """
        for name, module in model.named_modules():
            if name.endswith(f".refts.{ADAPTER}"):
                module.register_forward_pre_hook(_positions_of_these)
                for each in cast("Any", module).units:
                    each.register_forward_pre_hook(_in_its_precision)
            for unit, positions in enumerate(("prefix_positions", "suffix_positions")):
                unused = not self.value(positions) and not self.value("tied_weights")
                if unused and name.endswith(f".refts.{ADAPTER}.units.{unit}"):
                    module.requires_grad_(False)


class LoReft(Reft):
    """In a subspace whose axes are orthogonal."""

    configuration = "LoReftConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((6e-4, 9e-4), "Wu et al. (2024): examples/loreft/README.md in stanfordnlp/pyreft"),
        PublishedRate((4e-3,), "Wu et al. (2024): README.md in stanfordnlp/pyreft"),
    )

    def settle(self, model: nn.Module) -> None:
        """Lays the matrices out as saving would, in the midst of a run: another order rounds otherwise."""
        super().settle(model)
        cast(Any, model).apply_to_adapter_layers(lambda number, layer: layer.pre_save_adapters())

    def after_step(self, model: nn.Module, step: int) -> None:
        """Puts right the signs that PyTorch keeps beside an orthogonal matrix's parameters, as numbers of theirs.

        It reads them as whole numbers: weight decay makes 0.99 of 1, which is 0 and the end of the whole matrix.
        """
        for name, parameter in model.named_parameters():
            if name.endswith("projection.parametrizations.weight.original"):
                signs = parameter.data.diagonal()
                signs.copy_(signs.sign())


class NoReft(Reft):
    """Without the constraint of orthogonality."""

    configuration = "NoReftConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((5e-3,), "Wu et al. (2024): default of examples/loreft/train.py in stanfordnlp/pyreft"),
    )


class DiReft(Reft):
    """Without it, and without what is subtracted."""

    loaded_by: ClassVar[Literal["peftkit"]] = "peftkit"  # the library would open it as NoReFT
    configuration = "DiReftConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((9e-4,), "Wu et al. (2024): examples/loreft/README.md in stanfordnlp/pyreft"),
    )


def _in_its_precision(unit: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Has a unit read numbers of its weights' precision: the library makes what stands for no positions in float32."""
    return (inputs[0].to(unit.learned_source.weight.dtype),)  # type: ignore[union-attr,arg-type]


def _positions_of_these(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Has the library look positions up anew where it has kept those of texts of another shape."""
    from adapters.context import ForwardContext

    context = ForwardContext.get_context()
    if getattr(context, "peftkit_shape", inputs[0].shape) != inputs[0].shape:
        for kept in ("pref_idx", "suff_idx"):
            if hasattr(context, kept):
                delattr(context, kept)
    context.peftkit_shape = inputs[0].shape
