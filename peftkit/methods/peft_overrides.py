"""Methods of peft with further defaults, validation or behavior."""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from peftkit.components import ApplyContext, Incompatibility, ModelKind, RunSpec, Side
from peftkit.methods.peft_base import PeftMethod, PromptMethod, first_batch_tensor
from peftkit.methods.prefix_tuning import LearnedKVPrefix

if TYPE_CHECKING:
    from torch import Tensor, nn

DECODERS = Incompatibility(
    lambda s: s.model_kind in ("encoder", "encoder-decoder"),
    "peft supports it for decoders only",
    "use a decoder, or another method",
)


class Adamss(PeftMethod):
    """Updates in several small subspaces of each weight (AdaMSS, Zheng et al., 2025)."""

    peft_type: ClassVar[str] = "ADAMSS"

    name: Literal["adamss"] = "adamss"
    use_asa: bool = False
    """Whether subspaces are frozen during training; not supported, because such a run could not be resumed."""

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe, each with its remedy."""
        reasons = super().incompatible_with(spec)
        if self.use_asa:
            reasons.append(
                "use_asa changes which parameters are trained during the run, which could then not be resumed; "
                "leave it out"
            )
        return reasons


class AdaptionPrompt(PeftMethod):
    """Trained prompts in the attention layers with zero-initialized gates (LLaMA-Adapter, Zhang et al., 2023)."""

    mergeable: ClassVar[bool] = False
    peft_type: ClassVar[str] = "ADAPTION_PROMPT"
    excluded_options: ClassVar[frozenset[str]] = frozenset({"target_modules"})
    incompatibilities: ClassVar[tuple[Incompatibility, ...]] = (
        Incompatibility(
            lambda s: bool(s.model_type) and s.model_type not in ("llama", "mistral", "gpt2"),
            "peft supports it for Llama, Mistral and GPT-2 only",
            "use one of these, or prefix_tuning",
        ),
    )

    name: Literal["adaption_prompt"] = "adaption_prompt"
    adapter_len: int = Field(default=10, gt=0)
    """The number of prompt tokens."""
    adapter_layers: int | None = Field(default=None, gt=0)
    """The number of layers with prompts, counted from the top; by default all."""

    def options(self, model: nn.Module, context: ApplyContext) -> dict[str, Any]:
        """Return peft's options, with all layers by default."""
        return {"adapter_layers": cast(Any, model).config.num_hidden_layers, **super().options(model, context)}


class Boft(PeftMethod):
    """Rotations of weights by products of sparse orthogonal matrices (BOFT, Liu et al., 2024)."""

    peft_type: ClassVar[str] = "BOFT"

    name: Literal["boft"] = "boft"

    def value_in_layer(self, layer: Any, option: str) -> float | None:
        """Return an option's value; peft keeps the butterfly factor as the number of matrices only."""
        if option == "boft_n_butterfly_factor" and "default" in getattr(layer, "boft_R", {}):
            return len(layer.boft_R["default"])
        return super().value_in_layer(layer, option)


