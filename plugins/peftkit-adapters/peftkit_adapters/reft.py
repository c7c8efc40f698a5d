"""Methods that change the hidden states of the first and last positions of a text (ReFT)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from pydantic import model_validator

from peftkit import PublishedRate, RunSpec
from peftkit_adapters.adapter_method import ADAPTER, AdapterMethod

if TYPE_CHECKING:
    from torch import Tensor, nn


class Reft(AdapterMethod):
    """Interventions on the hidden states of blocks, at the first and last positions only."""

    slot = "interventions on hidden states"
    tiny_options: ClassVar[Mapping[str, Any]] = {"dropout": 0.0}
    supports_cache = False  # with a cache, every new token counts as the first position
    uses_forward_context = True
    excluded_options = frozenset({"orthogonality", "output_reft"})
    option_types: ClassVar[Mapping[str, Any]] = {"layers": Literal["all"] | tuple[int, ...]}

    @model_validator(mode="after")
    def _check_trains_something(self) -> Self:
        if self.value("prefix_positions") == self.value("suffix_positions") == 0:
            raise ValueError("prefix_positions and suffix_positions are both 0: nothing would be trained")
        return self

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe, each with its remedy."""
        reasons = super().incompatible_with(spec)
        for option in ("prefix_positions", "suffix_positions"):
            if spec.max_text_length is not None and self.value(option) > spec.max_text_length:
                reasons.append(
                    f"{option} = {self.value(option)}, but texts have at most {spec.max_text_length} tokens "
                    "(train.max_source_length, train.max_target_length); lower it"
                )
        if self.value("suffix_positions") and spec.model_kind in ("decoder", "encoder-decoder"):
            reasons.append(
                "the suffix is counted from the end of the text including the target, so that training would differ "
                "from generation; set suffix_positions = 0, or use an encoder"
            )
        return reasons

    def fix_up(self, model: nn.Module) -> None:
        """Freeze the parameters of unused positions, and fix the library's positions and precision.

        The library counts positions of inputs of another shape, such as a decoder's after an encoder's, and fails on
        texts that are shorter than the positions.
        """
        for name, module in model.named_modules():
            if name.endswith(f".refts.{ADAPTER}"):
                module.forward = MethodType(_intervene, module)
                for unit in cast("Any", module).units:
                    unit.register_forward_pre_hook(_cast_to_weights)
            for index, option in enumerate(("prefix_positions", "suffix_positions")):
                unused = not self.value(option) and not self.value("tied_weights")
                if unused and name.endswith(f".refts.{ADAPTER}.units.{index}"):
                    module.requires_grad_(False)


class LoReft(Reft):
    """ReFT in a low-rank subspace with an orthonormal basis."""

    configuration = "LoReftConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((6e-4, 9e-4), "Wu et al. (2024): examples/loreft/README.md in stanfordnlp/pyreft"),
        PublishedRate((4e-3,), "Wu et al. (2024): README.md in stanfordnlp/pyreft"),
    )

    def fix_up(self, model: nn.Module) -> None:
        """Also give matrices the memory layout that saving gives them, which changes rounding."""
        super().fix_up(model)
        cast(Any, model).apply_to_adapter_layers(lambda index, layer: layer.pre_save_adapters())

    def after_step(self, model: nn.Module, step: int) -> None:
        """Restore the signs that PyTorch stores on the diagonal of an orthogonal matrix's parameter.

        PyTorch truncates them to integers, so weight decay would turn 1 into 0 and zero the whole matrix.
        """
        for name, parameter in model.named_parameters():
            if name.endswith("projection.parametrizations.weight.original"):
                signs = parameter.data.diagonal()
                signs.copy_(signs.sign())


class NoReft(Reft):
    """LoReFT without the orthogonality constraint."""

    configuration = "NoReftConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((5e-3,), "Wu et al. (2024): default of examples/loreft/train.py in stanfordnlp/pyreft"),
    )


class DiReft(Reft):
    """LoReFT without the orthogonality constraint and the subtracted projection."""

    loaded_by: ClassVar[Literal["peftkit"]] = "peftkit"  # the library would load it as NoReFT
    configuration = "DiReftConfig"
    published_rates: ClassVar[tuple[PublishedRate, ...]] = (
        PublishedRate((9e-4,), "Wu et al. (2024): examples/loreft/README.md in stanfordnlp/pyreft"),
    )


def _cast_to_weights(unit: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Cast the inputs of a unit to the dtype of its weights; the library fills unused positions with float32 zeros."""
    return (inputs[0].to(unit.learned_source.weight.dtype),)  # type: ignore[union-attr,arg-type]


def _intervene(layer: Any, hidden_states: Tensor) -> Tensor:
    """Change the states of the first and last positions of each text, as the library's layer does.

    Positions that a text does not have are those of an additional state, which is removed again.

    Args:
        layer: The library's layer.
        hidden_states: The states of shape (batch, length, width).
    """
    import torch
    from adapters.context import ForwardContext

    context = ForwardContext.get_context()
    batch, length, width = hidden_states.shape
    starts = torch.zeros(batch, dtype=torch.long, device=hidden_states.device)
    ends = starts + length
    if hasattr(context, "seqlens"):
        starts = context.offsets.reshape(-1).to(hidden_states.device)
        ends = starts + context.seqlens.reshape(-1).to(hidden_states.device)
    first = starts[:, None] + torch.arange(min(layer.prefix_positions, length), device=hidden_states.device)
    last = ends[:, None] - torch.arange(min(layer.suffix_positions, length), 0, -1, device=hidden_states.device)
    positions = [
        first.where(first < length, length)[..., None].expand(-1, -1, width),
        last.where(last >= starts[:, None], length)[..., None].expand(-1, -1, width),
    ]
    states = torch.cat([hidden_states, hidden_states.new_zeros(batch, 1, width)], dim=1)
    sizes = [each.shape[1] for each in positions]
    read = [states.gather(1, each) for each in positions]
    by_unit = [torch.cat(read, 1)] if layer.tied_weights else read
    changed = [unit(each) for unit, each in zip(layer.units, by_unit, strict=True)]
    for each, values in zip(positions, torch.split(torch.cat(changed, 1).to(states.dtype), sizes, dim=1), strict=True):
        states = states.scatter(1, each, values)
    return states[:, :length]
