"""What a model family does for objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from peftkit.components.types import (
    CandidateScores,
    Example,
    GeneratedText,
    RowSampling,
    TextWindow,
    TokenizedRow,
    TrainOn,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Batch = Mapping[str, "Tensor"]
"""A collated batch. Training needs the keys ``input_ids``, ``attention_mask`` and ``labels``, and ``input_tokens``, the
number of tokens without padding, a scalar. Every other tensor has one entry for each row or one for each text, and
those with two dimensions are padded on the right. Where rows have several texts, ``choices`` has their numbers."""
ScoreCandidates = Callable[[Sequence[Any], "torch.device"], CandidateScores]
"""Scores the candidates of a batch of rows on a device."""


class ChatTemplate(Protocol):
    """How conversations become token ids."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end what the assistant says."""

    @property
    def answer_start(self) -> str:
        """What the template writes before every answer; it is no part of the answer."""

    def tokenize(self, examples: Sequence[Example], train_on: TrainOn) -> list[TokenizedRow]:
        """Tokenize conversations.

        Args:
            examples: The examples, with conversations.
            train_on: What is trained on.

        Returns:
            Rows whose target is the last message of the assistant, with its end; that of prompts is empty.

        Raises:
            RowError: The template does not support a conversation, or it does not fit the length limits.
        """


