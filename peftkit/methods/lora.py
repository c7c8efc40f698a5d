"""LoRA and its variants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import AliasChoices, Field, model_validator

from peftkit.components import Context, Situation
from peftkit.errors import InputError
from peftkit.methods._peft import CONV1D, PeftMethod

if TYPE_CHECKING:
    from torch import Tensor, nn


class Lora(PeftMethod):
    """Low-rank updates beside frozen linear layers (LoRA, Hu et al., 2022).

    With ``use_dora`` the magnitude of each column learns apart from its direction (DoRA, Liu et al., 2024), with
    ``use_rslora`` the update is scaled by alpha/√r (rsLoRA, Kalajdzievski, 2023). ``init_lora_weights`` also gives
    PiSSA (Meng et al., 2024) and OLoRA (Büyükakyüz, 2024), which take their share out of the frozen weights: such an
    adapter fits only the very weights it was trained on; MiCA, which trains one side only; and EVA (Paischer et al.,
    2024), which begins with what the layers see of the training rows, and gives the ranks to where they see most.
    ``loraplus_lr_ratio`` is LoRA+ (Hayou et al., 2024), ``kasa_config`` KaSA (Wang et al., 2024), ``monteclora_config``
    MonteCLoRA (Sengupta et al., 2024): the penalties of the last two are part of what is trained, and not of what is
    recorded.
    """

    peft_type: ClassVar[str] = "LORA"
    without: ClassVar[frozenset[str]] = frozenset(
        {
            *("corda_config", "lora_ga_config"),  # weights that are made from data, and change the model's own
            *("loftq_config", "use_qalora", "qalora_group_size", "runtime_config"),  # for quantised or offloaded models
            "alora_invocation_tokens",  # looks for tokens that no task writes, and would do nothing without them
            "arrow_config",  # mixes adapters that are there already
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
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "olora", "pissa", "mica", "eva"] = True
    """How the update begins: true is Kaiming-uniform and zero, false is random on both sides."""
    loraplus_lr_ratio: float | None = Field(default=None, ge=1)
    """How many times faster the side that begins as zeros learns than the other; LoRA+ recommends 16."""
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
        if self._option("eva_config") is not None and self.init_lora_weights != "eva":
            raise ValueError('eva_config goes with init_lora_weights = "eva" only')
        return self

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so."""
        reasons = super().refuses(situation)
        if self.init_lora_weights == "olora" and situation.model_type in CONV1D:
            reasons.append('peft\'s "olora" fails on the transposed layers of GPT-2; set init_lora_weights = "pissa"')
        return reasons

    def options(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """peft's options, which the ratio of LoRA+ is none of."""
        return {key: value for key, value in super().options(model, context).items() if key != "loraplus_lr_ratio"}

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Wraps the model into a ``PeftModel`` that trains the updates and, on an encoder, its head.

        Raises:
            InputError: the options do not fit the model, or EVA gets no training rows to begin with.
        """
        wrapped = super().apply(model, context)
        check_ranks(wrapped)
        if self.init_lora_weights == "eva":
            begin_with_rows(wrapped, context)
        return wrapped

    def open(self, model: nn.Module, folder: Path, context: Context) -> nn.Module:
        """What was saved, on a fresh model; the ranks that EVA has chosen are read, and not chosen again."""
        if self.init_lora_weights != "eva":
            return super().open(model, folder, context)
        from peft import PeftModel

        return cast("nn.Module", PeftModel.from_pretrained(cast(Any, model), str(folder)))

    def rate(self, parameter: str) -> float:
        """LoRA+: the sides that begin as zeros learn faster."""
        faster = self.loraplus_lr_ratio and any(part in parameter for part in (".lora_B.", ".lora_embedding_A."))
        return float(self.loraplus_lr_ratio or 1.0) if faster else 1.0

    def may_move(self, tensor: str) -> bool:
        """MonteCLoRA keeps what it draws in buffers."""
        return ".lora_monteclora_sampler." in tensor

    def penalty(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor | None:
        """What KaSA and MonteCLoRA add to the loss."""
        base, penalties = cast(Any, model).base_model, []
        if self._option("kasa_config") is not None:
            penalties.append(base._get_kasa_loss())
        if self._option("monteclora_config") is not None:
            penalties.append(base._get_monteclora_loss())
        return cast("Tensor", sum(penalties)) if penalties else None


def check_ranks(wrapped: nn.Module) -> None:
    """Refuses updates of another rank than was asked for: initial values from the weights have no more than these.

    Raises:
        InputError: the update of a layer has a lower rank.
    """
    sides: Any
    for name, layer in wrapped.named_modules():
        sides, ranks = getattr(layer, "lora_A", None), getattr(layer, "r", None)
        for adapter, asked in ranks.items() if isinstance(ranks, dict) and sides else ():
            rank = sides[adapter].weight.shape[0] if adapter in sides else asked
            if rank != asked:
                raise InputError(
                    f"method.r: init_lora_weights makes an update of rank {rank} of {name!r}, whose weights have no "
                    f"more, and the recipe asks for {asked}; lower r, or give this layer its own in rank_pattern"
                )


BATCHES = 32
"""How many batches EVA may look at, again and again, until the directions it finds are stable."""
PASSES = 100 * BATCHES


def begin_with_rows(wrapped: nn.Module, context: Context) -> None:
    """Begins with the main directions of what each layer sees of the training rows (EVA, Paischer et al., 2024).

    Raises:
        InputError: there are no rows, or so few that no stable directions are found.
    """
    from peft import initialize_lora_eva_weights

    if context.batches is None:
        raise InputError('init_lora_weights = "eva" begins with training rows, and there are none here')
    either: Any = wrapped
    device = next(wrapped.parameters()).device
    batches = [{key: value.to(device) for key, value in batch.items()} for batch in context.batches(BATCHES)]
    passes = 0

    def forward(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
        nonlocal passes
        passes += 1
        if passes > PASSES:
            raise InputError(
                f"EVA finds no stable directions in {PASSES} passes; lower method.r or eva_config.rho, or raise "
                "train.batch_size"
            )
        model(**{key: value for key, value in batch.items() if key != "labels"})

    def masks(batch: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
        """Which positions count, of the source and of the target."""
        found = {"source": batch["attention_mask"].bool()}
        if batch["labels"].ndim == 2 and config.eva_config.use_label_mask:
            found["target"] = batch["labels"] != config.eva_config.label_mask_value
            if context.model_kind == "decoder":  # one text, of which only the target is learnt
                found["source"] = found["source"] & found["target"]
        return found

    def positions(seen: Any, found: Mapping[str, Tensor], layer: str) -> Tensor:
        """The vectors that a layer sees at those positions."""
        inputs: Tensor = seen if not isinstance(seen, tuple | list) else seen[0]
        if inputs.ndim == 2:
            return inputs
        crossing = "EncDecAttention" in layer or "encoder_attn" in layer
        keys = layer.rsplit(".", 1)[-1] in ("k", "v", "k_proj", "v_proj")
        side = "target" if "decoder" in layer.split(".") and not (crossing and keys) else "source"
        mask = found.get(side)
        if mask is None or mask.shape != inputs.shape[:2]:
            return inputs.flatten(0, 1)
        return inputs[mask]

    initialize_lora_eva_weights(
        either,
        batches,
        forward_fn=forward,
        prepare_model_inputs_fn=masks,
        prepare_layer_inputs_fn=positions,
        gather_distributed_inputs=False,
        show_progress_bar=False,
    )
