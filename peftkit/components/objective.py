"""The base class of objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from peftkit.components.component import Component
from peftkit.components.family_services import Batch
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.task import Task
from peftkit.components.types import (
    IGNORE_INDEX,
    Example,
    Head,
    ModelKind,
    Prediction,
    Row,
    TaskKind,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class Objective(Component):
    """How examples of one kind of task become tensors, a loss and predictions for some families of models.

    A recipe uses the objective of its task's kind and its model's family. Training on several processes and in
    microbatches, counting of MACs, resuming, comparing and predicting work with every objective.
    """

    task_kind: ClassVar[TaskKind]
    """The kind of task, such as ``regression``; any text."""
    families: ClassVar[tuple[ModelKind, ...]]
    """The kinds of model that the objective supports."""
    prediction_suffixes: ClassVar[tuple[str, ...]] = ("",)
    """Suffixes of the predictions that are scored, such as ``_norm`` for ``prediction_norm``; the first is empty."""
    scored_values: ClassVar[tuple[str, ...] | None] = None
    """What predictions have for metrics beside texts, such as ``probabilities`` (see ``Metric.input``), so that other
    metrics are refused before a run; None, the default, if it is not declared."""
    ranks: ClassVar[bool] = False
    """Whether the model chooses among the candidates of an example, so that each example needs candidates."""
    generates: ClassVar[bool] = False
    """Whether predictions are generated, so that the model needs positions for them, and answers are free texts."""
    used_settings: ClassVar[tuple[str, ...] | None] = None
    """The settings of evaluation that predictions depend on, of ``max_new_tokens``, ``num_beams``, ``stop``,
    ``temperature`` (for all of sampling), ``scoring`` and ``candidate_end``; a recipe that sets another one is refused.
    None, the default, if it is not declared."""
    card_metadata: ClassVar[Mapping[str, str]] = {}
    """Metadata of the model cards of folders that have the files of ``export``, such as ``pipeline_tag``."""
    refuses_long_rows: ClassVar[bool] = False
    """Whether rows that are too long are errors instead of truncated, so that ``check`` tokenizes the first rows."""
    encodes_texts: ClassVar[bool] = False
    """Whether the outputs are hidden states of texts, so that the encoder is enough of an encoder-decoder such as T5,
    which is then loaded without its decoder and trained as an encoder."""
    needs_reference: ClassVar[bool] = False
    """Whether losses or predictions compare the model with its base model (see ``ObjectiveContext.reference``)."""

    @property
    def compares_rows(self) -> bool:
        """Whether the loss of a row depends on the other rows of its optimizer step, such as negatives.

        Such an objective has ``outputs`` and ``loss_of_outputs`` in place of ``loss``. All rows of a step are compared,
        whatever number of processes and microbatches they are divided into: outputs are computed without gradients
        first, and again with them where there are several microbatches (GradCache, Gao et al., 2021).
        """
        return False

    def head(self, task: Task) -> Head | None:
        """Return the head that the model needs, or None for its language modeling head.

        Args:
            task: The task of the recipe.
        """
        return None

    def options_without_effect(self, task: Task) -> Mapping[str, str]:
        """Return the options that change nothing with a task or with other options, and why; set ones are refused.

        Args:
            task: The task of the recipe.

        Returns:
            The reason by option, such as ``no question is without an answer``; by default none.
        """
        return {}

    def suggest_options(self, context: ObjectiveContext) -> Mapping[str, tuple[Any, str]]:
        """Return options that a first recipe needs for a task and a model, for ``peftkit init``; by default none.

        Args:
            context: The context.

        Returns:
            The values by option, each with a comment on it.
        """
        return {}

    def describe_outputs(self, task: Task, calibration: Mapping[str, Any]) -> str:
        """Describe what users of an exported model must know about its outputs; empty if there is nothing.

        Args:
            task: The task of the recipe.
            calibration: What ``calibrate`` chose for the selected checkpoint.
        """
        return ""

    def model_settings(self, context: ObjectiveContext) -> dict[str, Any]:
        """Return settings that were read from the model's files, for ``loading.json``; by default none.

        Args:
            context: The context.
        """
        return {}

    def describe_usage(self, settings: Mapping[str, Any], *, has_files: bool) -> str:
        """Describe in Markdown, for a model card, how the model is used beyond loading it; empty by default.

        Args:
            settings: What ``model_settings`` returned when the model was trained.
            has_files: Whether the folder of the card, which it calls ``FOLDER``, has the files that ``export`` writes.
        """
        return ""

    def export(self, folder: Path, context: ObjectiveContext) -> None:
        """Write further files of the format that a library reads such models in; by default none.

        Args:
            folder: The folder of the exported model.
            context: The context.
        """

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize examples.

        Args:
            examples: The examples; those to predict have a placeholder as their target (see ``Task.to_prompt``).
            context: The context.
            training: Whether the rows are trained on, instead of evaluated.

        Returns:
            A row for each example, all with the same keys.

        Raises:
            RowError: An example is not valid or does not fit the length limits.
        """
        raise NotImplementedError

    def collate(self, rows: Sequence[Row], context: ObjectiveContext) -> dict[str, Tensor]:
        """Build the tensors of a training batch.

        Args:
            rows: The rows.
            context: The context.

        Returns:
            The batch (see ``Batch``), with texts of shape (texts, length).
        """
        return context.family.collate(rows)

    def num_targets(self, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the number of targets that the loss is summed over.

        The gradient of a step is that of the summed losses of its batches, divided by the sum of these numbers. The
        default counts the labels other than ``IGNORE_INDEX``.

        Args:
            batch: The batch, or some of its rows, with texts of shape (texts, length).
            context: The context.

        Returns:
            A scalar.
        """
        return (batch["labels"] != IGNORE_INDEX).sum()

    def batch_statistics(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> dict[str, Tensor]:
        """Return sums over the rows of a batch that the loss of every row depends on; by default none.

        They are computed without gradients before the losses of a step, added up over its microbatches and all
        processes, and added to each batch under their names. Their forward passes are counted as the others are.

        Args:
            model: The model, in evaluation mode.
            batch: The batch, or some of its rows, with texts of shape (texts, length).
            context: The context.

        Returns:
            Scalars, tensors of shape (), by name.
        """
        return {}

    def loss(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the loss, summed over the targets of a batch.

        Args:
            model: The model.
            batch: The batch, or some of its rows, with texts of shape (texts, length).
            context: The context.

        Returns:
            A scalar.
        """
        if self.compares_rows:
            outputs = self.outputs(model, batch, context)
            return self.loss_of_outputs(outputs, batch, context, range(len(batch["choices"])))
        return context.family.cross_entropy(model, batch)

    def outputs(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return what the loss compares, for objectives that compare rows.

        Args:
            model: The model.
            batch: The batch, or some of its rows, with texts of shape (texts, length).
            context: The context.

        Returns:
            The outputs, of shape (texts, features).
        """
        raise NotImplementedError(f"{self.name} compares no rows")

    def loss_of_outputs(self, outputs: Tensor, batch: Batch, context: ObjectiveContext, rows: range) -> Tensor:
        """Return the loss of some rows among all rows of a step, for objectives that compare rows.

        Args:
            outputs: The outputs of all rows of the step, of shape (texts, features).
            batch: Their ``labels`` and ``choices``, of shape (rows,) or (texts,).
            context: The context.
            rows: The indices of the rows whose losses are summed, those of this process.

        Returns:
            A scalar; the sum over disjoint ranges is the loss of the step.
        """
        raise NotImplementedError(f"{self.name} compares no rows")

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Predict a batch.

        Args:
            model: The model, in evaluation mode.
            rows: The rows.
            examples: Their examples.
            context: The context; its cache is kept during an evaluation.
            has_targets: Whether the examples have answers, so that losses are needed.
        """
        raise NotImplementedError

    def complete_predictions(
        self, predictions: Sequence[Prediction], examples: Sequence[Example], *, has_targets: bool
    ) -> list[Prediction]:
        """Complete predictions by what depends on other rows of the split, such as ranks; by default the same.

        Args:
            predictions: What ``predict`` returned, for all examples of a split.
            examples: The examples, in the same order.
            has_targets: Whether the examples have answers.
        """
        return [*predictions]

    def calibrate(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Any]:
        """Choose what predictions depend on beside the weights, such as a threshold, by the rows of dev.

        It is called in each evaluation, and its result for the selected checkpoint is used by ``predict``.

        Args:
            predictions: What ``predict`` returned for dev.
            examples: Their examples.

        Returns:
            Values that JSON can store, for ``apply_calibration``; empty if there is nothing to choose, the default.
        """
        return {}

    def apply_calibration(self, prediction: Prediction, calibration: Mapping[str, Any]) -> Prediction:
        """Return a prediction under what ``calibrate`` chose, which is not empty; by default the same.

        Args:
            prediction: What ``predict`` returned for a row of any split.
            calibration: What ``calibrate`` returned for dev.
        """
        return prediction

    def teacher_force(
        self, model: nn.Module, rows: Sequence[Row], examples: Sequence[Example], context: ObjectiveContext
    ) -> list[str]:
        """Return the most likely text while the target is fed to the model, for metrics of older systems.

        Args:
            model: The model, in evaluation mode.
            rows: The rows.
            examples: Their examples.
            context: The context.
        """
        return []

    def answer(self, example: Example) -> str:
        """Return the answer that baselines count and samples are stratified by; by default the target.

        Args:
            example: The example.
        """
        return example.target

    def answer_text(self, answer: str, example: Example) -> str:
        """Return the prediction of a baseline that gives an answer; by default the answer.

        Args:
            answer: The answer, as from ``answer``.
            example: The example that is answered.
        """
        return answer

    def possible_answers(self, task: Task, examples: Sequence[Example]) -> Sequence[str]:
        """Return answers that baselines try besides those of the examples; by default none.

        Args:
            task: The task.
            examples: The examples of a split.
        """
        return ()

    def categories(self, task: Task, example: Example) -> Sequence[str]:
        """Return what the distribution of answers counts in an example, such as its label, its labels or its tags.

        By default the answer, unless answers are free texts.

        Args:
            task: The task.
            example: The example.
        """
        answer = self.answer(example)
        return (answer,) if not self.generates and self.answer_text(answer, example) else ()

    def numbers(self, example: Example) -> Sequence[float]:
        """Return the numbers that the target of an example has; by default none.

        Args:
            example: The example.
        """
        return ()

    def typical_answer(self, counts: Mapping[str, int]) -> str:
        """Return the answer of the baseline ``majority``; by default the most frequent one.

        Args:
            counts: Number of training rows by answer.
        """
        return min(counts, key=lambda answer: (-counts[answer], answer))

    def describe_constant_answer(self, answer: str) -> tuple[str, str]:
        """Describe that one answer is correct in every row, and how to repair the data.

        Args:
            answer: The answer.

        Returns:
            What is wrong, as the end of a sentence, and the remedy.
        """
        return f"the answer is {answer!r}", "use rows with different answers"

    def count_unknown_targets(self, rows: Sequence[Row], context: ObjectiveContext) -> int:
        """Return how many rows have targets that the model cannot predict exactly; by default none.

        Args:
            rows: The rows.
            context: The context.
        """
        return 0
