"""Objectives of multi-label classification: a sigmoid head, or labels generated as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from peftkit.answer_texts.label_sets import NO_LABEL, join_labels, split_labels
from peftkit.components import Example, Head, ModelKind, Objective, Prediction, Task
from peftkit.components.family_services import Batch
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import Row
from peftkit.objectives.completions import FreeGeneration, rewrite_texts

if TYPE_CHECKING:
    from torch import Tensor, nn

DEFAULT_THRESHOLD = 0.5


class MultiLabelObjective(Objective):
    """Base class of objectives that predict sets of labels; the answer is the text of the labels."""

    task_kind = "multi_label"

    def possible_answers(self, task: Task, examples: Sequence[Example]) -> Sequence[str]:
        """Return no label, the most frequent label, the two most frequent ones, and so on."""
        no_label = task.empty_answer
        counts = Counter(label for e in examples for label in split_labels(e.target, no_label))
        ordered = sorted(counts, key=lambda label: (-counts[label], label))
        return tuple(join_labels(ordered[:number], task.labels, no_label) for number in range(len(ordered) + 1))

    def categories(self, task: Task, example: Example) -> Sequence[str]:
        """Return the labels, or the text of no label."""
        return sorted(split_labels(example.target, task.empty_answer)) or (task.empty_answer,)

    def describe_constant_answer(self, answer: str) -> tuple[str, str]:
        """Describe that all rows have the same labels."""
        return f"the labels are {answer!r}", "use rows with different labels"


class MultiLabelHead(MultiLabelObjective):
    """Multi-label classification by a head with one output for each label, each trained on binary cross-entropy.

    A label is predicted if the sigmoid of its output is at least the threshold, which is chosen on dev.
    """

    name: Literal["multi_label_head"] = "multi_label_head"
    threshold: Literal["one", "per_label", "half"] = "one"
    """Which thresholds are chosen on dev, at each evaluation: ``one`` for all labels, with the highest micro F1, or one
    ``per_label``, with its highest F1; ``half`` is 0.5 without a choice. Those of the selected checkpoint are in
    ``summary.json``, and are used on test and by ``predict``."""

    families: ClassVar[tuple[ModelKind, ...]] = ("encoder",)
    used_settings = ()
    scored_values = ("probabilities",)

    def head(self, task: Task) -> Head:
        """Return a head with the task's labels."""
        return Head(len(task.labels), task.labels, problem_type="multi_label_classification")

    def describe_outputs(self, task: Task, calibration: Mapping[str, Any]) -> str:
        """Describe the thresholds."""
        thresholds = calibration.get("thresholds", DEFAULT_THRESHOLD)
        return f"A label is predicted if the sigmoid of its output is at least its threshold: {thresholds}."

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize the sources; ``targets`` has a 1 for each label of the row, and a 0 for each other one."""
        rows, task = context.family.tokenize_sources(examples), context.task
        sets = [split_labels(example.target, task.empty_answer) for example in examples]
        targets = [[int(label in labels) for label in task.labels] for labels in sets]
        return [{**row, "targets": each} for row, each in zip(rows, targets, strict=True)]

    def collate(self, rows: Sequence[Row], context: ObjectiveContext) -> dict[str, Tensor]:
        """Add the targets as labels of shape (rows, labels)."""
        import torch

        targets = torch.tensor([row["targets"] for row in rows], dtype=torch.get_default_dtype())
        return {**context.family.collate(rows), "labels": targets}  # type: ignore[arg-type]

    def num_targets(self, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the number of decisions, one for each label of each row."""
        import torch

        return torch.tensor(batch["labels"].numel())

    def loss(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the summed binary cross-entropy."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        outputs, labels = context.family.logits(model, batch)
        return binary_cross_entropy_with_logits(outputs.to(labels.dtype), labels, reduction="sum")

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Predict the probability of each label, and the labels whose probability is at least one half."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        batch = context.to_device(self.collate(rows, context))
        outputs = context.family.outputs_without_padding_effects(model, batch).to(batch["labels"].dtype)
        losses = binary_cross_entropy_with_logits(outputs, batch["labels"], reduction="none").sum(-1).tolist()
        labels, no_label = context.task.labels, context.task.empty_answer
        predictions: list[Prediction] = []
        for line, loss in zip(outputs.sigmoid().tolist(), losses, strict=True):
            probabilities = dict(zip(labels, line, strict=True))
            scored = {"loss": loss, "tokens": len(labels)} if has_targets else {}
            text = _choose(probabilities, DEFAULT_THRESHOLD, no_label)
            predictions.append({**scored, "prediction": text, "probabilities": probabilities})
        return predictions

    def calibrate(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Any]:
        """Choose the thresholds with the highest F1."""
        import numpy as np

        if self.threshold == "half" or not predictions:
            return {}
        labels, no_label = [*predictions[0]["probabilities"]], examples[0].extra.get(NO_LABEL, "")
        probabilities = np.array([[*prediction["probabilities"].values()] for prediction in predictions])
        sets = [split_labels(example.target, no_label) for example in examples]
        right = np.array([[label in each for label in labels] for each in sets])
        if self.threshold == "one":
            return {"thresholds": _best_threshold(probabilities.ravel(), right.ravel()), "no_label": no_label}
        columns = zip(labels, probabilities.T, right.T, strict=True)
        return {"thresholds": {label: _best_threshold(p, r) for label, p, r in columns}, "no_label": no_label}

    def apply_calibration(self, prediction: Prediction, calibration: Mapping[str, Any]) -> Prediction:
        """Predict the labels whose probability is at least their threshold."""
        text = _choose(prediction["probabilities"], calibration["thresholds"], calibration["no_label"])
        return {**prediction, "prediction": text}


class MultiLabelGeneration(FreeGeneration, MultiLabelObjective):
    """Multi-label classification by generation: the labels are trained to follow the source, in the task's order.

    The pieces of a generated text between commas are the predicted labels, sorted and without repetitions. How pieces
    that are no labels are scored is said by each metric.
    """

    name: Literal["multi_label_generation"] = "multi_label_generation"  # type: ignore[assignment]

    task_kind = "multi_label"

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Generate a text for each source, and sort its labels; ``generated`` is the text itself."""
        predictions = super().predict(model, rows, examples, context, has_targets=has_targets)
        labels, no_label = context.task.labels, context.task.empty_answer

        def sort_labels(text: str) -> str:
            return join_labels(split_labels(text, no_label), labels, no_label)

        return [{**rewrite_texts(each, sort_labels), "generated": each["prediction"]} for each in predictions]


def _choose(probabilities: Mapping[str, float], thresholds: Any, no_label: str) -> str:
    """Return the text of the labels whose probability is at least their threshold."""
    by_label = thresholds if isinstance(thresholds, Mapping) else dict.fromkeys(probabilities, thresholds)
    chosen = [label for label, probability in probabilities.items() if probability >= by_label[label]]
    return join_labels(chosen, [*probabilities], no_label)


def _best_threshold(probabilities: Any, right: Any) -> float:
    """Return the threshold with the highest F1, halfway between two probabilities; the nearest to 0.5 of equal ones."""
    import numpy as np

    order = np.argsort(-probabilities, kind="stable")
    values, hits = probabilities[order], np.cumsum(right[order])
    if not len(hits) or not hits[-1] or not np.isfinite(values).all():
        return DEFAULT_THRESHOLD
    lowest = np.append(values[1:], max(0.0, 2 * values[-1] - 1))  # below the last value, and not below 0
    middles = (values + lowest) / 2
    f1 = np.where(values > lowest, 2 * hits / (np.arange(len(hits)) + 1 + hits[-1]), -1.0)
    best = middles[f1 >= f1.max() - 1e-12]
    return float(best[np.argmin(abs(best - DEFAULT_THRESHOLD))])
