"""AdaMSS."""

from __future__ import annotations

from typing import ClassVar, Literal

from peftkit.components import RunSpec
from peftkit.methods.peft_base import PeftMethod


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
