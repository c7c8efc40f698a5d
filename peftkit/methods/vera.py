"""VeRA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftkit.components import Context
from peftkit.methods._peft import PeftMethod

if TYPE_CHECKING:
    from torch import nn


class Vera(PeftMethod):
    """Scaling vectors around random projections that all layers share (VeRA, Kopiczko et al., 2024).

    Only the vectors learn. The frozen projections are drawn from ``projection_prng_key`` and, unless
    ``save_projection`` is off, saved: the file is then much larger than what was trained.
    """

    peft_type: ClassVar[str] = "VERA"

    name: Literal["vera"] = "vera"
    r: int = Field(default=256, gt=0)
    """The rank of the shared projections."""
    target_modules: tuple[str, ...] | str | None = None
    """The layers that are updated: names, a regular expression, or `all-linear`; unset for peft's choice by
    architecture, mostly the query and value projections."""
    layers_to_transform: tuple[int, ...] | None = None
    """The numbers of the blocks that are updated; unset for all."""
    projection_prng_key: int | None = Field(default=None, ge=0, lt=2**63)
    """Seeds the projections; unset for the run's seed."""
    save_projection: bool = True
    """Whether the projections are saved, so that the adapter loads alike wherever it is drawn again."""
    vera_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the input of the update."""
    d_initial: float = Field(default=0.1)
    """Where the vector of the rank begins."""
    bias: Literal["none", "all", "vera_only"] = "none"
    """Which biases learn too."""
    modules_to_save: tuple[str, ...] | None = None
    """Further modules that learn in full; an encoder's classification head always does."""

    def options(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """peft's options, with the run's seed unless the recipe gives another."""
        return {"projection_prng_key": context.seed, **super().options(model, context)}
