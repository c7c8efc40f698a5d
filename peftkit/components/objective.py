"""The base class of objectives, and what they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from peftkit.components.component import Component
from peftkit.components.inputs import (
    IGNORE_INDEX,
    CandidateScores,
    Example,
    Head,
    ModelKind,
    ObjectiveSettings,
    Prediction,
    Row,
    TaskKind,
    TokenizedRow,
)
from peftkit.components.task import Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Batch = Mapping[str, "Tensor"]
"""A collated batch. Training needs the keys ``input_ids``, ``attention_mask`` and ``labels``, and ``input_tokens``, the
number of tokens without padding, a scalar. Tensors of shape (rows, length) are padded on the right."""
ScoreCandidates = Callable[[Sequence[Any], "torch.device"], CandidateScores]
"""Scores the candidates of a batch of rows on a device."""


class FamilyServices(Protocol):
    """What a model family does for objectives: it knows the architecture, and objectives know the task."""

    @property
    def max_source_length(self) -> int:
        """Maximum number of source tokens; longer sources are truncated."""

    @property
    def max_target_length(self) -> int:
        """Maximum number of target tokens; longer targets are truncated."""

    @property
    def pad_id(self) -> int:
        """The id to pad token ids with."""

    def tokenize_completions(
        self, examples: Sequence[Example], *, ranked: bool, generated: bool = False
    ) -> list[TokenizedRow]:
        """Tokenize examples whose targets continue their sources; encoder-decoders and decoders only.

        Args:
            examples: The examples.
            ranked: Whether to tokenize all candidates, or only the target.
            generated: Whether targets must be texts that the model can generate.

        Raises:
            RowError: An example cannot be tokenized or does not fit the length limits.
        """

    def tokenize_sources(self, examples: Sequence[Example]) -> list[TokenizedRow]:
        """Tokenize the sources of examples as whole inputs; encoders only.

        Args:
            examples: The examples.

        Returns:
            Rows without candidates, with the answer 0.

        Raises:
            RowError: A source has no tokens.
        """

    def tokenize_pairs(self, examples: Sequence[Example]) -> list[TokenizedRow]:
        """Tokenize each candidate as a pair with its source; encoders only.

        Args:
            examples: The examples.

        Raises:
            RowError: A candidate leaves no room for the source, or two candidates have the same ids.
        """

    def collate(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Pad and stack rows of one of the methods above.

        Args:
            rows: The rows.

        Returns:
            ``input_ids`` and ``attention_mask`` of shape (texts, length), ``labels``, the scalar ``input_tokens``, and
            what else the architecture needs.
        """

    def logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run the model on a batch.

        Args:
            model: The model.
            batch: A batch of ``collate``.

        Returns:
            The logits, of shape (rows, length, vocabulary) or (rows, outputs), and the aligned labels, of shape
            (rows, length) or (rows,).
        """

    def outputs_without_padding_effects(self, model: nn.Module, batch: Batch) -> Tensor:
        """Run an encoder on a batch so that no row's outputs depend on the padding; encoders only.

        Args:
            model: The model, in evaluation mode.
            batch: A batch of ``collate``.

        Returns:
            The outputs of the head, of shape (rows, outputs); for pairs, of shape (rows, candidates), where rows with
            fewer candidates are filled with minus infinity.
        """

    def cross_entropy(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the summed cross-entropy of a batch's labels.

        Args:
            model: The model.
            batch: A batch of ``collate``; its texts have the shape (rows, length).

        Returns:
            A scalar, in nats.
        """

    def candidate_scorer(self, model: nn.Module) -> ScoreCandidates:
        """Return a function that scores the candidates of the batches of one evaluation.

        Args:
            model: The model, in evaluation mode.
        """

    def generate(self, model: nn.Module, rows: Sequence[Any], device: torch.device, **options: Any) -> list[str]:
        """Generate a text for the source of each row, greedily; encoder-decoders and decoders only.

        Args:
            model: The model, in evaluation mode.
            rows: One batch of rows.
            device: The model's device.
            options: Further arguments of ``model.generate``.
        """

    def teacher_forced_ids(self, model: nn.Module, rows: Sequence[Any], device: torch.device) -> list[list[int]]:
        """Predict each target token given the true previous ones; encoder-decoders and decoders only.

        Args:
            model: The model, in evaluation mode.
            rows: One batch of rows.
            device: The model's device.

        Returns:
            For each row, the most likely id at each position of its target.
        """

    def contains_unk(self, ids: Sequence[int]) -> bool:
        """Return whether a target contains the unknown token, which is removed from generated texts.

        Args:
            ids: The target's ids.
        """


@dataclass(frozen=True)
class ObjectiveContext:
    """What the methods of an objective are given.

    Attributes:
        family: The services of the model's family.
        model_kind: The kind of model.
        tokenizer: The tokenizer of transformers.
        config: The model's config.
        task: The task of the recipe.
        settings: The recipe's settings.
        device: The model's device.
        cache: Values that live as long as one evaluation, by name.
    """

    family: FamilyServices
    model_kind: ModelKind
    tokenizer: Any
    config: Any
    task: Task
    settings: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    device: Any = "cpu"
    cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def for_evaluation(self, device: torch.device) -> ObjectiveContext:
        """Return the context of a new evaluation.

        Args:
            device: The model's device.
        """
        return replace(self, device=device, cache={})

    def score_candidates(self, model: nn.Module, rows: Sequence[Row]) -> CandidateScores:
        """Score the candidates of a batch of rows.

        The fastest way that gives the right scores is determined once in each evaluation.

        Args:
            model: The model, in evaluation mode.
            rows: One batch of rows.
        """
        if "candidate_scorer" not in self.cache:
            self.cache["candidate_scorer"] = self.family.candidate_scorer(model)
        scores: CandidateScores = self.cache["candidate_scorer"](rows, self.device)
        return scores


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
    ranks: ClassVar[bool] = False
    """Whether the model chooses among the candidates of an example, so that each example needs candidates."""
    generates: ClassVar[bool] = False
    """Whether predictions are generated, so that the model needs positions for them, and answers are free texts."""
    can_teacher_force: ClassVar[bool] = False
    """Whether ``teacher_force`` is defined."""

    def head(self, task: Task) -> Head | None:
        """Return the head that the model needs, or None for its language modeling head.

        Args:
            task: The task of the recipe.
        """
        return None

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
            The batch (see ``Batch``), with texts of shape (rows, length).
        """
        return context.family.collate(rows)

    def num_targets(self, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the number of targets that the loss is summed over.

        The gradient of a step is that of the summed losses of its batches, divided by the sum of these numbers. The
        default counts the labels other than ``IGNORE_INDEX``.

        Args:
            batch: The batch, with texts of shape (rows, length).
            context: The context.

        Returns:
            A scalar.
        """
        return (batch["labels"] != IGNORE_INDEX).sum()

    def loss(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the loss, summed over the targets of a batch.

        Args:
            model: The model.
            batch: The batch, with texts of shape (rows, length).
            context: The context.

        Returns:
            A scalar.
        """
        return context.family.cross_entropy(model, batch)

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
        """Return answers that baselines try besides those of the examples; by default the task's labels.

        Args:
            task: The task.
            examples: The examples of a split.
        """
        return task.labels

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
