"""The types that components are given: a run's settings, examples, their tokens and scores, and the cost of a step.

Importing this module does not import torch, so recipes can be checked quickly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NotRequired, TypedDict

from peftkit.components.lazy_number import ReadLater

if TYPE_CHECKING:
    from torch import Tensor

ModelKind = Literal["encoder-decoder", "decoder", "encoder"]
Side = Literal["encoder", "decoder"]
TaskKind = str
"""A kind of task, such as ``classification``, ``multiple_choice`` or ``generation``; objectives define them."""
NO_ANSWER = "unanswerable"
"""The target of questions without an answer; a key of ``Example.extra`` where predictions may be empty."""
IGNORE_INDEX = -100
"""The label of positions that do not count towards the loss (the default ``ignore_index`` of torch)."""

Prediction = dict[str, Any]
"""What an objective predicts for an example: ``prediction``, which metrics score; for each suffix of
``prediction_suffixes`` another one; ``loss`` (in nats) and ``tokens`` (the number of targets that it is summed over)
where there are answers; and any further JSON values, which ``predictions/`` stores. With ``candidates``, a list of
texts, predictions are stored at every evaluation. If it is the same in every row, comparisons can resample metrics that
are no mean over examples. ``samples`` has all texts where several are sampled, the first of which is ``prediction``;
``generated_tokens`` is the number of tokens of all of them."""
Row = Mapping[str, Any]
"""A tokenized example of any objective: values that Arrow can store, with at least the keys ``length``,
``source_tokens`` and ``target_tokens`` of ``TokenizedRow``."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """The settings of a recipe that components are validated against, before any model is loaded.

    Attributes:
        model_kind: The kind of model; None if the model has not been downloaded yet. Validation is then repeated once
            it has been.
        task_kind: The kind of task.
        gradient_checkpointing: Whether activations are recomputed in the backward pass.
        mixed_precision: The precision of autocast, such as ``bf16``, or ``no``.
        config: The model's ``config.json``; empty if the model has not been downloaded yet.
        steps_known: Whether the budget determines the number of steps.
        quantization: ``4bit`` or ``8bit`` if the base model is quantized, else empty.
        sharded: Whether DeepSpeed or FSDP shard weights, gradients or the optimizer's state.
        num_return_sequences: Number of texts that are sampled for each row.
        max_text_length: The most tokens that the model reads at once: of a source and its target in a decoder, of
            either in other models; None if that is not known.
        has_head: Whether the model has an output layer; false if its hidden states are the outputs.
    """

    model_kind: ModelKind | None
    task_kind: TaskKind
    gradient_checkpointing: bool
    mixed_precision: str
    config: Mapping[str, Any] = field(default_factory=dict)
    steps_known: bool = True
    quantization: str = ""
    sharded: bool = False
    num_return_sequences: int = 1
    max_text_length: int | None = None
    has_head: bool = True

    @property
    def model_type(self) -> str:
        """The ``model_type`` of the config, such as ``t5``; empty if it is not known yet."""
        return str(self.config.get("model_type", ""))


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """A combination of settings that is rejected before any model is loaded.

    Attributes:
        applies: Returns whether a run has this combination.
        reason: Why the combination is not supported.
        remedy: What to change.
    """

    applies: Callable[[RunSpec], bool]
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class OptionProblem:
    """A problem that `peftkit check` finds beyond the recipe itself.

    Attributes:
        option: The option of the component that has to be changed.
        text: What is wrong, where, and what is allowed.
        is_error: Whether a run would fail; otherwise the problem is a warning.
    """

    option: str
    text: str
    is_error: bool = True


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """An invalid row that a task left out.

    Attributes:
        split: ``train``, ``dev`` or ``test``.
        file: The file of the row, or the dataset and split.
        row: Its number in there, from 1; 0 if it is not known, as in a stream of several files.
        reason: What is wrong with it.
    """

    split: str
    file: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.reason}" if self.row else f"{self.file}: {self.reason}"


@dataclass(frozen=True, slots=True)
class TaskMatch:
    """How a task can use a user's data.

    Attributes:
        score: How well the data fit, from 0 to 1; ``peftkit init`` proposes the task that they fit best.
        options: The options of the task that the data need, such as the names of columns.
        reason: What was recognized, for the user to confirm.
        notes: A comment on some of the options.
        objective: Name of the objective that the recipe must name, since several are for the task; empty if not.
    """

    score: float
    options: Mapping[str, Any]
    reason: str
    notes: Mapping[str, str] = field(default_factory=dict)
    objective: str = ""


@dataclass(frozen=True, slots=True)
class ApplyContext:
    """The settings of the run that a method is applied in.

    Attributes:
        model_kind: The kind of model.
        task_kind: The kind of task.
        seed: The seed of new weights (``run.init_seed``).
        steps: The number of optimizer steps of the budget; None if it is not known in advance.
        gradient_checkpointing: Whether activations are recomputed in the backward pass.
        batches: Returns the given number of training batches, the same on every process, as keyword arguments of the
            model's forward pass including ``labels``; None if there are no data.
        head_parameters: Names of the parameters of an encoder's classification head in the base model. They are
            unfrozen after ``apply``, and ``save`` must write them.
        auto_class: Name of the transformers class that loads the model; empty for that of the kind of model.
    """

    model_kind: ModelKind
    task_kind: TaskKind
    seed: int
    steps: int | None
    gradient_checkpointing: bool = False
    batches: Callable[[int], Sequence[Mapping[str, Tensor]]] | None = None
    head_parameters: tuple[str, ...] = ()
    auto_class: str = ""


GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Start and end of what the assistant says, in chat templates that mark it."""
TrainOn = Literal["assistant", "last_assistant", "completion", "all"]
"""What of a conversation is trained on: what the assistant says, its last message, what follows the prompt, or all."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages of a conversation, as chat templates read them.

    Attributes:
        messages: The messages, with ``role`` and ``content``; the last one is the assistant's. In prediction it is left
            out.
        tools: JSON schemas of the functions that the assistant may call.
        prompt_messages: Number of messages of the prompt, which the completion follows.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    prompt_messages: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a task as text.

    Attributes:
        source: The input text.
        target: The text to predict.
        candidates: The texts that the model chooses among, including the target; empty for generation.
        references: The correct outputs; if empty, the target is the only one.
        extra: Further texts that a metric of the task needs, by name.
        truncatable_span: Start and end, in characters, of the part of the source that may be truncated at its end if
            the source is too long. Without it, the whole source may be truncated: at its end, or at its start for
            decoders.
        group: Name of what rows with dependent scores have in common, such as a passage with several questions.
            Comparisons resample whole groups. If empty, the row is a group by itself.
        source_pair: The two texts of a pair. Encoders read them instead of the source, with their separator and token
            types; generating models read the source, which contains both.
        words: The words of the source, for tasks that predict something for each word.
        target_span: Start and end of the answer in the second text of the pair, in characters; None without an answer.
        documents: For retrieval, the target and other texts that are known, such as hard negatives. All documents of a
            split are ranked for each source.
        symmetric: Whether the order of the pair means nothing: encoders read both orders, and average their outputs.
        conversation: The conversation that the source and the target are a plain text of; None if there is none.
        has_answer: Whether the target is an answer, which metrics compare predictions with.
    """

    source: str
    target: str
    candidates: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)
    truncatable_span: tuple[int, int] | None = None
    group: str = ""
    source_pair: tuple[str, str] | None = None
    words: tuple[str, ...] = ()
    target_span: tuple[int, int] | None = None
    symmetric: bool = False
    documents: tuple[str, ...] = ()
    conversation: Conversation | None = None
    has_answer: bool = True


