"""Methods that train a part of the model's own weights and add none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftkit.components import Context, Method, ModelKind, PublishedRate, Search, Situation
from peftkit.errors import InputError
from peftkit.methods.published import LAYER_NORM, LAYER_NORM_BY_PEFT
from peftkit.search_space import VECTORS, WEIGHTS

if TYPE_CHECKING:
    from torch import nn

TIED = ("t5", "bart", "mbart", "gpt2")
"""The models whose output layer is their input embedding too, unless their config says otherwise."""


class BitFit(Method):
    """Train the biases only (Ben Zaken et al., 2022)."""

    gives_way: ClassVar[bool] = True
    search: ClassVar[Search] = VECTORS
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((1e-3,), "Ben Zaken et al. (2022): README.md in benzakenelad/BitFit"),
        PublishedRate((3e-4,), "Liu et al. (2022): configs/bitfit.json in r-three/t-few", "Adafactor"),
    )

    name: Literal["bitfit"] = "bitfit"

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so."""
        reasons = super().refuses(situation)
        bare = situation.model_type in ("t5", "mt5", "llama", "mistral", "gemma", "gemma2")
        if bare and not situation.config.get("attention_bias") and not situation.config.get("mlp_bias"):
            reasons.append(f"a {situation.model_type!r} model has no biases; use layer_norm, or another method")
        return reasons

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Leaves the biases to learn.

        Raises:
            InputError: there are none.
        """
        return only(model, lambda key: key.endswith("bias"), f"{type(model).__name__} has no biases")


class LayerNorm(Method):
    """Train the normalisation layers only (Qi et al., 2022)."""

    search: ClassVar[Search] = VECTORS
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (LAYER_NORM, LAYER_NORM_BY_PEFT)

    name: Literal["layer_norm"] = "layer_norm"

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Leaves the layers to learn whose kind is named a norm.

        Raises:
            InputError: there are none.
        """
        norms = tuple(f"{key}." for key, module in model.named_modules() if type(module).__name__.endswith("Norm"))
        return only(model, lambda key: key.startswith(norms), f"{type(model).__name__} has no normalisation layers")


class HeadOnly(Method):
    """Train the output layer only: the linear probe.

    Of an encoder it is the classification head, with all of its layers that the checkpoint lacks. Of other models it is
    what gives the vocabulary's logits, where it is not the input embedding at the same time.
    """

    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((1e-3,), "Ben Zaken et al. (2022), their frozen encoder: README.md in benzakenelad/BitFit"),
    )

    name: Literal["head_only"] = "head_only"

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so."""
        reasons = super().refuses(situation)
        tied = situation.config.get("tie_word_embeddings", situation.model_type in TIED)
        if situation.model_kind in ("decoder", "encoder-decoder") and tied:
            reasons.append(SHARED)
        return reasons

    def search_for(self, model_kind: ModelKind | None) -> Search:
        """Nothing for an encoder, all of whose trained parameters have the head's learning rate."""
        return {} if model_kind == "encoder" else super().search_for(model_kind)

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Leaves the output layer to learn.

        Raises:
            InputError: it is the input embedding too.
        """
        if context.model_kind == "encoder":
            backbone = f"{getattr(model, 'base_model_prefix', '')}."
            own = {key for key, _ in model.named_parameters() if not key.startswith(backbone)}
            head = frozenset(context.head_parameters) or own
            return only(model, head.__contains__, f"{type(model).__name__} has no head")
        either: Any = model
        head = either.get_output_embeddings()
        if head.weight is either.get_input_embeddings().weight:
            raise InputError(f"{self.name!r} cannot be applied to {type(model).__name__}: {SHARED}")
        names = {id(parameter) for parameter in head.parameters()}
        own = {key for key, parameter in model.named_parameters() if id(parameter) in names}
        return only(model, own.__contains__, f"{type(model).__name__} has no head")


SHARED = "the output layer is the input embedding too, and training it would change both; use another method"


class TopLayers(Method):
    """Train the last layers only, those of the decoder where there are two stacks (Howard and Ruder, 2018)."""

    search: ClassVar[Search] = WEIGHTS
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate(
            (5e-5,),
            "Li and Liang (2021), default of their mode finetune-top: gpt2/train_e2e.py in XiangLi1999/PrefixTuning",
        ),
    )

    name: Literal["top_layers"] = "top_layers"
    number: int = Field(default=2, gt=0)
    """How many layers, counted from the top."""

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Leaves the last layers to learn.

        Raises:
            InputError: the model has fewer.
        """
        from torch.nn import ModuleList

        stacks = {key: m for key, m in model.named_modules() if isinstance(m, ModuleList)}
        if context.model_kind == "encoder-decoder":
            stacks = {key: stack for key, stack in stacks.items() if "decoder" in key.split(".")}
        # The layers hold most of the weights; lists within them hold fewer.
        key, stack = max(stacks.items(), key=lambda item: sum(p.numel() for p in item[1].parameters()))
        if self.number > len(stack):
            raise InputError(f"method.number = {self.number}, and {type(model).__name__} has {len(stack)} layers")
        chosen = tuple(f"{key}.{place}." for place in range(len(stack) - self.number, len(stack)))
        return only(model, lambda key: key.startswith(chosen), "nothing is there to train")


def only(model: nn.Module, wanted: Callable[[str], bool], otherwise: str) -> nn.Module:
    """Lets the parameters of the wanted names learn.

    Raises:
        InputError: there are none; ``otherwise`` says so.
    """
    for key, parameter in model.named_parameters():
        parameter.requires_grad = wanted(key)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"{otherwise}; use another method")
    return model
