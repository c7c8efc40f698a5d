"""The table ``[train]`` of a recipe, with its subtables."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from peftkit.recipe.optimizer_names import validate_optimizer_name
from peftkit.recipe.tables.config_table import ConfigTable
from peftkit.recipe.tables.intervals import MIN_AMOUNT, parse_bytes, parse_interval, raise_problem

HEAD_LEARNING_RATE = 1e-3
"""The learning rate of classification heads where the recipe sets none."""
WITHOUT_COST = (
    *("learning_rate", "head_learning_rate", "schedule", "warmup_ratio", "max_grad_norm", "on_nan", "workers"),
    *("checkpoint", "early_stopping", "fast_dropout", "compile", "keep_memory", "activation_offloading"),
)
"""Keys of ``train`` that change neither the model nor the multiply-accumulates of a step."""


class BudgetConfig(ConfigTable):
    """When training ends: at the first limit reached."""

    steps: int | None = Field(default=None, gt=0)
    """Optimizer steps."""
    samples: int | None = Field(default=None, gt=0)
    """Training rows; a row counts once per epoch."""
    tokens: int | None = Field(default=None, gt=0)
    """Input and target tokens, without padding."""
    epochs: float | None = Field(default=None, ge=MIN_AMOUNT)
    """Epochs."""
    seconds: float | None = Field(default=None, ge=MIN_AMOUNT)
    """Seconds of training steps, without evaluation and waiting for data."""
    wall_seconds: float | None = Field(default=None, ge=MIN_AMOUNT)
    """Seconds that a user waits for the run: loading, counting MACs, training, evaluations and saving."""
    gmacs: float | None = Field(default=None, ge=MIN_AMOUNT)
    """Billions of multiply-accumulates (MACs) of the forward and backward passes."""
    joules: float | None = Field(default=None, ge=MIN_AMOUNT)
    """Joules of training steps; needs a meter that measures them, such as that of `peftkit-energy`."""

    @property
    def has_known_steps(self) -> bool:
        """Whether the number of steps is known before training."""
        others = (self.tokens, self.seconds, self.wall_seconds, self.gmacs, self.joules)
        return any(limit is not None for limit in (self.steps, self.samples, self.epochs)) and others == (None,) * 5

    def scaled(self, share: float) -> BudgetConfig:
        """Return a share of this budget: whole numbers are rounded, to at least 1, and others have four digits.

        Args:
            share: The share.
        """
        limits = {key: share * limit for key, limit in self if limit is not None}
        whole = {key: max(1, round(limits[key])) for key in ("steps", "samples", "tokens") if key in limits}
        return BudgetConfig(**{key: max(MIN_AMOUNT, float(f"{limit:.4g}")) for key, limit in limits.items()} | whole)  # type: ignore[arg-type]

    @model_validator(mode="after")
    def _check_any_limit(self) -> BudgetConfig:
        if all(limit is None for _, limit in self):
            keys = ", ".join(type(self).model_fields)
            raise PydanticCustomError("no_limit", "needs at least one limit of: {keys}", {"keys": keys})
        return self


class CheckpointConfig(ConfigTable):
    """The checkpoints that `--resume` continues from."""

    every: str = "10%"
    """How often to write one, as `evaluate.every`; `"off"` writes one only when a signal ends the run."""
    keep: int = Field(default=1, gt=0)
    """How many of the newest checkpoints are kept."""

    @field_validator("every")
    @classmethod
    def _check_interval(cls, value: str) -> str:
        if value != "off":
            parse_interval(value)
        return value


class EarlyStoppingConfig(ConfigTable):
    """Ends training when the dev score that selects the checkpoint stops improving."""

    patience: int = Field(gt=0)
    """The number of evaluations without improvement after which training ends."""
    min_delta: float = Field(default=0.0, ge=0)
    """A score improves if it is better than the best one by more than this."""


class DeepSpeedConfig(ConfigTable):
    """DeepSpeed ZeRO: sharding among processes; needs the extra `deepspeed` and a launcher."""

    stage: Literal[0, 1, 2, 3] | None = None
    """1 shards the optimizer state, 2 also gradients, 3 also weights. By default, DeepSpeed is not used."""
    offload_optimizer: Literal["none", "cpu"] = "none"
    """Where the optimizer state is kept."""
    offload_parameters: Literal["none", "cpu"] = "none"
    """Where the weights are kept at stage 3."""
    config: str | None = None
    """A JSON file of DeepSpeed settings, for everything that the recipe does not set."""

    @property
    def used(self) -> bool:
        """Whether training uses DeepSpeed."""
        return self.stage is not None or self.config is not None


class TrainConfig(ConfigTable):
    """Training."""

    batch_size: int = Field(default=8, gt=0)
    """Rows per process and batch."""
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    """Batches per optimizer step."""
    tokens_per_batch: int | None = Field(default=None, gt=0)
    """Tokens of an optimizer step over all processes, instead of `batch_size` rows: as many rows of similar lengths as
    fit, each counted as long as the longest of them, so padding is included, as in fairseq's `--max-tokens`.
    `gradient_accumulation_steps` divides a step into microbatches. This is another optimization than a fixed number of
    rows: steps have more short rows than long ones."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """The peak learning rate."""
    head_learning_rate: float | None = Field(default=None, gt=0)
    """The peak learning rate of an encoder's classification head, the same for every method of a comparison. Defaults
    to 1e-3."""
    optimizer: str = "adafactor"
    """adafactor (fixed learning rate, no relative step, no parameter scaling), adamw, or a name in torch.optim."""
    optimizer_options: dict[str, bool | int | float | str | list[float]] = Field(default_factory=dict)
    """Further arguments of the optimizer. Adam and AdamW are fused unless `fused` is false."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay; decoupled or L2, as the optimizer implements it."""
    schedule: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"] = "constant"
    """The learning-rate schedule over the budget, by its name in transformers."""
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    """The share of the budget over which the learning rate rises linearly from zero."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """The norm that gradients are clipped to; 0 disables clipping."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What a NaN or infinite loss does: end the run and save its batch, or skip the step and count it."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """The autocast dtype of the forward pass."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass (non-reentrant) instead of storing them."""
    activation_offloading: bool = False
    """Keep activations in host memory until the backward pass; on a GPU only. With `gradient_checkpointing`, these are
    the inputs of the layers. Losses, gradients and MACs are the same; steps take longer and less memory."""
    pad_to_multiple_of: int = Field(default=1, gt=0)
    """Pad the rows of a batch to a multiple of this length, such as 8 for tensor cores, instead of to the longest row.
    Padding is computed, and counted."""
    fast_dropout: bool = True
    """On a CPU, draw the masks of dropout three times as fast as torch. They are others than torch's, with the same
    distribution."""
    fast_embedding_gradients: bool = True
    """On a CPU, add the gradients of embeddings to those of their table directly, instead of through a tensor of the
    table's size for each use. Gradients are the same up to rounding."""
    split_batches: bool = False
    """On a CPU, compute the rows of a batch in microbatches of similar lengths, where that saves more padding than
    another pass costs. Losses and gradients are the same, apart from dropout; padding, time and MACs are less."""
    cache_frozen_outputs: str | None = None
    """Keep the outputs of the frozen layers below everything that is trained on disk, up to this size, such as
    `"2GiB"`, and read them from the second epoch on instead of computing them. The loss is the same up to rounding;
    time and MACs are less. It has no effect, and says why, if something is trained in the first layer or below, if the
    frozen layers have dropout, or if all outputs take more. By default, nothing is cached."""
    keep_memory: bool = False
    """On a CPU with glibc, keep the memory that a step frees for the next one instead of giving it back to the system,
    which would clear it again: that may save up to a tenth of steps with long texts or large vocabularies, and takes
    more memory. It is given back before evaluations and at the end."""
    compile: bool = False
    """Compile the layers of the model with `torch.compile` for training, in a few variants for all lengths. Losses and
    gradients are the same. Compilation takes a minute or more, which is not part of the time of steps. Try it: it is
    meant for GPUs, and steps of `pocket-t5` on a CPU took 13 % longer. A model or method whose compiled layers compute
    something else is trained uncompiled."""
    all_logits: bool = False
    """Compute the logits of all positions, as `Trainer` does, instead of only those that predict a target. The loss is
    the same; time, memory and MACs are not."""
    max_source_length: int = Field(default=512, gt=0)
    """The largest number of tokens of a source; longer ones are truncated."""
    max_target_length: int = Field(default=128, gt=0)
    """The largest number of tokens of a target or candidate."""
    truncate_targets: float = Field(default=0.01, ge=0, le=1)
    """The largest share of targets or candidates that may be truncated to `max_target_length`; more is an error."""
    workers: int = Field(default=0, ge=0)
    """Processes that load batches."""
    budget: BudgetConfig = BudgetConfig(epochs=1)
    """When training ends."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """The checkpoints that `--resume` continues from."""
    early_stopping: EarlyStoppingConfig | None = None
    """Ends training when the dev score that selects the checkpoint stops improving. By default, the budget ends it."""
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    """DeepSpeed ZeRO: sharding among processes; needs the extra `deepspeed` and a launcher."""
    fsdp: bool = False
    """FSDP2: shard weights, gradients and optimizer state among GPUs; needs a launcher."""

    @property
    def effective_head_learning_rate(self) -> float:
        """The peak learning rate of a classification head."""
        return HEAD_LEARNING_RATE if self.head_learning_rate is None else self.head_learning_rate

    @field_validator("cache_frozen_outputs")
    @classmethod
    def _check_size(cls, value: str | None) -> str | None:
        if value is not None:
            parse_bytes(value)
        return value

    @field_validator("optimizer")
    @classmethod
    def _check_optimizer(cls, value: str) -> str:
        return raise_problem(validate_optimizer_name(value), value)
