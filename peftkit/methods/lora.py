"""LoRA and its variants, with data-driven EVA initialization."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import AliasChoices, Field, model_validator

from peftkit.components import ApplyContext, RunSpec
from peftkit.errors import InputError
from peftkit.methods.peft_base import CONV1D, PeftMethod

if TYPE_CHECKING:
    from torch import Tensor, nn


class Lora(PeftMethod):
    """Low-rank updates of frozen linear layers (LoRA, Hu et al., 2022).

    Options select variants. ``use_dora`` trains the magnitude of each column separately from its direction (DoRA, Liu
    et al., 2024), and ``use_rslora`` scales the update by alpha/√r (rsLoRA, Kalajdzievski, 2023). ``init_lora_weights``
    selects PiSSA (Meng et al., 2024) or OLoRA (Büyükakyüz, 2024), which change the frozen weights, so that the adapter
    fits only the weights it was trained on; MiCA, which trains one of the two matrices; or EVA (Paischer et al., 2024),
    which initializes updates and allocates ranks from activations on training data. ``loraplus_lr_ratio`` is LoRA+
    (Hayou et al., 2024), ``kasa_config`` KaSA (Wang et al., 2024) and ``monteclora_config`` MonteCLoRA (Sengupta et
    al., 2024); the penalties of the last two are part of the training loss and not of the recorded one.
    """

    peft_type: ClassVar[str] = "LORA"
    excluded_options: ClassVar[frozenset[str]] = frozenset(
        {
            *("corda_config", "lora_ga_config"),  # initialize from data and change the base weights
            *("loftq_config", "use_qalora", "qalora_group_size", "runtime_config"),  # for quantized or offloaded models
            "alora_invocation_tokens",  # looks for tokens that no task writes
            "arrow_config",  # mixes existing adapters
            *("use_bdlora", "velora_config"),
        }
    )

    name: Literal["lora"] = "lora"
    r: int = Field(default=8, gt=0)
    """The rank of the updates."""
    lora_alpha: int = Field(default=8, gt=0, validation_alias=AliasChoices("lora_alpha", "alpha"))
    """The update is scaled by alpha/r, or alpha/√r with use_rslora; also spelled `alpha`."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, validation_alias=AliasChoices("lora_dropout", "dropout"))
    """Dropout on the input of the update; also spelled `dropout`."""
    target_modules: tuple[str, ...] | str | None = None
    """The layers to update: names, a regular expression, or `all-linear`; by default peft's choice for the
    architecture, mostly the query and value projections."""
    exclude_modules: tuple[str, ...] | str | None = None
    """Layers to leave out: names or a regular expression."""
    layers_to_transform: tuple[int, ...] | None = None
    """The indices of the blocks to update; by default all."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are also trained."""
    use_rslora: bool = False
    """Scale updates by alpha/√r (rsLoRA)."""
    use_dora: bool = False
    """Train magnitudes and directions separately (DoRA)."""
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "olora", "pissa", "mica", "eva"] = True
    """Initialization: true is Kaiming-uniform for A and zeros for B, false is random for both."""
    loraplus_lr_ratio: float | None = Field(default=None, ge=1)
    """The learning rate of B relative to that of A (LoRA+, which recommends 16)."""
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    """Ranks of individual layers, by name or regular expression."""
    alpha_pattern: dict[str, int] = Field(default_factory=dict)
    """Alphas of individual layers, by name or regular expression."""
    modules_to_save: tuple[str, ...] | None = None
    """Further modules to train fully; an encoder's classification head always is."""

    @property
    def can_disable_adapter(self) -> bool:
        """Whether peft can disable the adapter, which it cannot if the initialization changes the model's weights."""
        changes_weights = self.init_lora_weights in ("olora", "pissa") or self._option("kasa_config") is not None
        return super().can_disable_adapter and not changes_weights

    @model_validator(mode="after")
    def _check_variants(self) -> Lora:
        if self.init_lora_weights == "orthogonal" and any(r % 2 for r in (self.r, *self.rank_pattern.values())):
            raise ValueError('init_lora_weights = "orthogonal" needs an even rank')
        if self.init_lora_weights == "mica" and self.use_dora:
            raise ValueError('init_lora_weights = "mica" freezes a matrix that use_dora trains; use one of them')
        if self._option("eva_config") is not None and self.init_lora_weights != "eva":
            raise ValueError('eva_config needs init_lora_weights = "eva"')
        return self

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe, each with its remedy."""
        reasons = super().incompatible_with(spec)
        if self.init_lora_weights == "olora" and spec.model_type in CONV1D:
            reasons.append('peft\'s "olora" fails on GPT-2\'s transposed layers; set init_lora_weights = "pissa"')
        return reasons

    def options(self, model: nn.Module, context: ApplyContext) -> dict[str, Any]:
        """Return peft's options, without ``loraplus_lr_ratio``."""
        return {key: value for key, value in super().options(model, context).items() if key != "loraplus_lr_ratio"}

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Wrap the model into a ``PeftModel`` that trains the updates and, on an encoder, its head.

        Raises:
            InputError: The options do not fit the model, or there is no training data for EVA.
        """
        wrapped = super().apply(model, context)
        check_ranks(wrapped)
        if self.init_lora_weights == "eva":
            initialize_eva(wrapped, context)
        return wrapped

    def load_into(self, model: nn.Module, folder: Path, context: ApplyContext) -> nn.Module:
        """Load the saved adapter; EVA's ranks are read from its files."""
        if self.init_lora_weights != "eva":
            return super().load_into(model, folder, context)
        from peft import PeftModel

        return cast("nn.Module", PeftModel.from_pretrained(cast(Any, model), str(folder)))

    def lr_multiplier(self, parameter: str) -> float:
        """Return the learning-rate ratio of LoRA+ for matrices that start as zeros."""
        starts_as_zeros = ".lora_B." in parameter or ".lora_embedding_A." in parameter
        return float(self.loraplus_lr_ratio or 1.0) if starts_as_zeros else 1.0

    def may_change(self, tensor: str) -> bool:
        """Return whether the tensor is a buffer of MonteCLoRA's sampler."""
        return ".lora_monteclora_sampler." in tensor

    def auxiliary_loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Return the penalties of KaSA and MonteCLoRA."""
        base, penalties = cast(Any, model).base_model, []
        if self._option("kasa_config") is not None:
            penalties.append(base._get_kasa_loss())
        if self._option("monteclora_config") is not None:
            penalties.append(base._get_monteclora_loss())
        return cast("Tensor", sum(penalties)) if penalties else None


def check_ranks(wrapped: nn.Module) -> None:
    """Reject updates with a lower rank than requested, as initialization from small weights gives.

    Raises:
        InputError: The update of a layer has another rank than ``r``.
    """
    matrices: Any
    for name, layer in wrapped.named_modules():
        matrices, ranks = getattr(layer, "lora_A", None), getattr(layer, "r", None)
        for adapter, requested in ranks.items() if isinstance(ranks, dict) and matrices else ():
            rank = matrices[adapter].weight.shape[0] if adapter in matrices else requested
            if rank != requested:
                raise InputError(
                    f"method.r: the weights of {name!r} allow init_lora_weights a rank of {rank} at most, not "
                    f"{requested}; lower r, or set a rank for this layer in rank_pattern"
                )


EVA_BATCHES = 32
"""The number of batches that EVA iterates over until its directions are stable."""
MAX_EVA_PASSES = 100 * EVA_BATCHES
"""The number of forward passes after which EVA is stopped."""


def initialize_eva(wrapped: nn.Module, context: ApplyContext) -> None:
    """Initialize updates from the principal directions of each layer's inputs (EVA, Paischer et al., 2024).

    Args:
        wrapped: The model with LoRA adapters.
        context: The settings of the run, with training batches.

    Raises:
        InputError: There are no training batches, or EVA's directions do not become stable.
    """
    from peft import initialize_lora_eva_weights

    if context.batches is None:
        raise InputError('init_lora_weights = "eva" needs training data, and there is none here')
    peft_model: Any = wrapped
    device = next(wrapped.parameters()).device
    batches = [{key: value.to(device) for key, value in batch.items()} for batch in context.batches(EVA_BATCHES)]
    passes = 0

    def forward(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
        nonlocal passes
        passes += 1
        if passes > MAX_EVA_PASSES:
            raise InputError(
                f"EVA has not converged after {MAX_EVA_PASSES} forward passes; lower method.r or eva_config.rho, or "
                "raise train.batch_size"
            )
        model(**{key: value for key, value in batch.items() if key != "labels"})

    def position_masks(batch: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
        """Return masks of shape (batch, length) of the source and target positions that count."""
        masks = {"source": batch["attention_mask"].bool()}
        if batch["labels"].ndim == 2 and config.eva_config.use_label_mask:
            masks["target"] = batch["labels"] != config.eva_config.label_mask_value
            if context.model_kind == "decoder":  # source and target are one sequence, and only the target is trained
                masks["source"] = masks["source"] & masks["target"]
        return masks

    def select_inputs(layer_inputs: Any, masks: Mapping[str, Tensor], layer: str) -> Tensor:
        """Return the input vectors of a layer at these positions, of shape (positions, hidden size)."""
        inputs: Tensor = layer_inputs if not isinstance(layer_inputs, tuple | list) else layer_inputs[0]
        if inputs.ndim == 2:
            return inputs
        cross_attention = "EncDecAttention" in layer or "encoder_attn" in layer
        reads_encoder = cross_attention and layer.rsplit(".", 1)[-1] in ("k", "v", "k_proj", "v_proj")
        mask = masks.get("target" if "decoder" in layer.split(".") and not reads_encoder else "source")
        if mask is None or mask.shape != inputs.shape[:2]:
            return inputs.flatten(0, 1)
        return inputs[mask]

    initialize_lora_eva_weights(
        peft_model,
        batches,
        forward_fn=forward,
        prepare_model_inputs_fn=position_masks,
        prepare_layer_inputs_fn=select_inputs,
        gather_distributed_inputs=False,
        show_progress_bar=False,
    )
