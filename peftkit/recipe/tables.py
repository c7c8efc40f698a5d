"""The tables of a recipe, as frozen, strict pydantic models."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from peftkit.components import Component, Method, Metric, Task
from peftkit.errors import PluginError, listed, one_line
from peftkit.plugins import Kind, Registry
from peftkit.recipe.names import model_problem, optimizer_problem

FORMAT = 1
LOSS = "loss"
"""The value that every evaluation has, whatever the metrics."""
"""The version of the recipe's form; a reader refuses a newer one."""


class Table(BaseModel):
    """A table of the recipe: unknown keys are refused, nothing is coerced, nothing changes afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class RunTable(Table):
    """What the run is called, its seed, and where it is written."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Begins the run directory's name."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Seeds dropout and the training sample, and the two below where they are unset."""
    init_seed: int | None = Field(default=None, ge=0, lt=2**32)
    """Seeds the weights that are new: the method's and a head's; unset for `seed`."""
    order_seed: int | None = Field(default=None, ge=0, lt=2**32)
    """Seeds the order of the training rows; unset for `seed`."""
    resample_train: Literal["bootstrap", "subset"] | None = None
    """Draws the training rows by `seed`, the same for every method: as many as there are, with replacement, or a share
    of them without; unset trains on all rows with every seed."""
    subset_fraction: float | None = Field(default=None, gt=0, lt=1)
    """The share of the training rows that `resample_train = "subset"` draws; unset for half."""
    output: str = Field(default="runs", min_length=1)
    """The folder that holds the run directories."""

    @property
    def effective_init_seed(self) -> int:
        """The seed of new weights."""
        return self.seed if self.init_seed is None else self.init_seed

    @property
    def effective_order_seed(self) -> int:
        """The seed of the training rows' order."""
        return self.seed if self.order_seed is None else self.order_seed


class ModelTable(Table):
    """The pre-trained model."""

    name: str = Field(min_length=1)
    """A hub id, a local folder, or built-in: pocket-t5, pocket-decoder, pocket-encoder."""
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = "float32"
    """The precision its weights are loaded in, whatever precision they were saved in; float64 is for checks."""
    revision: str | None = None
    """A branch, tag or commit of a hub model."""
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    """transformers' attention implementation; unset leaves the choice to transformers."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Frozen weights of 4 bits (NF4, QLoRA, Dettmers et al., 2023) or 8 (LLM.int8, Dettmers et al., 2022), by
    bitsandbytes; needs a GPU and a method that learns beside them."""
    trust_remote_code: bool = False
    """Whether code that comes with a hub model may be run."""
    keep_head: bool = False
    """Whether an encoder keeps the classification head of its checkpoint, matched to the task's labels by name, instead
    of a new one."""

    @field_validator("name")
    @classmethod
    def _may_be_meant(cls, value: str) -> str:
        return _refused(model_problem(value), value)


HEAD_LEARNING_RATE = 1e-3
"""The learning rate of classification heads for which the recipe names none."""
SMALLEST = 1e-6
"""The least share, or amount, that a budget or an interval may be of."""


class BudgetTable(Table):
    """When training ends: the first limit reached."""

    steps: int | None = Field(default=None, gt=0)
    """Optimizer steps."""
    samples: int | None = Field(default=None, gt=0)
    """Training rows, each pass over a row counted."""
    tokens: int | None = Field(default=None, gt=0)
    """Input and target tokens together, padding not counted."""
    epochs: float | None = Field(default=None, ge=SMALLEST)
    """Passes over the training rows."""
    seconds: float | None = Field(default=None, ge=SMALLEST)
    """Seconds of training steps; evaluation and the wait for data are not counted."""
    gmacs: float | None = Field(default=None, ge=SMALLEST)
    """Billions of multiply-accumulates of training's passes, forward and backward."""
    joules: float | None = Field(default=None, ge=SMALLEST)
    """Joules of training steps, where an installed meter reads them, such as that of ``peftkit-energy``."""

    @property
    def tells_steps(self) -> bool:
        """Whether the number of steps follows from the limits beforehand."""
        others = (self.tokens, self.seconds, self.gmacs, self.joules)
        return any(limit is not None for limit in (self.steps, self.samples, self.epochs)) and others == (None,) * 4

    @model_validator(mode="after")
    def _some_limit(self) -> BudgetTable:
        if all(limit is None for _, limit in self):
            keys = ", ".join(type(self).model_fields)
            raise PydanticCustomError("no_limit", "needs at least one limit of: {keys}", {"keys": keys})
        return self


