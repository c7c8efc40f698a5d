"""Methods of peft that decide while they train what goes on learning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from peftkit.components import Context, Refusal, Situation
from peftkit.errors import InputError
from peftkit.methods._peft import PeftMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

SHARDED = Refusal(
    lambda s: s.sharded,
    "it weighs whole gradients, of which each process would hold a part",
    "train without DeepSpeed and FSDP",
)
ADAPTER = "default"


class AdaLora(PeftMethod):
    """Low-rank updates whose ranks go to the layers that need them (AdaLoRA, Zhang et al., 2023).

    They have the form of a singular value decomposition. All begin with ``init_r``; from step ``tinit`` until
    ``tfinal`` steps before the end the least important directions are cut, until ``target_r`` a layer are left on
    average. The runner gives the number of steps, and adds the penalty that keeps the two sides orthogonal to the loss
    that is trained; the recorded one is without it.
    """

    peft_type: ClassVar[str] = "ADALORA"
    without: ClassVar[frozenset[str]] = frozenset(
        {
            *("total_step", "r"),
            # LoRA's, which AdaLoRA inherits and does not read.
            *("use_rslora", "use_dora", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "lora_bias"),
            *("velora_config", "alora_invocation_tokens", "use_qalora", "qalora_group_size", "monteclora_config"),
            *("layer_replication", "runtime_config", "target_parameters", "use_bdlora", "arrow_config", "kasa_config"),
            *("trainable_token_indices", "ensure_weight_tying", "rank_pattern", "alpha_pattern"),
        }
    )
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(
            lambda s: not s.steps_known,
            "it plans its ranks over the steps of the run, and the budget does not tell their number",
            "limit train.budget by steps, samples or epochs alone",
        ),
        SHARDED,
    )

    name: Literal["adalora"] = "adalora"
    target_r: int = Field(default=8, gt=0)
    """The average rank at the end."""
    init_r: int = Field(default=12, gt=0)
    """The rank at the beginning."""
    init_lora_weights: bool = True
    """Whether the update begins as nothing."""
    beta1: float = Field(default=0.85, gt=0, lt=1)
    """How slowly the importance follows."""
    beta2: float = Field(default=0.85, gt=0, lt=1)
    """How slowly the uncertainty of the importance follows."""
    orth_reg_weight: float = Field(default=0.5, ge=0)
    """The weight of the penalty on sides that are not orthogonal."""

    @model_validator(mode="after")
    def _ranks_only_fall(self) -> Self:
        if self.init_r < self.target_r:
            raise ValueError(
                f"init_r = {self.init_r} is below target_r = {self.target_r}, and ranks are cut only; raise init_r, or "
                "lower target_r"
            )
        return self

    def options(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """peft's options, with the number of steps.

        Raises:
            InputError: that number is not known.
        """
        if context.steps is None:
            raise InputError(f"{self.name!r} plans over the steps of the run, and their number is not known")
        return {**super().options(model, context), "total_step": context.steps}

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Wraps the model; the number of ranks does not learn, wherever the weights are: peft says so on a CPU only."""
        made = super().apply(model, context)
        for key, parameter in made.named_parameters():
            if ".ranknum." in key:
                parameter.requires_grad = False
        return made

    def penalty(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor | None:
        """The mean distance of the two sides from orthogonal ones, weighed."""
        import torch

        distances = []
        for key, side in model.named_parameters():
            if side.requires_grad and ("lora_A" in key or "lora_B" in key):
                product = side @ side.T if "lora_A" in key else side.T @ side
                distances.append(torch.linalg.norm(product - torch.eye(len(product), device=side.device)))
        return self.orth_reg_weight * torch.stack(distances).mean() if distances else None

    def after_step(self, model: nn.Module, step: int) -> None:
        """Weighs every direction by its gradient, and cuts the least important ones."""
        cast(Any, model).base_model.update_and_allocate(step)

    def may_move(self, tensor: str) -> bool:
        """The number of ranks is a parameter without a gradient."""
        return ".ranknum." in tensor

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The running importance and its uncertainty, and which ranks are left."""
        import torch

        allocator = cast(Any, model).base_model.rankallocator
        held = {f"{kind}/{key}": value for kind in KINDS for key, value in getattr(allocator, kind).items()}
        left = self._config(model).rank_pattern or {}
        return held | {f"rank_pattern/{key}": torch.as_tensor(value).flatten() for key, value in left.items()}

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Puts back what ``state`` gave."""
        allocator = cast(Any, model).base_model.rankallocator
        left: dict[str, list[bool]] = {}
        for name, value in state.items():
            kind, key = name.split("/", 1)
            if kind == "rank_pattern":
                left[key] = value.tolist()
            else:
                getattr(allocator, kind)[key] = value.clone()
        self._config(model).rank_pattern = left or None

    def load(self, model: nn.Module, folder: Path) -> None:
        """Reads peft's own form: ranks that were cut are not in it, and stay without effect.

        Raises:
            ValueError: the file's tensors are not those of the method.
        """
        import torch
        from peft import AdaLoraConfig
        from peft.utils import SAFETENSORS_WEIGHTS_NAME
        from safetensors.torch import load_file

        stored = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
        left = AdaLoraConfig.from_pretrained(str(folder)).rank_pattern or {}
        kept = {key.split(".lora_E")[0]: torch.tensor(value) for key, value in left.items()}
        trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
        own = {key.replace(f".{ADAPTER}", "").replace(".modules_to_save", ""): p for key, p in trained.items()}
        if different := sorted(own.keys() ^ stored.keys()):
            raise ValueError(f"{folder}: {len(different)} tensors do not match the model, such as {different[0]}")
        with torch.no_grad():
            for key, parameter in own.items():
                ranks = kept.get(key.removeprefix("base_model.model.").split(".lora_")[0])
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


KINDS = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class Adamss(PeftMethod):
    """Updates in several small subspaces of each weight (AdaMSS, Zheng et al., 2025)."""

    peft_type: ClassVar[str] = "ADAMSS"

    name: Literal["adamss"] = "adamss"
    use_asa: bool = False
    """Whether subspaces are frozen while it trains; refused, since no checkpoint could follow."""

    def refuses(self, situation: Situation) -> list[str]:
        """The reasons, with remedies, why the method cannot be used so."""
        reasons = super().refuses(situation)
        if self.use_asa:
            text = "use_asa changes which weights learn while they do, so that no run could be resumed; leave it out"
            reasons.append(text)
        return reasons
