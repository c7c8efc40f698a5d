"""Methods of peft that need more than their options."""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from peftkit.components import Context, ModelKind, Refusal, Side, Situation
from peftkit.methods._peft import PeftMethod, PromptMethod, rows_of
from peftkit.methods.prefix_tuning import LearntCache

if TYPE_CHECKING:
    from torch import Tensor, nn

DECODERS = Refusal(
    lambda s: s.model_kind in ("encoder", "encoder-decoder"),
    "peft has it for decoders only",
    "use a decoder, or another method",
)


class AdaptionPrompt(PeftMethod):
    """Learnt prompts inside attention, behind a gate that begins shut (LLaMA-Adapter, Zhang et al., 2023)."""

    peft_type: ClassVar[str] = "ADAPTION_PROMPT"
    without: ClassVar[frozenset[str]] = frozenset({"target_modules"})
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(
            lambda s: bool(s.model_type) and s.model_type not in ("llama", "mistral", "gpt2"),
            "peft puts prompts into the attention of Llama, Mistral and GPT-2 only",
            "use one of these, or prefix_tuning",
        ),
    )

    name: Literal["adaption_prompt"] = "adaption_prompt"
    adapter_len: int = Field(default=10, gt=0)
    """The length of the prompts."""
    adapter_layers: int | None = Field(default=None, gt=0)
    """In how many layers, counted from the top; unset for all."""

    def options(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """peft's options, with the number of layers."""
        return {"adapter_layers": cast(Any, model).config.num_hidden_layers, **super().options(model, context)}


class Cpt(PeftMethod):
    """Learns around the tokens of a context (context-aware prompt tuning, Blau et al., 2024)."""

    peft_type: ClassVar[str] = "CPT"
    without: ClassVar[frozenset[str]] = PromptMethod.without | {
        *("num_virtual_tokens", "tokenizer_name_or_path"),
        *("opt_weighted_loss_type", "opt_loss_decay_factor"),  # peft's own loss, which is not the one that is trained
    }
    refusals: ClassVar[tuple[Refusal, ...]] = (DECODERS,)
    trial: ClassVar[Mapping[str, Any]] = {"cpt_token_ids": [4, 5, 6, 7]}

    name: Literal["cpt"] = "cpt"
    cpt_token_ids: tuple[int, ...] = ()
    """The ids of the context's tokens, such as examples of the task; needed."""

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so."""
        missing = [] if self.cpt_token_ids else ["it learns around the tokens of a context; set cpt_token_ids"]
        return [*super().refuses(situation), *missing]

    def virtual_tokens(self, model_kind: ModelKind) -> Mapping[Side, int]:
        """The tokens of the context, which stand before the text."""
        return {"decoder": len(self.cpt_token_ids)}


class Lily(PeftMethod):
    """Low-rank updates whose wide sides are shared among layers and mixed by a router (Lily, Zhong et al., 2024)."""

    peft_type: ClassVar[str] = "LILY"
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(
            lambda s: True,
            "peft's router mixes by the mean over all rows and positions of a batch, padding and answers among them: "
            "what it says of a row depends on the others, and on what is to be predicted",
            "use lora, or poly for a mixture",
        ),
    )

    name: Literal["lily"] = "lily"


class MultitaskPromptTuning(PromptMethod):
    """Prompts that are the product of one shared by all tasks and a low-rank one of each (Wang et al., 2023).

    Here there is one task, the first.
    """

    peft_type: ClassVar[str] = "MULTITASK_PROMPT_TUNING"
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(
            lambda s: s.model_kind == "encoder-decoder",
            "peft's pass over an encoder-decoder loses the decoder's inputs with it",
            "use prompt_tuning, or a decoder",
        ),
    )

    name: Literal["multitask_prompt_tuning"] = "multitask_prompt_tuning"

    def made_by_network(self) -> bool:
        """The prompt that peft saves is not what is multiplied."""
        return True

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Wraps the model, all of whose rows are the first task's."""
        return first_task(super().apply(model, context))


class Osf(PeftMethod):
    """Trains the smaller singular directions of each weight, and keeps the larger ones (OSF, Nayak et al., 2025)."""

    peft_type: ClassVar[str] = "OSF"
    without: ClassVar[frozenset[str]] = frozenset({"target_svd_config"})  # which peft does not read
    own_targets: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(("t5", "mt5"), ("q", "v")),
        **dict.fromkeys(("bart", "mbart"), ("q_proj", "v_proj")),
        **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), ("query", "value")),
    }

    name: Literal["osf"] = "osf"


class LnTuning(PeftMethod):
    """Trains the layer norms (Zhao et al., 2024)."""

    peft_type: ClassVar[str] = "LN_TUNING"
    own_targets: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "electra", "deberta", "deberta-v2"), ("LayerNorm",)
    )

    name: Literal["ln_tuning"] = "ln_tuning"


class PTuning(PromptMethod):
    """Prompts that a small network makes, put before the text (P-tuning, Liu et al., 2021)."""

    peft_type: ClassVar[str] = "P_TUNING"

    name: Literal["p_tuning"] = "p_tuning"

    def made_by_network(self) -> bool:
        """Always, while it trains."""
        return True


