"""LoRA and its variants, with data-driven EVA initialization."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import AliasChoices, Field, model_validator

from peftkit.components import ApplyContext, ModelKind, OptionProblem, RunSpec
from peftkit.errors import InputError
from peftkit.methods.lora_variants import (
    freeze_first_matrices,
    load_velora_state,
    loftq_problem,
    precondition_riemannian,
    project_lorafa,
    require_linear_layers,
    share_velora_projections,
    velora_state,
)
from peftkit.methods.peft_base import CONV1D, PeftMethod
from peftkit.methods.peft_config import SubConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

OPTIMIZER_OPTIONS = frozenset({"loraplus_lr_ratio", "use_lorafa", "riemannian_reg"})
"""Options that are not of peft's configuration: arguments of its optimizers."""
MICA = 'init_lora_weights = "mica"'
VARIANTS = ("use_dora", "use_bdlora", "velora_config", "monteclora_config", "kasa_config")
"""Options that give a layer another forward or backward pass; so does MiCA."""
EXCLUDED = {
    "use_lorafa": (*VARIANTS, MICA, "riemannian_reg", "loraplus_lr_ratio", "target_parameters"),
    "riemannian_reg": ("use_bdlora", MICA, "target_parameters"),
}
"""Options that change gradients, with the options that they do not work with."""


class LoftQConfig(SubConfig):
    """The quantization of LoftQ."""

    peft_class: ClassVar[tuple[str, str]] = ("peft.tuners.lora.config", "LoftQConfig")

    loftq_bits: Literal[4, 8] = 4
    """The bits of a weight."""
    loftq_iter: int = Field(default=1, gt=0)
    """How often the weights and the update are fitted in turn."""


