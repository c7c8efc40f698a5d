"""Several methods in one model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from pydantic import model_validator

from peftkit import Context, PublishedRate, Situation
from peftkit.components import ModelKind, Side
from peftkit_adapters.family import ADAPTER, AdapterMethod
from peftkit_adapters.kinds import BY_DEFAULT, HE, NARROW

if TYPE_CHECKING:
    from torch import Tensor, nn


class Together(AdapterMethod):
    """Several in one model, whose options are tables of their own."""

    configuration = "ConfigUnion"

    def parts(self) -> Sequence[AdapterMethod]:
        """Those that are put together, in order."""
        return tuple(value for _, value in self if isinstance(value, AdapterMethod))

    def config(self) -> Any:
        """The library's configuration, made from those of the parts."""
        import adapters

        return getattr(adapters, self.configuration)(*(part.config() for part in self.parts()))

    def refuses(self, situation: Situation) -> list[str]:
        """What any of the parts refuses."""
        return list(dict.fromkeys(reason for part in self.parts() for reason in part.refuses(situation)))

    def virtual_tokens(self, model_kind: ModelKind) -> Mapping[Side, int]:
        """Those of all parts."""
        found: Counter[Side] = Counter()
        for part in self.parts():
            found.update(part.virtual_tokens(model_kind))
        return dict(found)

    def after_step(self, model: nn.Module, step: int) -> None:
        """What the parts do."""
        for part in self.parts():
            part.after_step(model, step)


class MixAndMatch(Together):
    """Two."""

    configuration = "MAMConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((5e-5,), f"He et al. (2022): exps/run_xsum.sh and exps/run_en_ro.sh in {HE}"),
        PublishedRate((1e-4,), f"He et al. (2022): exps/run_glue.sh in {HE}"),
    )
    trial: ClassVar[Mapping[str, Any]] = {"prefix_tuning": {"bottleneck_size": 16}}


class Unified(Together):
    """Three, each behind a gate."""

    configuration = "UniPELTConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((5e-4,), "Mao et al. (2022): experimental setup of the paper", ""),
    )
    loaded_by: ClassVar[Literal["peftkit"]] = "peftkit"  # the library's gates count padding as text
    trial: ClassVar[Mapping[str, Any]] = {"adapter": NARROW, "prefix_tuning": {"bottleneck_size": 16}}

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so."""
        reasons = super().refuses(situation)
        if situation.model_kind in ("decoder", "encoder-decoder"):
            reasons.append(
                "its gates are means over the whole text, what is yet to be said among it, so that a decoder would "
                "learn otherwise than it generates; use mam, or a model with a classification head"
            )
        return reasons

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Adds the adapters, with gates that leave padding out, which the library counts as text.

        Raises:
            InputError: the library cannot be used in this environment, or not with this model and these options.
        """
        applied = super().apply(model, context)
        for name, module in applied.named_modules():
            if name.endswith((f".{ADAPTER}.gate", f".prefix_gates.{ADAPTER}")):
                module.register_forward_hook(_mean_over_text)
        return applied


class AnyUnion(Together):
    """Any of the library's methods in one model."""

    published_rates: ClassVar[tuple[PublishedRate, ...]] = (BY_DEFAULT,)

    trial: ClassVar[Mapping[str, Any]] = {
        "methods": (
            {"name": "bottleneck", "reduction_factor": 8.0},
            {"name": "adapters_lora"},
            {"name": "adapters_prefix_tuning", "bottleneck_size": 16, "prefix_length": 4},
        )
    }

    methods: tuple[AdapterMethod, ...]

    @model_validator(mode="after")
    def _no_two_in_one_place(self) -> Self:
        taken: dict[str, AdapterMethod] = {}
        for method in self.methods:
            for place in method.places():
                if place in taken:
                    raise ValueError(f"{taken[place].name} and {method.name} are both {place}; the library takes one")
                taken[place] = method
        return self

    def parts(self) -> Sequence[AdapterMethod]:
        """Those that are put together, in order."""
        return self.methods


def _mean_over_text(gate: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """What the gate gives at each position, made the same at all: the library's mean of it is then the text's."""
    import torch
    from adapters.context import ForwardContext

    context = ForwardContext.get_context()
    if not hasattr(context, "seqlens"):
        return output
    position = torch.arange(output.shape[1], device=output.device) - context.offsets[:, None]
    text = ((position >= 0) & (position < context.seqlens.reshape(-1, 1)))[..., None].to(output.dtype)
    mean = (output.sigmoid() * text).sum(1, keepdim=True) / text.sum(1, keepdim=True)
    return cast("Tensor", mean.logit().expand_as(output))