class FamilyServices(Protocol):
    """What a model family does for objectives: it knows the architecture, and objectives know the task."""

    @property
    def max_source_length(self) -> int:
        """Maximum number of source tokens; longer sources are truncated."""

    @property
    def source_remedy(self) -> str:
        """What to do about sources that are too long, such as ``raise train.max_source_length``."""

    @property
    def max_target_length(self) -> int:
        """Maximum number of target tokens; longer targets are truncated."""

    @property
    def max_decoder_length(self) -> int | None:
        """Maximum number of tokens that a decoder reads and predicts; None if its positions are unlimited."""

    @property
    def pad_id(self) -> int:
        """The id to pad token ids with."""

    def tokenize_completions(
        self, examples: Sequence[Example], *, ranked: bool, generated: bool = False, join: str = " "
    ) -> list[TokenizedRow]:
        """Tokenize examples whose targets continue their sources; encoder-decoders and decoders only.

        Args:
            examples: The examples.
            ranked: Whether to tokenize all candidates, or only the target.
            generated: Whether targets must be texts that the model can generate.
            join: The text between source and target, for decoders.

        Raises:
            RowError: An example cannot be tokenized or does not fit the length limits.
        """

    def tokenize_sources(self, examples: Sequence[Example]) -> list[TokenizedRow]:
        """Tokenize the sources of examples as whole inputs, or their pairs of texts; encoders only.

        Args:
            examples: The examples.

        Returns:
            Rows without candidates, with the answer 0.

        Raises:
            RowError: A source has no tokens.
        """

    def tokenize_texts(self, texts: Sequence[str]) -> list[tuple[list[int], int]]:
        """Tokenize texts as whole inputs with the tokenizer's special tokens; for encoders and decoders.

        Args:
            texts: The texts.

        Returns:
            For each text, its ids, truncated at the end, and their number before truncation.

        Raises:
            RowError: A text has no tokens, or one that the model has no embedding for.
        """

    def collate_texts(self, rows: Sequence[Sequence[list[int]]]) -> dict[str, Tensor]:
        """Pad and stack the texts of rows.

        Args:
            rows: The token ids of each text of each row.

        Returns:
            ``input_ids`` and ``attention_mask`` of shape (texts, length), ``choices``, the number of texts of each
            row, and the scalar ``input_tokens``. An objective adds ``labels``.
        """

    def hidden_states(self, model: nn.Module, batch: Batch, *, exact: bool = False) -> Tensor:
        """Run a model without a head on texts; for encoders and decoders.

        Args:
            model: The model.
            batch: A batch of ``collate_texts``.
            exact: Whether no text's states may depend on the padding; the model is then in evaluation mode.

        Returns:
            The hidden states of the last layer, of shape (texts, length, width).
        """

    def read_model_file(self, name: str) -> Any:
        """Read a JSON file of the model.

        Args:
            name: Its name, such as ``1_Pooling/config.json``.

        Returns:
            The content; None if there is no such file.
        """

    def tokenize_documents(self, examples: Sequence[Example]) -> list[tuple[list[int], list[int]]]:
        """Tokenize the sources of examples as texts that are predicted as a whole, however long; decoders only.

        Args:
            examples: The examples.

        Returns:
            For each text, the special tokens that its first token is predicted from, at least one, and its own tokens.

        Raises:
            RowError: A source has no tokens, or one that the model has no embedding for.
        """

    def load_chat_template(self, template: str, variables: Mapping[str, Any]) -> ChatTemplate:
        """Return how conversations are tokenized; decoders only.

        Args:
            template: A Jinja template; that of the tokenizer if empty.
            variables: Further variables of the template.

        Raises:
            InputError: There is no template, or what the assistant says has no end in it.
        """

    def tokenize_windows(self, text: str, question: str | None, *, stride: int) -> list[TextWindow]:
        """Tokenize a text, or a question and a text, into overlapping windows if it is too long; encoders only.

        Args:
            text: The text.
            question: What every window starts with, as the first text of a pair; None for single texts.
            stride: Number of tokens that windows have in common, at most half of the text's tokens of a window.

        Raises:
            InputError: The tokenizer does not know where tokens are in a text.
            RowError: The text cannot be tokenized, or the question leaves no room for it.
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
            what else the architecture needs. Completions have one text for each row, the target, whose labels have the
            shape (rows, length); pairs have a text for each candidate. An encoder's labels are the rows' answers.
        """

    def collate_candidates(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Pad and stack rows with a text for each candidate, to train on all candidates instead of the target.

        Args:
            rows: The rows; those of completions must have been tokenized with ``ranked=True``.

        Returns:
            As from ``collate``, and ``choices``, the number of candidates of each row. The texts of a row follow each
            other; the labels of completions have the shape (texts, length).
        """

    def num_tokens(self, batch: Batch) -> Tensor:
        """Count the tokens that the model reads on both sides, without padding.

        Args:
            batch: A batch of ``collate`` or ``collate_candidates``; its texts have the shape (texts, length).

        Returns:
            A scalar.
        """

    def logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run the model on a batch.

        Args:
            model: The model.
            batch: A batch of ``collate``.

        Returns:
            The logits, of shape (texts, length, vocabulary) or (rows, outputs), and the labels of the batch; those of
            completions are aligned, of shape (texts, length).
        """

    def outputs_without_padding_effects(self, model: nn.Module, batch: Batch) -> Tensor:
        """Run an encoder on a batch so that no row's outputs depend on the padding; encoders only.

        Args:
            model: The model, in evaluation mode.
            batch: A batch of ``collate``.

        Returns:
            The outputs of the head, of shape (rows, outputs), or (texts, length, outputs) if the head scores tokens or
            spans; for pairs of source and candidate, of shape (rows, candidates), where rows with fewer candidates are
            filled with minus infinity.
        """

    def cross_entropy(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the summed cross-entropy of a batch's labels.

        Args:
            model: The model.
            batch: A batch of ``collate``; its texts have the shape (texts, length).

        Returns:
            A scalar, in nats.
        """

    def target_loglikelihoods(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compute the log-likelihood of the labels of each text, with gradients; for losses other than cross-entropy.

        Args:
            model: The model.
            batch: A batch of ``collate`` or ``collate_candidates``.

        Returns:
            The sum over the labels of each text in nats, and their number, both of shape (texts,).
        """

    def candidate_scorer(self, model: nn.Module) -> ScoreCandidates:
        """Return a function that scores the candidates of the batches of one evaluation.

        Args:
            model: The model, in evaluation mode.
        """

    def generate(
        self,
        model: nn.Module,
        rows: Sequence[Any],
        device: torch.device,
        *,
        stop_ids: Sequence[int] = (),
        sampling: RowSampling | None = None,
        **options: Any,
    ) -> list[GeneratedText]:
        """Generate a text for the source of each row; encoder-decoders and decoders only.

        Args:
            model: The model, in evaluation mode.
            rows: One batch of rows.
            device: The model's device.
            stop_ids: The ids that end a text; the end of text if empty.
            sampling: How texts are sampled; None for the most likely tokens.
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


class ReferenceModel(Protocol):
    """The base model, which losses on preferences compare the trained model with."""

    def collate(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Return what is known before the batch is computed, to be added to what ``collate_candidates`` returns.

        Args:
            rows: The rows.

        Returns:
            Tensors of shape (texts,), or none.
        """

    def loglikelihoods(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the log-likelihood of the labels of each text under the base model, without gradients or dropout.

        Args:
            model: The trained model.
            batch: A batch of ``collate_candidates`` and ``collate``; its texts have the shape (texts, length).

        Returns:
            The sums in nats, of shape (texts,).
        """
