"""Selective fine-tuning: methods that train some of the model's weights and add none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftkit.components import ApplyContext, Method, ModelKind, PublishedRate, RunSpec, SearchSpace
from peftkit.components.search_space import VECTORS, WEIGHTS
from peftkit.errors import InputError
from peftkit.methods.published_learning_rates import LAYER_NORM, LAYER_NORM_BY_PEFT

if TYPE_CHECKING:
    from torch import nn

TIED = ("t5", "bart", "mbart", "gpt2")
"""The models that tie input and output embeddings unless their config says otherwise."""
TIED_HEAD = "the output layer is tied to the input embeddings, which would be trained too; use another method"


class BitFit(Method):
    """The biases only (Ben Zaken et al., 2022)."""

    overridable: ClassVar[bool] = True
    search_space: ClassVar[SearchSpace] = VECTORS
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((1e-3,), "Ben Zaken et al. (2022): README.md in benzakenelad/BitFit"),
        PublishedRate((3e-4,), "Liu et al. (2022): configs/bitfit.json in r-three/t-few", "Adafactor"),
    )

    name: Literal["bitfit"] = "bitfit"

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe, each with its remedy."""
        reasons = super().incompatible_with(spec)
        without_biases = spec.model_type in ("t5", "mt5", "llama", "mistral", "gemma", "gemma2")
        if without_biases and not spec.config.get("attention_bias") and not spec.config.get("mlp_bias"):
            reasons.append(f"a {spec.model_type!r} model has no biases; use layer_norm, or another method")
        return reasons

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Freeze all parameters except biases.

        Raises:
            InputError: The model has no biases.
        """
        return train_only(model, lambda key: key.endswith("bias"), f"{type(model).__name__} has no biases")


class LayerNorm(Method):
    """The normalization layers only (Qi et al., 2022)."""

    search_space: ClassVar[SearchSpace] = VECTORS
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (LAYER_NORM, LAYER_NORM_BY_PEFT)

    name: Literal["layer_norm"] = "layer_norm"

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Freeze all parameters except those of modules whose class name ends with ``Norm``.

        Raises:
            InputError: The model has no normalization layers.
        """
        norms = tuple(f"{key}." for key, module in model.named_modules() if type(module).__name__.endswith("Norm"))
        return train_only(
            model, lambda key: key.startswith(norms), f"{type(model).__name__} has no normalization layers"
        )


class HeadOnly(Method):
    """The output layer only (linear probing, Alain and Bengio, 2016).

    For encoders, this is the classification head with all of its layers that are not in the checkpoint. For other
    models, it is the language-modeling head, which must not be tied to the input embeddings.
    """

    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((1e-3,), "Ben Zaken et al. (2022), their frozen encoder: README.md in benzakenelad/BitFit"),
    )

    name: Literal["head_only"] = "head_only"

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe, each with its remedy."""
        reasons = super().incompatible_with(spec)
        tied = spec.config.get("tie_word_embeddings", spec.model_type in TIED)
        if spec.model_kind in ("decoder", "encoder-decoder") and tied:
            reasons.append(TIED_HEAD)
        if not spec.has_head:
            reasons.append("the hidden states are the outputs, so the model has no head; use another method")
        return reasons

    def search_space_for(self, model_kind: ModelKind | None) -> SearchSpace:
        """Return an empty search space for encoders, whose head has its own learning rate."""
        return {} if model_kind == "encoder" else super().search_space_for(model_kind)

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Freeze all parameters except those of the output layer.

        Raises:
            InputError: The model has no output layer, or it is tied to the input embeddings.
        """
        transformer: Any = model
        no_head = f"{type(model).__name__} has no head"
        if transformer.base_model is model:  # a model whose hidden states are the outputs
            raise InputError(f"{self.name!r} cannot be applied: {no_head}; use another method")
        if context.model_kind == "encoder":
            backbone = f"{getattr(model, 'base_model_prefix', '')}."
            outside_backbone = {key for key, _ in model.named_parameters() if not key.startswith(backbone)}
            head = frozenset(context.head_parameters) or outside_backbone
            return train_only(model, head.__contains__, no_head)
        lm_head = transformer.get_output_embeddings()
        if lm_head.weight is transformer.get_input_embeddings().weight:
            raise InputError(f"{self.name!r} cannot be applied to {type(model).__name__}: {TIED_HEAD}")
        ids = {id(parameter) for parameter in lm_head.parameters()}
        names = {key for key, parameter in model.named_parameters() if id(parameter) in ids}
        return train_only(model, names.__contains__, no_head)


class TopLayers(Method):
    """The last layers only, of the decoder in an encoder-decoder (Howard and Ruder, 2018)."""

    search_space: ClassVar[SearchSpace] = WEIGHTS
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate(
            (5e-5,),
            "Li and Liang (2021), default of their mode finetune-top: gpt2/train_e2e.py in XiangLi1999/PrefixTuning",
        ),
    )

    name: Literal["top_layers"] = "top_layers"
    number: int = Field(default=2, gt=0)
    """The number of layers to train, counted from the top."""

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Freeze all parameters except those of the last layers.

        Raises:
            InputError: The model has fewer layers.
        """
        from torch.nn import ModuleList

        stacks = {key: m for key, m in model.named_modules() if isinstance(m, ModuleList)}
        if context.model_kind == "encoder-decoder":
            stacks = {key: stack for key, stack in stacks.items() if "decoder" in key.split(".")}
        # The list of layers has the most weights; lists inside the layers have fewer.
        key, stack = max(stacks.items(), key=lambda item: sum(p.numel() for p in item[1].parameters()))
        if self.number > len(stack):
            raise InputError(f"method.number = {self.number}, but {type(model).__name__} has only {len(stack)} layers")
        prefixes = tuple(f"{key}.{index}." for index in range(len(stack) - self.number, len(stack)))
        return train_only(model, lambda key: key.startswith(prefixes), "these layers have no parameters")


def train_only(model: nn.Module, is_trained: Callable[[str], bool], problem: str) -> nn.Module:
    """Freeze all parameters except the selected ones.

    Args:
        model: The base model, which is changed in place.
        is_trained: Returns whether the parameter of a name is trained.
        problem: The error message if no parameter is selected.

    Returns:
        The same model.

    Raises:
        InputError: No parameter is selected.
    """
    for key, parameter in model.named_parameters():
        parameter.requires_grad = is_trained(key)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"{problem}; use another method")
    return model