class Cpt(PeftMethod):
    """Trained perturbations of the embeddings of a fixed context (context-aware prompt tuning, Blau et al., 2024)."""

    mergeable: ClassVar[bool] = False
    peft_type: ClassVar[str] = "CPT"
    excluded_options: ClassVar[frozenset[str]] = PromptMethod.excluded_options | {
        *("num_virtual_tokens", "tokenizer_name_or_path"),
        *("opt_weighted_loss_type", "opt_loss_decay_factor"),  # options of peft's loss, which peftkit does not use
    }
    incompatibilities: ClassVar[tuple[Incompatibility, ...]] = (DECODERS,)
    tiny_options: ClassVar[Mapping[str, Any]] = {"cpt_token_ids": [4, 5, 6, 7]}
    repeatable_options: ClassVar[frozenset[str]] = frozenset({"cpt_token_ids", "cpt_mask", "cpt_tokens_type_mask"})

    name: Literal["cpt"] = "cpt"
    cpt_token_ids: tuple[int, ...] = ()
    """The token ids of the context, such as examples of the task; required."""

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe, each with its remedy."""
        missing = [] if self.cpt_token_ids else ["it needs a context; set cpt_token_ids"]
        return [*super().incompatible_with(spec), *missing]

    def virtual_tokens(self, model_kind: ModelKind) -> Mapping[Side, int]:
        """Return the number of tokens of the context, which precedes the text."""
        return {"decoder": len(self.cpt_token_ids)}


class Lily(PeftMethod):
    """Low-rank updates with projections that layers share through a router (Lily, Zhong et al., 2024)."""

    mergeable: ClassVar[bool] = False
    peft_type: ClassVar[str] = "LILY"

    name: Literal["lily"] = "lily"
    unsafe_batch_mixing: bool = False
    """Train although the scores of a row depend on the other rows of its batch, on padding and on the answer. Such runs
    are compared with others by `--pool evaluation` only."""

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used, the first of which ``unsafe_batch_mixing`` accepts."""
        mixes = (
            "peft's router averages over all rows and positions of a batch, including padding and answers, so that "
            "predictions depend on the other rows and on the answer; use lora, or poly for a mixture"
        )
        return [*([] if self.unsafe_batch_mixing else [mixes]), *super().incompatible_with(spec)]

    def options(self, model: nn.Module, context: ApplyContext) -> dict[str, Any]:
        """Return peft's options, without ``unsafe_batch_mixing``."""
        return {key: value for key, value in super().options(model, context).items() if key != "unsafe_batch_mixing"}


