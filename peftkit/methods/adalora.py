"""AdaLoRA, with the number of steps, the orthogonality penalty and resumable rank allocation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from peftkit.components import ApplyContext, Incompatibility
from peftkit.errors import InputError
from peftkit.methods.peft_base import PeftMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

SHARDED = Incompatibility(
    lambda s: s.sharded,
    "it needs whole gradients, which would be sharded across processes",
    "train without DeepSpeed and FSDP",
)
ADAPTER = "default"
SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""The attributes of peft's ``RankAllocator`` that hold importance scores by parameter."""


class AdaLora(PeftMethod):
    """Low-rank updates with an adaptive rank per layer (AdaLoRA, Zhang et al., 2023).

    Updates are parameterized like a singular value decomposition. All layers start with rank ``init_r``. From step
    ``tinit`` until ``tfinal`` steps before the end, the least important singular directions are pruned until the
    average rank is ``target_r``. An orthogonality penalty is added to the training loss, but not to the recorded loss.
    """

    peft_type: ClassVar[str] = "ADALORA"
    placeholder_options: ClassVar[Mapping[str, Any]] = {"total_step": 10**9}
    excluded_options: ClassVar[frozenset[str]] = frozenset(
        {
            *("total_step", "r"),
            # Options inherited from LoRA that have no effect in AdaLoRA.
            *("use_rslora", "use_dora", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "lora_bias"),
            *("velora_config", "alora_invocation_tokens", "use_qalora", "qalora_group_size", "monteclora_config"),
            *("layer_replication", "runtime_config", "target_parameters", "use_bdlora", "arrow_config", "kasa_config"),
            *("trainable_token_indices", "ensure_weight_tying", "rank_pattern", "alpha_pattern"),
        }
    )
    incompatibilities: ClassVar[tuple[Incompatibility, ...]] = (
        Incompatibility(
            lambda s: not s.steps_known,
            "it schedules ranks over the steps of the run, and the budget does not determine their number",
            "limit train.budget only by steps, samples or epochs",
        ),
        SHARDED,
    )

    name: Literal["adalora"] = "adalora"
    target_r: int = Field(default=8, gt=0)
    """The average rank at the end of training."""
    init_r: int = Field(default=12, gt=0)
    """The rank at the start of training."""
    init_lora_weights: bool = True
    """Whether updates are initialized to zero."""
    beta1: float = Field(default=0.85, gt=0, lt=1)
    """The decay of the moving average of importance scores."""
    beta2: float = Field(default=0.85, gt=0, lt=1)
    """The decay of the moving average of their uncertainty."""
    orth_reg_weight: float = Field(default=0.5, ge=0)
    """The weight of the orthogonality penalty."""

    @model_validator(mode="after")
    def _check_ranks(self) -> Self:
        if self.init_r < self.target_r:
            raise ValueError(
                f"init_r = {self.init_r} is below target_r = {self.target_r}, but ranks only decrease; "
                "raise init_r, or lower target_r"
            )
        return self

    def options(self, model: nn.Module, context: ApplyContext) -> dict[str, Any]:
        """Return peft's options, including the number of steps.

        Raises:
            InputError: The number of steps is not known.
        """
        if context.steps is None:
            raise InputError(f"{self.name!r} schedules ranks over the steps of the run, but their number is not known")
        return {**super().options(model, context), "total_step": context.steps}

    def apply(self, model: nn.Module, context: ApplyContext) -> nn.Module:
        """Wrap the model and freeze ``ranknum``, which peft freezes on a CPU only."""
        wrapped = super().apply(model, context)
        for key, parameter in wrapped.named_parameters():
            if ".ranknum." in key:
                parameter.requires_grad = False
        return wrapped

    def auxiliary_loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Return the weighted mean orthogonality penalty of the update matrices."""
        import torch

        penalties = []
        for key, matrix in model.named_parameters():
            if matrix.requires_grad and ("lora_A" in key or "lora_B" in key):
                product = matrix @ matrix.T if "lora_A" in key else matrix.T @ matrix
                penalties.append(torch.linalg.norm(product - torch.eye(len(product), device=matrix.device)))
        return self.orth_reg_weight * torch.stack(penalties).mean() if penalties else None

    def after_step(self, model: nn.Module, step: int) -> None:
        """Update the importance scores from the gradients, and prune ranks."""
        cast(Any, model).base_model.update_and_allocate(step)

    def may_change(self, tensor: str) -> bool:
        """Return whether the tensor is ``ranknum``, a parameter without a gradient."""
        return ".ranknum." in tensor

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the importance scores and the remaining ranks."""
        import torch

        allocator = cast(Any, model).base_model.rankallocator
        scores = {f"{kind}/{key}": value for kind in SCORES for key, value in getattr(allocator, kind).items()}
        ranks = self._config(model).rank_pattern or {}
        return scores | {f"rank_pattern/{key}": torch.as_tensor(value).flatten() for key, value in ranks.items()}

    def load_state_dict(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Restore the importance scores and the remaining ranks."""
        allocator = cast(Any, model).base_model.rankallocator
        ranks: dict[str, list[bool]] = {}
        for name, value in state.items():
            kind, key = name.split("/", 1)
            if kind == "rank_pattern":
                ranks[key] = value.tolist()
            else:
                getattr(allocator, kind)[key] = value.clone()
        self._config(model).rank_pattern = ranks or None

    def load(self, model: nn.Module, folder: Path) -> None:
        """Load peft's files. They leave out pruned ranks, which stay zero.

        Raises:
            ValueError: The tensors in the file are not those of the method.
        """
        import torch
        from peft import AdaLoraConfig
        from peft.utils import SAFETENSORS_WEIGHTS_NAME
        from safetensors.torch import load_file

        stored = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
        pattern = AdaLoraConfig.from_pretrained(str(folder)).rank_pattern or {}
        ranks_by_layer = {key.split(".lora_E")[0]: torch.tensor(value) for key, value in pattern.items()}
        trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
        expected = {key.replace(f".{ADAPTER}", "").replace(".modules_to_save", ""): p for key, p in trained.items()}
        if mismatched := sorted(expected.keys() ^ stored.keys()):
            raise ValueError(f"{folder}: {len(mismatched)} tensors do not match the model, such as {mismatched[0]}")
        with torch.no_grad():
            for key, parameter in expected.items():
                ranks = ranks_by_layer.get(key.removeprefix("base_model.model.").split(".lora_")[0])
                if ranks is None:
                    parameter.copy_(stored[key])
                    continue
                parameter.zero_()
                if ".lora_B" in key:
                    parameter[:, ranks] = stored[key]
                else:
                    parameter[ranks] = stored[key]

    def _config(self, model: nn.Module) -> Any:
        return cast(Any, model).peft_config[ADAPTER]