@dataclass(frozen=True)
class StepStats:
    """The cost of one optimizer step, summed over all processes; seconds are those of the main process.

    On a GPU, reading the seconds waits until the device has finished the step.

    Attributes:
        samples: Number of rows.
        input_tokens: Number of source tokens, without padding.
        target_tokens: Number of tokens in the loss.
        seconds: Seconds from when the batch was available to when the device finished the step.
        padding_tokens: Number of padding tokens.
        wait_seconds: Seconds that the step waited for its batch.
        forward_macs: Multiply-accumulates of the forward passes, including padding.
        backward_macs: Multiply-accumulates of the backward passes.
        elementwise: Operations of the passes that are not matrix products: one per output element, or per input element
            for reductions.
        optimizer: Operations of the optimizer's update.
    """

    samples: int
    input_tokens: int
    target_tokens: int
    seconds: ReadLater = ReadLater()
    padding_tokens: int = 0
    wait_seconds: ReadLater = ReadLater(0.0)
    forward_macs: int = 0
    backward_macs: int = 0
    elementwise: int = 0
    optimizer: int = 0


@dataclass(frozen=True, slots=True)
class TextWindow:
    """A part of a tokenized text.

    Attributes:
        ids: Token ids, including special tokens, and those of the question that every window starts with.
        segments: Token type ids.
        offsets: For each token, where it starts and ends in the text, in characters; None for tokens of the question
            and special tokens.
        first_token: Number of the text's tokens before the window.
    """

    ids: list[int]
    segments: list[int]
    offsets: tuple[tuple[int, int] | None, ...]
    first_token: int