class MultitaskPromptTuning(PromptMethod):
    """Prompts that are products of a shared prompt and low-rank prompts of each task (Wang et al., 2023).

    peftkit trains the first task only.
    """

    peft_type: ClassVar[str] = "MULTITASK_PROMPT_TUNING"
    incompatibilities: ClassVar[tuple[Incompatibility, ...]] = (
        Incompatibility(
            lambda s: s.model_kind == "encoder-decoder",
            "peft drops the decoder's inputs in its forward pass of an encoder-decoder",
            "use prompt_tuning, or a decoder",
        ),
    )

    name: Literal["multitask_prompt_tuning"] = "multitask_prompt_tuning"

    def reparameterized(self) -> bool:
        """Return True, because peft saves the product only."""
        return True

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Wrap the model, and assign all rows to the first task."""
        return use_first_task(super().apply(model, context))


class Osf(PeftMethod):
    """The smaller singular directions of each weight, with the larger ones frozen (OSF, Nayak et al., 2025)."""

    peft_type: ClassVar[str] = "OSF"
    excluded_options: ClassVar[frozenset[str]] = frozenset({"target_svd_config"})  # has no effect in peft
    default_target_modules: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(("t5", "mt5"), ("q", "v")),
        **dict.fromkeys(("bart", "mbart"), ("q_proj", "v_proj")),
        **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), ("query", "value")),
    }

    name: Literal["osf"] = "osf"


class LnTuning(PeftMethod):
    """The layer norms (Zhao et al., 2024)."""

    peft_type: ClassVar[str] = "LN_TUNING"
    default_target_modules: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "electra", "deberta", "deberta-v2"), ("LayerNorm",)
    )

    name: Literal["ln_tuning"] = "ln_tuning"


class PTuning(PromptMethod):
    """Prompts in front of the text, computed by a small network (P-tuning, Liu et al., 2021)."""

    peft_type: ClassVar[str] = "P_TUNING"

    name: Literal["p_tuning"] = "p_tuning"

    def reparameterized(self) -> bool:
        """Return True."""
        return True


class Poly(PeftMethod):
    """Several low-rank updates that a router mixes for each task (Polytropon, Ponti et al., 2023).

    peftkit trains the first task only.
    """

    mergeable: ClassVar[bool] = False
    peft_type: ClassVar[str] = "POLY"

    name: Literal["poly"] = "poly"

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Wrap the model, and assign all rows to the first task."""
        import torch
        from peft.tuners.poly.layer import PolyLayer

        def add_task_ids(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
            ids = torch.zeros(len(args[0]), dtype=torch.long, device=args[0].device)
            return args, {"task_ids": ids, **kwargs}

        wrapped = super().apply(model, context)
        # On each layer and not on the model, for layers that gradient checkpointing recomputes.
        for module in wrapped.modules():
            if isinstance(module, PolyLayer):
                cast("nn.Module", module).register_forward_pre_hook(add_task_ids, with_kwargs=True)
        return wrapped


class Shadow(PeftMethod):
    """A small trained copy of the model, mixed into the frozen one's states (ShadowPEFT, arXiv:2604.19254, 2026).

    The copy's own loss is added to the training loss, and not to the recorded loss.
    """

    mergeable: ClassVar[bool] = False
    peft_type: ClassVar[str] = "SHADOW"
    incompatibilities: ClassVar[tuple[Incompatibility, ...]] = (DECODERS,)
    tiny_options: ClassVar[Mapping[str, Any]] = {"shadow_dropout": 0.0}  # each process samples its own

    name: Literal["shadow"] = "shadow"
    auxiliary_loss_weight: float = Field(default=0.05, ge=0)
    """The weight of the copy's own loss."""

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Wrap the model, and freeze parameters that the forward pass does not use, such as the last layer's update."""
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

    def auxiliary_loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Return the weighted loss of the copy."""
        if not self.auxiliary_loss_weight:
            return None
        loss = cast(Any, model).base_model.shadow_auxiliary_loss(batch["labels"], batch.get("attention_mask"))
        return None if loss is None else self.auxiliary_loss_weight * cast("Tensor", loss)


class TrainableTokens(PeftMethod):
    """The embeddings of some tokens only (in peft; no paper)."""

    peft_type: ClassVar[str] = "TRAINABLE_TOKENS"
    tiny_options: ClassVar[Mapping[str, Any]] = {"token_indices": [5, 6, 7, 8, 49, 52]}
    incompatibilities: ClassVar[tuple[Incompatibility, ...]] = (
        Incompatibility(
            lambda s: s.model_kind == "encoder",
            "peft does not save an encoder's classification head with it",
            "use a decoder or an encoder-decoder, or another method",
        ),
    )

    name: Literal["trainable_tokens"] = "trainable_tokens"
    token_indices: tuple[int, ...] = ()
    """The ids of the tokens to train; required."""

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe, each with its remedy."""
        missing = [] if self.token_indices else ["no tokens are selected; set token_indices"]
        return [*super().incompatible_with(spec), *missing]


class Cartridge(LearnedKVPrefix):
    """Trained keys and values in front of those of the text, with a frozen first one (Eyuboglu et al., 2025)."""

    peft_type: ClassVar[str] = "CARTRIDGE"

    name: Literal["cartridge"] = "cartridge"


class XLora(PeftMethod):
    """A trained mixture of existing LoRA adapters (X-LoRA, Buehler and Buehler, 2024)."""

    mergeable: ClassVar[bool] = False
    peft_type: ClassVar[str] = "XLORA"
    excluded_options: ClassVar[frozenset[str]] = frozenset(
        {
            *("hidden_size", "adapters", "enable_softmax", "enable_softmax_topk", "layerwise_scalings", "xlora_depth"),
            *("xlora_size", "xlora_dropout_p", "use_trainable_adapters", "softmax_temperature", "top_k_lora"),
            *("scaling_pass_value", "global_scaling_weight"),
        }
    )
    incompatibilities: ClassVar[tuple[Incompatibility, ...]] = (
        Incompatibility(
            lambda s: True,
            "peft's saved files do not reload to the same model, and every forward pass runs twice",
            "use lora, or poly for a mixture",
        ),
    )

    name: Literal["xlora"] = "xlora"


def use_first_task(wrapped: nn.Module) -> nn.Module:
    """Add the first task's ``task_ids`` to every forward pass, as peft requires."""
    wrapped.register_forward_pre_hook(lambda module, args, kwargs: (args, _with_task_ids(kwargs)), with_kwargs=True)
    cast(Any, wrapped).generate = MethodType(_generate_first_task, wrapped)  # a bound method, which deepcopy rebinds
    return wrapped


def _generate_first_task(model: Any, **kwargs: Any) -> Any:
    return type(model).generate(model, **_with_task_ids(kwargs))


def _with_task_ids(arguments: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    rows = first_batch_tensor(arguments)
    ids = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    return {"task_ids": ids, **arguments}