class Lora(PeftMethod):
    """Low-rank updates of frozen linear layers (LoRA, Hu et al., 2022).

    Options select variants. ``use_dora`` trains the magnitude of each column separately from its direction (DoRA, Liu
    et al., 2024), and ``use_rslora`` scales the update by alpha/√r (rsLoRA, Kalajdzievski, 2023). ``init_lora_weights``
    selects PiSSA (Meng et al., 2024) or OLoRA (Büyükakyüz, 2024), which change the frozen weights, so that the adapter
    fits only the weights it was trained on; MiCA, which trains one of the two matrices; or EVA (Paischer et al., 2024),
    which initializes updates and allocates ranks from activations on training data. ``loraplus_lr_ratio`` is LoRA+
    (Hayou et al., 2024), ``kasa_config`` KaSA (Wang et al., 2024) and ``monteclora_config`` MonteCLoRA (Sengupta et
    al., 2024); the penalties of the last two are part of the training loss and not of the recorded one. ``use_lorafa``
    is LoRA-FA (Zhang et al., 2023) and ``riemannian_reg`` Riemannian preconditioning (Zhang and Pilanci, 2024): peft
    has them as optimizers, and here they change the gradients that any optimizer reads. ``velora_config`` is VeLoRA
    (Miles et al., 2024), and ``use_bdlora`` BD-LoRA with block-diagonal matrices. ``init_lora_weights = "loftq"``
    (LoftQ, Li et al., 2023) starts from 4-bit or 8-bit weights and the update that is closest to what they lose.
    """

    peft_type: ClassVar[str] = "LORA"
    excluded_options: ClassVar[frozenset[str]] = frozenset(
        {
            *("corda_config", "lora_ga_config"),  # initialize from data and change the base weights
            *("use_qalora", "qalora_group_size", "runtime_config"),  # for models of GPTQ, or offloaded ones
            "alora_invocation_tokens",  # looks for tokens that no task writes
            "arrow_config",  # mixes existing adapters
        }
    )
    placeholder_options: ClassVar[Mapping[str, Any]] = {"loftq_config": {"loftq_bits": 4, "loftq_iter": 1}}

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
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "olora", "pissa", "mica", "eva", "loftq"] = True
    """Initialization: true is Kaiming-uniform for A and zeros for B, false is random for both."""
    loftq_config: LoftQConfig | None = None
    """The quantization of LoftQ, by default to 4 bits in one iteration."""
    loraplus_lr_ratio: float | None = Field(default=None, ge=1)
    """The learning rate of B relative to that of A (LoRA+, which recommends 16)."""
    use_lorafa: bool = False
    """Freeze A, and fit the gradient of B to that of full fine-tuning (LoRA-FA)."""
    riemannian_reg: float | None = Field(default=None, gt=0)
    """Precondition the gradients of A and B by each other, with this damping (`reg` of peft's
    `create_riemannian_optimizer`, where it is 0.01)."""
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    """Ranks of individual layers, by name or regular expression."""
    alpha_pattern: dict[str, int] = Field(default_factory=dict)
    """Alphas of individual layers, by name or regular expression."""
    modules_to_save: tuple[str, ...] | None = None
    """Further modules to train fully; an encoder's classification head always is."""

    @property
    def can_disable_adapter(self) -> bool:
        """Whether peft can disable the adapter, which it cannot if the initialization changes the model's weights."""
        changes_weights = (
            self.init_lora_weights in ("olora", "pissa", "loftq") or self._option("kasa_config") is not None
        )
        return super().can_disable_adapter and not changes_weights

    @model_validator(mode="after")
    def _check_variants(self) -> Lora:
        if self.init_lora_weights == "orthogonal" and any(r % 2 for r in (self.r, *self.rank_pattern.values())):
            raise ValueError('init_lora_weights = "orthogonal" needs an even rank')
        mica = [MICA] if self.init_lora_weights == "mica" else []
        variants = [name for name in VARIANTS if self._option(name)] + mica
        if len(variants) > 1:
            raise ValueError(
                f"{variants[0]} and {variants[1]} are two variants, which peft cannot mix; use one of them"
            )
        for option, excluded in EXCLUDED.items():
            others = [name for name in excluded if name in mica or self._option(name)]
            if self._option(option) and others:
                raise ValueError(f"{option} does not work with {others[0]}; use one of them")
        if self._option("loftq_config") is not None and self.init_lora_weights != "loftq":
            raise ValueError('loftq_config needs init_lora_weights = "loftq"')
        if self._option("eva_config") is not None and self.init_lora_weights != "eva":
            raise ValueError('eva_config needs init_lora_weights = "eva"')
        return self

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the method cannot be used in a recipe, each with its remedy."""
        reasons = super().incompatible_with(spec)
        if self.init_lora_weights == "olora" and spec.model_type in CONV1D:
            reasons.append('peft\'s "olora" fails on GPT-2\'s transposed layers; set init_lora_weights = "pissa"')
        if self.init_lora_weights == "loftq" and spec.model_type in CONV1D:
            reasons.append('peft\'s "loftq" fails on GPT-2\'s transposed layers; set init_lora_weights = "pissa"')
        if self.init_lora_weights == "loftq" and spec.quantization:
            reasons.append('"loftq" quantizes the weights itself; remove model.quantization')
        if self.reads_gradients and spec.sharded:
            option = "use_lorafa" if self.use_lorafa else "riemannian_reg"
            reasons.append(f"{option} needs whole gradients, which would be sharded; train without DeepSpeed and FSDP")
        return reasons

    def find_option_problems(self, model_kind: ModelKind | None) -> list[OptionProblem]:
        """Find options that peft rejects, and whether this machine lacks what LoftQ needs."""
        problems = super().find_option_problems(model_kind)
        if self.init_lora_weights == "loftq" and (problem := loftq_problem()):
            problems.append(OptionProblem("init_lora_weights", f'"loftq": {problem}'))
        return problems

    @property
    def microbatch_dependence(self) -> str:
        """Why results depend on the microbatch size, which they do with MonteCLoRA and VeLoRA."""
        if self._option("monteclora_config") is not None:
            return "its first matrices are sampled for each forward pass during training"
        if self._option("velora_config") is not None:
            return "its gradients depend on the mean activations of a microbatch"
        return ""

    @property
    def reads_gradients(self) -> bool:
        """Whether gradients are changed before the optimizer's step."""
        return self.use_lorafa or self.riemannian_reg is not None

    def options(self, model: nn.Module, context: ApplyContext) -> dict[str, Any]:
        """Return peft's options, without those that peft gives to functions of its optimizers."""
        options = super().options(model, context)
        if self.target_modules is None and not self._option("target_parameters"):
            # peft forgets its own defaults where it converts names of experts that transformers 5 has fused.
            options |= {"target_modules": targets} if (targets := self._default_targets(model)) else {}
        if self.init_lora_weights == "loftq":
            if next(model.parameters()).is_meta:  # shapes only
                options = {**options, "init_lora_weights": True, "loftq_config": {}}
            elif problem := loftq_problem():
                raise InputError(f'method.init_lora_weights: "loftq": {problem}')
            else:
                options.setdefault("loftq_config", LoftQConfig().build())
        return {key: value for key, value in options.items() if key not in OPTIMIZER_OPTIONS}

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Wrap the model into a ``PeftModel`` that trains the updates and, on an encoder, its head.

        Raises:
            InputError: The options do not fit the model, or there is no training data for EVA.
        """
        wrapped = super().apply(model, context)
        check_ranks(wrapped)
        if self.init_lora_weights == "eva":
            initialize_eva(wrapped, context)
        if self.use_lorafa:  # after EVA, which makes new matrices
            freeze_first_matrices(wrapped)
        if self.riemannian_reg is not None:
            require_linear_layers(wrapped, "riemannian_reg")
        return wrapped

    def value_in_layer(self, layer: Any, option: str) -> float | None:
        """Return an option's value; peft adds the ranks of projections that transformers 5 has fused in experts."""
        return None if hasattr(layer, "parameter_name") else super().value_in_layer(layer, option)

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

    def before_step(self, model: nn.Module, step: int) -> None:
        """Change the gradients as peft's optimizers for LoRA-FA and Riemannian preconditioning do."""
        if self.use_lorafa:
            project_lorafa(model)
        if self.riemannian_reg is not None:
            precondition_riemannian(model, self.riemannian_reg)
        if step == 1 and self._option("velora_config") is not None:
            share_velora_projections(model)

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return VeLoRA's projections, some of which only the first batch sets."""
        return velora_state(model)

    def load_state_dict(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Restore VeLoRA's projections."""
        load_velora_state(model, state)

    def may_change(self, tensor: str) -> bool:
        """Return whether the tensor is a buffer of MonteCLoRA's sampler, or a projection of VeLoRA."""
        return ".lora_monteclora_sampler." in tensor or ".lora_velora_embed." in tensor

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
            rank //= getattr(layer, "num_experts", 1)  # whose matrices are stacked
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
