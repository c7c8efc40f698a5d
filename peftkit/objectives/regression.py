"""Objectives of regression: a head with an output for each target, or numbers generated as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from peftkit.answer_texts.number_texts import format_number, join_numbers, parse_numbers
from peftkit.components import Example, Head, ModelKind, Objective, Prediction, Task
from peftkit.components.family_services import Batch
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import Row
from peftkit.errors import InputError, RowError
from peftkit.objectives.completions import FreeGeneration

if TYPE_CHECKING:
    from torch import Tensor, nn

Positive = Annotated[float, Field(gt=0)]


class RegressionObjective(Objective):
    """Base class of objectives that predict numbers; the answer is the text of the numbers."""

    task_kind = "regression"
    scored_values: ClassVar[tuple[str, ...] | None] = ()

    def possible_answers(self, task: Task, examples: Sequence[Example]) -> Sequence[str]:
        """Return the means and the medians of the targets, the best constants by squared and by absolute error."""
        columns = [*zip(*(parse_numbers(e.target) or () for e in examples), strict=True)]
        means = [sum(column) / len(column) for column in columns]
        return tuple({_answer(means): None, _answer([median(column) for column in columns]): None})

    def typical_answer(self, counts: Mapping[str, int]) -> str:
        """Return the mean of each target over the training rows."""
        rows = {parse_numbers(answer) or (): count for answer, count in counts.items()}
        total = sum(rows.values())
        weighted = [[number * count for number in numbers] for numbers, count in rows.items()]
        return _answer([sum(column) / total for column in zip(*weighted, strict=True)])

    def categories(self, task: Task, example: Example) -> Sequence[str]:
        """Return none, because targets are numbers."""
        return ()

    def numbers(self, example: Example) -> Sequence[float]:
        """Return the numbers of the target."""
        return parse_numbers(example.target) or ()

    def describe_constant_answer(self, answer: str) -> tuple[str, str]:
        """Describe that all targets are the same."""
        return f"the target is {answer}", "use rows with different targets"


class RegressionHead(RegressionObjective):
    """Regression by a head with one output for each target, trained on the mean squared error.

    As with transformers' ``problem_type = "regression"``, outputs are the targets as they are in the data, unless
    ``mean`` and ``std`` are set.
    """

    name: Literal["regression_head"] = "regression_head"
    mean: float | tuple[float, ...] = 0.0
    """What is subtracted from targets before training, such as their mean: one number, or one for each target.
    Predictions are on the scale of the data, and so are metrics; the loss and the outputs of an exported model are
    not."""
    std: Positive | tuple[Positive, ...] = 1.0
    """What targets are divided by after that, such as their standard deviation: one number, or one for each target. A
    new head learns targets near 0 to 10 as they are; larger ones take long."""

    families: ClassVar[tuple[ModelKind, ...]] = ("encoder",)

    def head(self, task: Task) -> Head:
        """Return a head with an output for each target; several have the names of their columns."""
        targets = target_names(task)
        for option in ("mean", "std"):
            value = getattr(self, option)
            if isinstance(value, tuple) and len(value) != len(targets):
                raise InputError(f"objective.{option}: has {len(value)} numbers, but the task has {len(targets)}")
        return Head(len(targets), targets if len(targets) > 1 else (), problem_type="regression")

    def describe_outputs(self, task: Task, calibration: Mapping[str, Any]) -> str:
        """Describe that outputs have to be multiplied and shifted, if that is so."""
        if (self.mean, self.std) == (0.0, 1.0):
            return ""
        return f"The model's outputs are standardized: a prediction is output × {self.std} + {self.mean}."

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize the sources; rows without answer have targets of 0."""
        targets = read_targets(examples, context.task)
        rows = context.family.tokenize_sources(examples)
        return [{**row, "targets": [*numbers]} for row, numbers in zip(rows, targets, strict=True)]

    def collate(self, rows: Sequence[Row], context: ObjectiveContext) -> dict[str, Tensor]:
        """Add the targets, standardized if so configured, as labels of shape (rows, targets)."""
        import torch

        targets = torch.tensor([row["targets"] for row in rows], dtype=torch.float64)
        mean, std = torch.tensor(self.mean, dtype=torch.float64), torch.tensor(self.std, dtype=torch.float64)
        dtype = torch.get_default_dtype()
        return {**context.family.collate(rows), "labels": ((targets - mean) / std).to(dtype)}  # type: ignore[arg-type]

    def num_targets(self, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the number of numbers to predict."""
        import torch

        return torch.tensor(batch["labels"].numel())

    def loss(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the summed squared errors."""
        outputs, labels = context.family.logits(model, batch)
        return (outputs.to(labels.dtype) - labels).square().sum()

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Predict numbers, as text and as ``values``; the loss is the squared error, summed over the targets."""
        batch = context.to_device(self.collate(rows, context))
        outputs = context.family.outputs_without_padding_effects(model, batch).to(batch["labels"].dtype)
        losses = (outputs - batch["labels"]).square().sum(-1).tolist()
        number = outputs.shape[1]
        means, stds = _for_each(self.mean, number), _for_each(self.std, number)
        predictions: list[Prediction] = []
        for line, loss in zip(outputs.tolist(), losses, strict=True):
            values = [output * std + mean for output, mean, std in zip(line, means, stds, strict=True)]
            texts = [format_number(value, std) for value, std in zip(values, stds, strict=True)]
            scored = {"loss": loss, "tokens": number} if has_targets else {}
            predictions.append({**scored, "prediction": join_numbers(texts), "values": values})
        return predictions


class NumberGeneration(FreeGeneration, RegressionObjective):
    """Regression by generation: the text of the numbers is trained to follow the source.

    A generated text is a prediction if it is as many numbers as there are targets, with commas between them. How other
    texts are scored is said by each metric.
    """

    name: Literal["number_generation"] = "number_generation"  # type: ignore[assignment]

    task_kind = "regression"

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize the sources and the texts of the numbers."""
        read_targets(examples, context.task)
        return super().tokenize(examples, context, training=training)

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Generate a text for each source, and read its numbers; ``values`` is None if it is not numbers."""
        predictions = super().predict(model, rows, examples, context, has_targets=has_targets)
        number = len(target_names(context.task))
        for prediction in predictions:
            values = parse_numbers(prediction["prediction"])
            prediction["values"] = [*values] if values is not None and len(values) == number else None
        return predictions


def target_names(task: Task) -> tuple[str, ...]:
    """Return the names of a task's targets: its ``targets``, or a single one without name.

    Args:
        task: A regression task.
    """
    return task.targets or ("",)


def read_targets(examples: Sequence[Example], task: Task) -> list[tuple[float, ...]]:
    """Return the numbers of each example; zeros without answer.

    Args:
        examples: The examples.
        task: Their task.

    Raises:
        RowError: A target is not as many numbers as the task has targets.
    """
    expected, targets = len(target_names(task)), []
    for example in examples:
        numbers = parse_numbers(example.target) if example.target else (0.0,) * expected
        if numbers is None or len(numbers) != expected:
            raise RowError("target", f"{example.target!r} must be {expected} number{'s'[: expected != 1]}")
        targets.append(numbers)
    return targets


def _for_each(option: float | tuple[float, ...], number: int) -> tuple[float, ...]:
    return option if isinstance(option, tuple) else (option,) * number


def _answer(numbers: Sequence[float]) -> str:
    return join_numbers([format_number(number) for number in numbers])