class CheckpointTable(Table):
    """What a run that is killed can go on from."""

    every: str = "10%"
    """As `evaluate.every`; `"off"` writes none but when a signal ends the run."""
    keep: int = Field(default=1, gt=0)
    """How many are kept, the newest."""

    @field_validator("every")
    @classmethod
    def _readable(cls, value: str) -> str:
        if value != "off":
            interval(value)
        return value


class DeepSpeedTable(Table):
    """DeepSpeed's ZeRO, which shards among processes; needs the extra `deepspeed` and a launcher."""

    stage: Literal[0, 1, 2, 3] | None = None
    """1 shards the optimizer's state, 2 the gradients too, 3 the weights too; unset trains without DeepSpeed."""
    offload_optimizer: Literal["none", "cpu"] = "none"
    """Where the optimizer's state lies."""
    offload_parameters: Literal["none", "cpu"] = "none"
    """Where the weights lie at stage 3."""
    config: str | None = None
    """A JSON file of DeepSpeed's own settings, for all that the recipe does not say."""

    @property
    def used(self) -> bool:
        """Whether the recipe asks for DeepSpeed."""
        return self.stage is not None or self.config is not None


class TrainTable(Table):
    """How it is trained."""

    batch_size: int = Field(default=8, gt=0)
    """Rows a process takes at a time."""
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    """Batches that make one optimizer step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """The peak learning rate."""
    head_learning_rate: float | None = Field(default=None, gt=0)
    """The peak learning rate of an encoder's classification head, the same for every method of a comparison; unset for
    1e-3."""
    optimizer: str = "adafactor"
    """adafactor (fixed rate, no relative step, no parameter scaling), adamw, or any name in torch.optim."""
    optimizer_options: dict[str, bool | int | float | str | list[float]] = Field(default_factory=dict)
    """Further arguments of the optimizer, by its own names."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled or L2, as the optimizer has it."""
    schedule: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"] = "constant"
    """How the learning rate falls over the budget; transformers' names."""
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    """The share of the budget over which the learning rate rises from zero."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """The norm that gradients are clipped to; 0 leaves them as they are."""
    on_nan: Literal["stop", "skip"] = "stop"
    """Whether a loss that is no number ends the run, its batch saved, or is skipped and counted."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Autocast precision of the forward pass."""
    gradient_checkpointing: bool = False
    """Recomputes activations (non-reentrant) instead of keeping them."""
    max_source_length: int = Field(default=512, gt=0)
    """Tokens of a source kept at the most."""
    max_target_length: int = Field(default=128, gt=0)
    """Tokens of a target or candidate kept at the most."""
    cut_targets: float = Field(default=0.01, ge=0, le=1)
    """The share of targets or candidates that may lose tokens to `max_target_length`; more is refused."""
    workers: int = Field(default=0, ge=0)
    """Processes that prepare batches."""
    budget: BudgetTable = BudgetTable(epochs=1)
    """When training ends."""
    checkpoint: CheckpointTable = CheckpointTable()
    """What a run that is killed can go on from."""
    deepspeed: DeepSpeedTable = DeepSpeedTable()
    """DeepSpeed's ZeRO, which shards among processes; needs the extra `deepspeed` and a launcher."""

    fsdp: bool = False
    """FSDP2, which shards weights, gradients and the optimizer's state among GPUs; needs a launcher."""

    @property
    def head_rate(self) -> float:
        """The peak learning rate of a classification head."""
        return HEAD_LEARNING_RATE if self.head_learning_rate is None else self.head_learning_rate

    @field_validator("optimizer")
    @classmethod
    def _can_be_had(cls, value: str) -> str:
        return _refused(optimizer_problem(value), value)


class EvaluateTable(Table):
    """When and how it is evaluated."""

    every: str = "10%"
    """`"100 steps"`, `"0.5 epochs"`, a share of the budget such as `"10%"`, or `"20 log"`: so many evaluations, evenly
    spaced on a logarithmic scale from a thousandth of the budget to the whole."""
    at_start: bool = True
    """Whether to evaluate before training too."""
    batch_size: int = Field(default=32, gt=0)
    """Examples a process evaluates at a time."""
    train_examples: int = Field(default=256, ge=0)
    """Training rows evaluated along the curve, the same for every seed unless `run.resample_train` draws others; 0 for
    none."""
    dev_examples: int | None = Field(default=None, gt=0)
    """Dev rows evaluated along the curve, by which the checkpoint is selected: a sample that keeps the proportions of
    the answers and is the same for every seed; unset for all."""
    test_examples: int | None = Field(default=None, gt=0)
    """Test rows evaluated along the curve, drawn likewise; unset for all."""
    whole: bool = True
    """Whether the selected checkpoint is evaluated once on all of dev and test, where the curve is of samples; false
    reports it on the samples, which saves time and is less certain."""
    selects: str | None = None
    """The value whose best dev score selects the checkpoint: `"loss"`, or what a metric gives; unset for the task's."""
    scoring: Literal["sum", "norm"] = "sum"
    """Whether candidates are ranked by log-likelihood, or by log-likelihood per token."""
    max_new_tokens: int = Field(default=48, gt=0)
    """Tokens generated at the most."""
    num_beams: int = Field(default=1, gt=0)
    """Beams of the generation; 1 is greedy."""

    @field_validator("every")
    @classmethod
    def _readable(cls, value: str) -> str:
        interval(value)
        return value


