"""A plugin with a kind of task of its own: numbers, predicted by an encoder's head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from datasets import Dataset, DatasetDict
from torch import Tensor, nn

from peftkit import Example, Head, Metric, Objective, ObjectiveContext, Task, hookimpl

WORDS = ("ink", "sea", "leaf", "rose", "sky")


class Shades(Task):
    """How bright are things? From 0 to 4."""

    name: Literal["shades"] = "shades"

    kind = "brightness"
    metrics = ("distance",)
    selection_metric = "distance"

    def load(self) -> DatasetDict:
        """Create rows with one to three words."""

        def split(start: int, count: int) -> Dataset:
            numbers = [(start + i) % len(WORDS) for i in range(count)]
            return Dataset.from_dict({"thing": [" ".join([WORDS[n]] * (1 + n % 3)) for n in numbers], "shade": numbers})

        return DatasetDict({"train": split(0, 40), "dev": split(1, 12), "test": split(2, 12)})

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """Convert a row to an example."""
        return Example(f"(shade) {row['thing']}", str(row["shade"]))


class Distance(Metric):
    """The mean distance of predicted from true numbers."""

    name: Literal["distance"] = "distance"

    kinds: ClassVar[tuple[str, ...]] = ("brightness",)
    higher_is_better = False
    is_mean_of_examples = True

    def compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Compute the mean."""
        pairs = zip(predictions, references, strict=True)
        return {"distance": sum(abs(float(p) - float(r[0])) for p, r in pairs) / len(predictions)}


class BrightnessHead(Objective):
    """Numbers by a head with one output, trained on squared errors."""

    name: Literal["brightness_head"] = "brightness_head"
    weight: float = 1.0
    """The weight of each error."""

    task_kind = "brightness"
    families = ("encoder",)

    def head(self, task: Task) -> Head:
        """Return a head with one output."""
        return Head(1)

    def tokenize(
        self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool
    ) -> list[dict[str, Any]]:
        """Tokenize the sources; a row without an answer has the value 0."""
        rows = context.family.tokenize_sources(examples)
        values = [float(example.target or 0) for example in examples]
        return [{**row, "value": value} for row, value in zip(rows, values, strict=True)]

    def collate(self, rows: Sequence[Mapping[str, Any]], context: ObjectiveContext) -> dict[str, Tensor]:
        """Add the values as labels."""
        return {**context.family.collate(rows), "labels": torch.tensor([row["value"] for row in rows])}

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor], context: ObjectiveContext) -> Tensor:
        """Return the summed squared errors."""
        outputs, values = context.family.logits(model, batch)
        return self.weight * (outputs[:, 0].float() - values).square().sum()

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Mapping[str, Any]],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[dict[str, Any]]:
        """Predict numbers."""
        batch = {key: value.to(context.device) for key, value in self.collate(rows, context).items()}
        outputs = context.family.outputs_without_padding_effects(model, batch)[:, 0].tolist()
        predictions: list[dict[str, Any]] = [{"prediction": f"{output:.4f}"} for output in outputs]
        if has_targets:
            for prediction, output, row in zip(predictions, outputs, rows, strict=True):
                prediction |= {"loss": self.weight * (output - row["value"]) ** 2, "tokens": 1}
        return predictions


@hookimpl
def register_objectives() -> type[Objective]:
    """Return the objective."""
    return BrightnessHead


@hookimpl
def register_tasks() -> type[Task]:
    """Return the task."""
    return Shades


@hookimpl
def register_metrics() -> type[Metric]:
    """Return the metric."""
    return Distance
