"""Methods that combine several methods in one model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from pydantic import model_validator

from peftkit import ApplyContext, PublishedRate, RunSpec
from peftkit.components import ModelKind, Side
from peftkit_adapters.adapter_method import ADAPTER, AdapterMethod
from peftkit_adapters.method_bases import HE_REPOSITORY, RECOMMENDED_RATE, TINY_BOTTLENECK

if TYPE_CHECKING:
    from torch import Tensor, nn


class AdapterUnion(AdapterMethod):
    """Several methods in one model, each with a table of options."""

    configuration = "ConfigUnion"

    def parts(self) -> Sequence[AdapterMethod]:
        """Return the combined methods in order."""
        return tuple(value for _, value in self if isinstance(value, AdapterMethod))

    def config(self) -> Any:
        """Build the library's configuration from those of the combined methods."""
        import adapters

        return getattr(adapters, self.configuration)(*(part.config() for part in self.parts()))

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons of all combined methods."""
        return list(dict.fromkeys(reason for part in self.parts() for reason in part.incompatible_with(spec)))

    def virtual_tokens(self, model_kind: ModelKind) -> Mapping[Side, int]:
        """Return the sum over the combined methods."""
        total: Counter[Side] = Counter()
        for part in self.parts():
            total.update(part.virtual_tokens(model_kind))
        return dict(total)

    def after_step(self, model: nn.Module, step: int) -> None:
        """Run ``after_step`` of the combined methods."""
        for part in self.parts():
            part.after_step(model, step)


class MixAndMatch(AdapterUnion):
    """Prefix tuning with parallel adapters."""

    configuration = "MAMConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((5e-5,), f"He et al. (2022): exps/run_xsum.sh and exps/run_en_ro.sh in {HE_REPOSITORY}"),
        PublishedRate((1e-4,), f"He et al. (2022): exps/run_glue.sh in {HE_REPOSITORY}"),
    )
    tiny_options: ClassVar[Mapping[str, Any]] = {"prefix_tuning": {"bottleneck_size": 16}}


class UniPelt(AdapterUnion):
    """Prefix tuning, a bottleneck and LoRA with gates."""

    configuration = "UniPELTConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((5e-4,), "Mao et al. (2022): experimental setup of the paper", ""),
    )
    loaded_by: ClassVar[Literal["peftkit"]] = "peftkit"  # the library's gates average over padding too
    tiny_options: ClassVar[Mapping[str, Any]] = {"adapter": TINY_BOTTLENECK, "prefix_tuning": {"bottleneck_size": 16}}

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe, each with its remedy."""
        reasons = super().incompatible_with(spec)
        if spec.model_kind in ("decoder", "encoder-decoder"):
            reasons.append(
                "its gates average over the whole text including the target, so that training would differ from "
                "generation; use mam, or an encoder"
            )
        return reasons

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Add the adapters, with gates that ignore padding.

        Raises:
            InputError: The library does not work in this environment, or rejects the options for this model.
        """
        applied = super().apply(model, context)
        for name, module in applied.named_modules():
            if name.endswith((f".{ADAPTER}.gate", f".prefix_gates.{ADAPTER}")):
                module.register_forward_hook(_mean_over_text)
        return applied


class AnyUnion(AdapterUnion):
    """A combination of methods that the recipe lists."""

    published_rates: ClassVar[tuple[PublishedRate, ...]] = (RECOMMENDED_RATE,)

    tiny_options: ClassVar[Mapping[str, Any]] = {
        "methods": (
            {"name": "bottleneck", "reduction_factor": 8.0},
            {"name": "adapters_lora"},
            {"name": "adapters_prefix_tuning", "bottleneck_size": 16, "prefix_length": 4},
        )
    }

    methods: tuple[AdapterMethod, ...]

    @model_validator(mode="after")
    def _check_slots(self) -> Self:
        by_slot: dict[str, AdapterMethod] = {}
        for method in self.methods:
            for slot in method.slots():
                if slot in by_slot:
                    raise ValueError(
                        f"{by_slot[slot].name} and {method.name} both add {slot}; the library supports one"
                    )
                by_slot[slot] = method
        return self

    def parts(self) -> Sequence[AdapterMethod]:
        """Return the combined methods in order."""
        return self.methods


def _mean_over_text(gate: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """Replace a gate's output of shape (batch, length, 1) by its mean over the text, which the library averages."""
    import torch
    from adapters.context import ForwardContext

    context = ForwardContext.get_context()
    if not hasattr(context, "seqlens"):
        return output
    position = torch.arange(output.shape[1], device=output.device) - context.offsets[:, None]
    text = ((position >= 0) & (position < context.seqlens.reshape(-1, 1)))[..., None].to(output.dtype)
    mean = (output.sigmoid() * text).sum(1, keepdim=True) / text.sum(1, keepdim=True)
    return cast("Tensor", mean.logit().expand_as(output))