class Poly(PeftMethod):
    """Several low-rank updates that a router mixes for each task (Polytropon, Ponti et al., 2023).

    Here there is one task, the first.
    """

    peft_type: ClassVar[str] = "POLY"

    name: Literal["poly"] = "poly"

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Wraps the model, all of whose rows are the first task's."""
        import torch
        from peft.tuners.poly.layer import PolyLayer

        def told(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
            ids = torch.zeros(len(args[0]), dtype=torch.long, device=args[0].device)
            return args, {"task_ids": ids, **kwargs}

        wrapped = super().apply(model, context)
        # At each layer, and not once for the model: recomputed layers have to know it too.
        for module in wrapped.modules():
            if isinstance(module, PolyLayer):
                cast("nn.Module", module).register_forward_pre_hook(told, with_kwargs=True)
        return wrapped


class Shadow(PeftMethod):
    """A small copy of the model beside it, whose states are mixed into its own (ShadowPEFT).

    The copy's own loss, by ``auxiliary_loss_weight``, is part of what is trained and not of what is recorded.
    """

    peft_type: ClassVar[str] = "SHADOW"
    refusals: ClassVar[tuple[Refusal, ...]] = (DECODERS,)
    trial: ClassVar[Mapping[str, Any]] = {"shadow_dropout": 0.0}  # which each process draws for itself

    name: Literal["shadow"] = "shadow"
    auxiliary_loss_weight: float = Field(default=0.05, ge=0)
    """The weight of the copy's own loss."""

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Wraps the model; what no pass reads, such as the state after the last layer, does not learn."""
        wrapped = super().apply(model, context)
        for key, parameter in wrapped.named_parameters():
            if ".shadow_backbone." in key and key.endswith((".wte.weight", ".embed_tokens.weight")):
                parameter.requires_grad = parameter.requires_grad and not getattr(self, "share_embeddings", True)
        updates = [(key, p) for key, p in wrapped.named_parameters() if ".shadow_update_" in key]
        if updates:
            last = updates[-1][0].split(".shadow_update_")[0]
            for key, parameter in updates:
                parameter.requires_grad = parameter.requires_grad and not key.startswith(f"{last}.")
        return wrapped

    def penalty(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor | None:
        """The copy's own loss, weighed."""
        if not self.auxiliary_loss_weight:
            return None
        loss = cast(Any, model).base_model.shadow_auxiliary_loss(batch["labels"], batch.get("attention_mask"))
        return None if loss is None else self.auxiliary_loss_weight * cast("Tensor", loss)


class TrainableTokens(PeftMethod):
    """Trains the embeddings of some tokens only."""

    peft_type: ClassVar[str] = "TRAINABLE_TOKENS"
    trial: ClassVar[Mapping[str, Any]] = {"token_indices": [5, 6, 7, 8, 49, 52]}
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(
            lambda s: s.model_kind == "encoder",
            "peft does not save the classification head of an encoder with it",
            "use a decoder or an encoder-decoder, or another method",
        ),
    )

    name: Literal["trainable_tokens"] = "trainable_tokens"
    token_indices: tuple[int, ...] = ()
    """The ids of the tokens; needed."""

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so."""
        missing = [] if self.token_indices else ["it trains the tokens that are named, and none is; set token_indices"]
        return [*super().refuses(situation), *missing]


class Cartridge(LearntCache):
    """Learnt keys and values before those of the text, the first of them frozen (cartridges, Eyuboglu et al., 2025)."""

    peft_type: ClassVar[str] = "CARTRIDGE"

    name: Literal["cartridge"] = "cartridge"


class XLora(PeftMethod):
    """A learnt mixture of LoRA adapters that are there already (X-LoRA, Buehler and Buehler, 2024)."""

    peft_type: ClassVar[str] = "XLORA"
    without: ClassVar[frozenset[str]] = frozenset(
        {
            *("hidden_size", "adapters", "enable_softmax", "enable_softmax_topk", "layerwise_scalings", "xlora_depth"),
            *("xlora_size", "xlora_dropout_p", "use_trainable_adapters", "softmax_temperature", "top_k_lora"),
            *("scaling_pass_value", "global_scaling_weight"),
        }
    )
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(
            lambda s: True,
            "what peft saves of it does not load again as it was, and its passes are two for each one",
            "use lora, or poly for a mixture",
        ),
    )

    name: Literal["xlora"] = "xlora"


def first_task(wrapped: nn.Module) -> nn.Module:
    """Lets every pass be the first task's, of which peft wants to be told each time."""
    wrapped.register_forward_pre_hook(lambda module, args, kwargs: (args, _told(kwargs)), with_kwargs=True)
    cast(Any, wrapped).generate = MethodType(_generate_first, wrapped)  # a copy of the model gets one of its own
    return wrapped


def _generate_first(model: Any, **kwargs: Any) -> Any:
    return type(model).generate(model, **_told(kwargs))


def _told(arguments: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    rows = rows_of(arguments)
    ids = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    return {"task_ids": ids, **arguments}
