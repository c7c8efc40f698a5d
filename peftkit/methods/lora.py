"""LoRA and its variants."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import AliasChoices, Field, model_validator

from peftkit.components import Situation
from peftkit.methods._peft import CONV1D, PeftMethod


class Lora(PeftMethod):
    """Low-rank updates beside frozen linear layers (LoRA, Hu et al., 2022).

    With ``use_dora`` the magnitude of each column learns apart from its direction (DoRA, Liu et al., 2024), with
    ``use_rslora`` the update is scaled by alpha/√r (rsLoRA, Kalajdzievski, 2023). ``init_lora_weights`` also gives
    PiSSA (Meng et al., 2024) and OLoRA (Büyükakyüz, 2024), which take their share out of the frozen weights: such an
    adapter fits only the very weights it was trained on; and MiCA, which trains one side only.
    """

    peft_type: ClassVar[str] = "LORA"
    without: ClassVar[frozenset[str]] = frozenset(
        {
            *("eva_config", "corda_config", "lora_ga_config"),  # initial weights that are made from data
            *("loftq_config", "use_qalora", "qalora_group_size", "runtime_config"),  # for quantised or offloaded models
            "alora_invocation_tokens",  # looks for tokens that no task writes, and would do nothing without them
            "arrow_config",  # mixes adapters that are there already
            *("kasa_config", "monteclora_config"),  # their own losses are not part of peft's forward pass
            *("use_bdlora", "velora_config"),
        }
    )

    name: Literal["lora"] = "lora"
    r: int = Field(default=8, gt=0)
    """The rank of the updates."""
    lora_alpha: int = Field(default=8, gt=0, validation_alias=AliasChoices("lora_alpha", "alpha"))
    """Scales the update by alpha/r, or alpha/√r with use_rslora; `alpha` for short."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, validation_alias=AliasChoices("lora_dropout", "dropout"))
    """Dropout on the input of the update; `dropout` for short."""
    target_modules: tuple[str, ...] | str | None = None
    """The layers that are updated: names, a regular expression, or `all-linear`; unset for peft's choice by
    architecture, mostly the query and value projections."""
    exclude_modules: tuple[str, ...] | str | None = None
    """Layers that are left out, by names or a regular expression."""
    layers_to_transform: tuple[int, ...] | None = None
    """The numbers of the blocks that are updated; unset for all."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases learn too."""
    use_rslora: bool = False
    """Rank-stabilised scaling."""
    use_dora: bool = False
    """Weight-decomposed updates."""
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "olora", "pissa", "mica"] = True
    """How the update begins: true is Kaiming-uniform and zero, false is random on both sides."""
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    """Other ranks by layer name or regular expression."""
    alpha_pattern: dict[str, int] = Field(default_factory=dict)
    """Other alphas by layer name or regular expression."""
    modules_to_save: tuple[str, ...] | None = None
    """Further modules that learn in full; an encoder's classification head always does."""

    @model_validator(mode="after")
    def _variants_agree(self) -> Lora:
        if self.init_lora_weights == "orthogonal" and any(r % 2 for r in (self.r, *self.rank_pattern.values())):
            raise ValueError('init_lora_weights = "orthogonal" needs an even rank')
        if self.init_lora_weights == "mica" and self.use_dora:
            raise ValueError('init_lora_weights = "mica" freezes what use_dora would train; use one of them')
        return self

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so."""
        reasons = super().refuses(situation)
        if self.init_lora_weights == "olora" and situation.model_type in CONV1D:
            reasons.append('peft\'s "olora" fails on the transposed layers of GPT-2; set init_lora_weights = "pissa"')
        return reasons
