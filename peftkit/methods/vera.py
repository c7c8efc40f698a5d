"""VeRA, with random projections seeded by the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftkit.components import ApplyContext
from peftkit.methods.peft_base import PeftMethod

if TYPE_CHECKING:
    from torch import nn


class Vera(PeftMethod):
    """Scaling vectors around random projections that all layers share (VeRA, Kopiczko et al., 2024).

    Only the vectors are trained. The frozen projections are drawn from ``projection_prng_key``. They are saved unless
    ``save_projection`` is false, which makes the file much larger than the trained parameters.
    """

    peft_type: ClassVar[str] = "VERA"

    name: Literal["vera"] = "vera"
    r: int = Field(default=256, gt=0)
    """The rank of the shared projections."""
    target_modules: tuple[str, ...] | str | None = None
    """The layers to update: names, a regular expression, or `all-linear`; by default peft's choice for the
    architecture, mostly the query and value projections."""
    layers_to_transform: tuple[int, ...] | None = None
    """The indices of the blocks to update; by default all."""
    projection_prng_key: int | None = Field(default=None, ge=0, lt=2**63)
    """The seed of the projections; by default the seed of the run."""
    save_projection: bool = True
    """Whether to save the projections, because drawing them again may give other values on another device."""
    vera_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the input of the update."""
    d_initial: float = Field(default=0.1)
    """The initial value of the vector of size ``r``."""
    bias: Literal["none", "all", "vera_only"] = "none"
    """Which biases are also trained."""
    modules_to_save: tuple[str, ...] | None = None
    """Further modules to train fully; an encoder's classification head always is."""

    def options(self, model: nn.Module, context: ApplyContext) -> dict[str, Any]:
        """Return peft's options, with the seed of the run by default."""
        return {"projection_prng_key": context.seed, **super().options(model, context)}