class TokenizedRow(TypedDict):
    """A tokenized example as the model families make it.

    Attributes:
        source: Token ids of the source, including special tokens; empty for an encoder that scores pairs.
        candidates: Token ids of each candidate, in the order of the example, or of the target alone where nothing is
            ranked. For an encoder, each is a whole input of source and choice; it is empty for single texts.
        answer: Index of the target among the candidates; of a single text, an objective sets it.
        length: Number of tokens that the model reads and predicts; rows of similar length share a batch.
        source_tokens: Length of the source before truncation.
        target_tokens: Length of the longest candidate before truncation.
        segments: Token type ids of an encoder's pairs, if the tokenizer has them.
        averaged: Whether the candidates are the two orders of a pair, whose outputs are averaged.
        trained_spans: Starts and ends of the parts of source and target that are trained on, at least one; the target
            if left out.
    """

    source: list[int]
    candidates: list[list[int]]
    answer: int
    length: int
    source_tokens: int
    target_tokens: int
    segments: NotRequired[list[list[int]]]
    averaged: NotRequired[bool]
    trained_spans: NotRequired[list[list[int]]]


@dataclass(frozen=True, slots=True)
class CandidateScores:
    """Log-likelihoods of the candidates of a batch of rows.

    Attributes:
        loglikelihoods: for each row, the log-likelihood of each candidate in nats, summed over its tokens.
        num_tokens: for each row, the number of tokens of each candidate.
    """

    loglikelihoods: list[list[float]]
    num_tokens: list[list[int]]


@dataclass(frozen=True, slots=True)
class Head:
    """The layers on top of a model that an objective needs.

    Attributes:
        outputs: Number of outputs; 0 for a model without any layers on top, whose hidden states are the outputs.
        labels: The labels of the outputs, in their order; empty if they have no names.
        auto_class: Name of the transformers class that has such a head.
        problem_type: The ``problem_type`` in the config of the trained model, such as ``regression``; empty for none.
    """

    outputs: int
    labels: tuple[str, ...] = ()
    auto_class: str = "AutoModelForSequenceClassification"
    problem_type: str = ""


@dataclass(frozen=True, slots=True)
class ObjectiveSettings:
    """The settings of the recipe that objectives use.

    Attributes:
        max_new_tokens: The largest number of generated tokens.
        num_beams: Beams of beam search; 1 is greedy.
        scoring: Whether candidates are ranked by the sum of their token log-likelihoods (``sum``), or by the mean per
            token (``norm``).
        stop: Texts that end a generated text.
        temperature: Temperature of sampling; 0 for greedy search.
        top_k: Number of most likely tokens to sample among; 0 for all.
        top_p: Summed probability of the most likely tokens to sample among.
        num_return_sequences: Texts for each row.
        seed: Seed of the run, which samples depend on.
        candidate_end: Whether the end of text is part of a candidate's log-likelihood.
    """

    max_new_tokens: int = 48
    num_beams: int = 1
    scoring: str = "sum"
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    num_return_sequences: int = 1
    seed: int = 0
    candidate_end: bool = True


@dataclass(frozen=True)
class RowSampling:
    """How the texts of a batch are sampled.

    Attributes:
        temperature: The temperature, above zero.
        top_k: Number of most likely tokens to sample among; 0 for all.
        top_p: Summed probability of the most likely tokens to sample among.
        seeds: The seed of each row, so that a text does not depend on the rest of its batch.
    """

    temperature: float
    top_k: int
    top_p: float
    seeds: tuple[int, ...]


class GeneratedText(NamedTuple):
    """A generated text."""

    text: str
    tokens: int
    """The number of generated tokens, with the one that ends the text."""