class TrackTable(Table):
    """Where the curve is sent besides the run directory."""

    wandb: Literal["online", "offline", "off"] = "offline"
    """offline needs no account and asks nothing."""
    tensorboard: bool = False
    """Writes event files into the run directory."""
    project: str = Field(default="peftkit", min_length=1)
    """The tracker's project."""
    tags: tuple[str, ...] = ()
    """Words that W&B groups runs by."""


def interval(text: str) -> tuple[float, str]:
    """``"100 steps"`` → (100, "steps"), ``"0.5 epochs"`` → (0.5, "epochs"), ``"10%"``, ``"20 log"`` likewise."""
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]+)?)\s*(steps?|epochs?|%|log)\s*", text)
    number, unit = (float(found[1]), found[2]) if found else (0.0, "")
    unit = unit if unit in ("%", "log") else unit.rstrip("s") + "s"
    broken = unit in ("steps", "log") and number != int(number)
    if number < SMALLEST or broken or (unit == "%" and number > 100) or (unit == "log" and number < 2):
        form = "must be written as '100 steps', '0.5 epochs', '10%' (of the budget) or '20 log', above zero, not {text}"
        raise PydanticCustomError("interval", form, {"text": repr(text)})
    return number, unit


def _refused(problem: str, value: str) -> str:
    if problem:
        raise PydanticCustomError("unknown_name", "{problem}", {"problem": problem})
    return value


def _component(kind: Kind) -> PlainValidator:
    """Validates a table as the component it names, with the registry from the validation context."""

    def validate(value: Any, info: ValidationInfo) -> Component:
        if isinstance(value, Component):
            return value
        registry: Registry = (info.context or {})["registry"]
        known = list(registry.of(kind))
        if not isinstance(value, dict):
            example = value if value in known else next(iter(known), "…")
            header = "[[metric]]" if kind == "metric" else f"[{kind}]"
            raise _problem((), value, f'must be a table: {header} and below it name = "{example}"')
        if "name" not in value:
            raise _problem(("name",), value, f"missing; it is required, one of: {listed(known)}")
        name = value["name"]
        if not isinstance(name, str):
            raise _problem(("name",), name, f"must be in quotes, one of: {listed(known)}")
        try:
            entry = registry.find(kind, name)
        except PluginError as error:
            raise _problem(("name",), name, str(error)) from error
        try:
            return entry.component.model_validate_json(json.dumps(value), strict=True)
        except ValueError:  # pydantic's own, and what validators raise
            raise
        except Exception as error:  # a plugin's validator: it must not end in a traceback
            raise _problem((), value, f"{name!r} fails to check its options: {one_line(error)}") from error

    return PlainValidator(validate, json_schema_input_type=dict[str, Any])


def _problem(path: tuple[str, ...], value: Any, text: str) -> ValidationError:
    kind = PydanticCustomError("component_name", "{text}", {"text": text})
    return ValidationError.from_exception_data("component", [InitErrorDetails(type=kind, loc=path, input=value)])


class Recipe(Table):
    """A validated recipe: it holds the component objects, and nothing in it changes any more."""

    format: int = Field(default=FORMAT, ge=1)
    """The version of the recipe's form."""
    run: RunTable = RunTable()
    model: ModelTable
    task: Annotated[SerializeAsAny[Task], _component("task")]
    method: Annotated[SerializeAsAny[Method], _component("method")]
    train: TrainTable = TrainTable()
    evaluate: EvaluateTable = EvaluateTable()
    metric: tuple[Annotated[SerializeAsAny[Metric], _component("metric")], ...] = ()
    track: TrackTable = TrackTable()

    @property
    def selects(self) -> str:
        """The value whose best dev score selects the checkpoint."""
        return self.evaluate.selects or type(self.task).selects

    def higher_is_better(self, value: str) -> bool:
        """Whether more of a value is better; it is one that a metric gives, or the loss."""
        giving = (metric for metric in self.metric if value in metric.value_names)
        return value != LOSS and all(type(metric).higher_is_better for metric in giving)

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: int) -> int:
        if value > FORMAT:
            text = "is {value}, but this peftkit reads up to {known}; upgrade peftkit"
            raise PydanticCustomError("format", text, {"value": value, "known": FORMAT})
        return value
