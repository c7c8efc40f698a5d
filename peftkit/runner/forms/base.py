"""What the forms of the three kinds of model share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, NotRequired, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from transformers import PreTrainedTokenizerBase

from peftkit.components import Example, Side, TaskKind
from peftkit.errors import InputError, RowError
from peftkit.runner.forms.shortening import shortened
from peftkit.runner.forms.tokens import Template, embedded_tokens, end_token, template, token_ids, unembedded

IGNORED = -100
PAD_TO = 8  # widths that are multiples of 8 suit tensor cores, and make for few distinct shapes


class Row(TypedDict):
    """One encoded example: token ids, and which candidate is the target.

    ``candidates`` holds the target alone where nothing is ranked. For an encoder a candidate is the whole input,
    source and choice together, and a fixed label has none. ``source_tokens`` and ``target_tokens`` are the lengths
    of the source and of the longest candidate before anything was cut. ``segments`` says of each token of an encoder's
    pair which of the two texts it belongs to, where the tokenizer numbers them.
    """

    source: list[int]
    candidates: list[list[int]]
    answer: int
    source_tokens: int
    target_tokens: int
    segments: NotRequired[list[list[int]]]


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-likelihood of each candidate of each row, and the number of tokens it is the sum over."""

    sums: list[list[float]]
    tokens: list[list[int]]


@dataclass(frozen=True)
class Form:
    """Turns examples into tensors for one kind of model.

    ``source_length`` and ``target_length`` are the tokens kept at the most, ``encoder_width`` and ``decoder_width``
    what batches are filled up to at the most; None where positions have no end.
    """

    tokenizer: PreTrainedTokenizerBase
    config: Any
    task_kind: TaskKind
    source_length: int
    target_length: int
    encoder_width: int | None = None
    decoder_width: int | None = None

    auto_class: ClassVar[str]
    """The transformers class that loads the model."""
    generates: ClassVar[bool] = True

    @cached_property
    def template(self) -> Template:
        """The special tokens that the tokenizer puts around a source."""
        return template(self.tokenizer)

    @cached_property
    def end(self) -> int:
        """The id that targets end with and that ends generation.

        Raises:
            InputError: neither the tokenizer nor the config names one.
        """
        return end_token(self.tokenizer, self.config)

    @cached_property
    def pad(self) -> int:
        """The id that fills up: the one that the model knows as padding, or else any that it has an embedding for.

        RoBERTa counts positions by the config's. What is filled up is masked, so it may be the end of text.
        """
        sizes = [size for side in ("encoder", "decoder") if (size := embedded_tokens(self.config, side))]
        known = (getattr(self.config, "pad_token_id", None), self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((i for i in known if isinstance(i, int) and 0 <= i < min(sizes, default=i + 1)), 0)

    def token_problems(self) -> list[str]:
        """What is wrong with the special tokens that every row needs: missing ones, or those without an embedding."""
        return self._problems_of("encoder", lambda: [*self.template.before, *self.template.after])

    def _problems_of(self, side: Side, *needed: Callable[[], Sequence[int]]) -> list[str]:
        """What is wrong with the ids that one side needs, or with looking for them."""
        problems = []
        for ids in needed:
            try:
                problems.append(unembedded(ids(), embedded_tokens(self.config, side), self.tokenizer))
            except InputError as error:
                problems.append(str(error))
        return [*dict.fromkeys(filter(None, problems))]

    def _checked(self, ids: list[int], field: str, side: Side) -> list[int]:
        """The ids of a row's text.

        Raises:
            RowError: the model has no embedding for one of them.
        """
        if problem := unembedded(ids, embedded_tokens(self.config, side), self.tokenizer):
            raise RowError(field, problem)
        return ids

    def encode(self, examples: Sequence[Example], *, ranked: bool) -> list[Row]:
        """Token ids of the examples, with all their candidates if they are to be ranked."""
        raise NotImplementedError

    def batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """The padded tensors of a training batch; ``labels`` marks the targets, ``input_tokens`` counts inputs."""
        raise NotImplementedError

    def widths(self, batches: Sequence[Mapping[str, Tensor]]) -> dict[str, int]:
        """The greatest lengths that the batches' texts are filled up to, by the key of the tensor."""
        keys = sorted(key for key, value in batches[0].items() if value.ndim == 2)
        return {key: max(batch[key].shape[1] for batch in batches) for key in keys}

    def widened(self, batch: Mapping[str, Tensor], widths: Mapping[str, int]) -> dict[str, Tensor]:
        """The batch with its texts filled up further, to those lengths."""
        fill = {"attention_mask": 0, "token_type_ids": 0, "labels": IGNORED}
        new = {
            key: pad(batch[key], (0, width - batch[key].shape[1]), value=fill.get(key, self.pad))
            for key, width in widths.items()
        }
        return {**batch, **new}

    def read(self, batch: Mapping[str, Tensor]) -> Tensor:
        """How many tokens the model reads, without padding, on the side of the encoder and of the decoder."""
        return batch["attention_mask"].sum() + (self.targets(batch) if "decoder_input_ids" in batch else 0)

    def parts(self, batch: Mapping[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
        """The batch in parts of at most ``size`` rows, whose losses add up to that of the whole."""
        rows = len(batch["labels"])
        for start in range(0, rows, size):
            yield {k: v[start : start + size] if v.ndim else v for k, v in batch.items()}

    def numbers_segments(self, model: nn.Module) -> bool:
        """Whether the model takes for each token which of two texts it belongs to."""
        return False

    def logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The logits and the labels they should give, both aligned."""
        raise NotImplementedError

    def score(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        """The log-likelihood of every candidate of every row."""
        raise NotImplementedError

    def ranker(self, model: nn.Module) -> Callable[[Sequence[Row], torch.device], Scores]:
        """What scores the batches of one evaluation: it may find out on the first how the others are done."""
        return partial(self.score, model)

    def generate(self, model: nn.Module, rows: Sequence[Row], device: torch.device, **options: Any) -> list[str]:
        """The text that the model generates for each row's source."""
        raise NotImplementedError

    def teacher_forced(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> list[list[int]]:
        """The likeliest id at each place of the target, given the right ones before it: this leaks the target."""
        logits, labels = self.logits(model, {k: v.to(device) for k, v in self.batch(rows).items()})
        pairs = zip(logits.argmax(-1), labels != IGNORED, strict=True)
        return [likeliest[places].tolist() for likeliest, places in pairs]

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The summed cross-entropy of the batch's targets."""
        logits, labels = self.logits(model, batch)
        return cross_entropy(precise(logits).flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")

    def targets(self, batch: Mapping[str, Tensor]) -> Tensor:
        """How many targets the batch's loss is the sum over."""
        return (batch["labels"] != IGNORED).sum()

    def _padded(
        self,
        rows: Sequence[Sequence[int]],
        fill: int,
        *,
        left: bool = False,
        multiple: int = PAD_TO,
        widest: int | None = None,
    ) -> Tensor:
        longest = max(map(len, rows))
        width = -(-longest // multiple) * multiple
        if widest is not None:  # no padding beyond the last position
            width = max(longest, min(width, widest))
        blanks = [[fill] * (width - len(row)) for row in rows]
        return torch.tensor([b + list(r) if left else list(r) + b for r, b in zip(rows, blanks, strict=True)])

    def _mask(self, rows: Sequence[Sequence[int]], *, left: bool = False, widest: int | None = None) -> Tensor:
        return self._padded([[1] * len(row) for row in rows], 0, left=left, widest=widest)

    def _sources(self, examples: Sequence[Example]) -> tuple[list[str], list[list[int]], list[int]]:
        """The sources with contexts shortened where that is needed.

        Returns:
            Their texts, their ids with the template's, and how many ids each had before.
        """
        texts = [e.source for e in examples]
        ids = [self._framed(each) for each in token_ids(self.tokenizer, texts, special=False)]
        lengths = [len(each) for each in ids]
        for i, example in enumerate(examples):
            if lengths[i] > self._source_room and example.context:
                texts[i] = shortened(example, self._source_room, self.tokenizer)
                ids[i] = self._framed(token_ids(self.tokenizer, [texts[i]], special=False)[0])
        return texts, ids, lengths

    @property
    def _source_room(self) -> int:
        """The tokens that a source may have, the template's among them."""
        return self.source_length

    def _framed(self, ids: list[int]) -> list[int]:
        """The ids of a source with those that the template adds."""
        return self.template.around(ids)

    def _cut_source(self, ids: list[int]) -> list[int]:
        """A source's ids without the last ones that are too many; the template's stay.

        Raises:
            RowError: there are none, or the template leaves no room for them.
        """
        after = len(self.template.after)
        if not ids:
            raise RowError("source", "it has no token in the model's vocabulary")
        if self.source_length <= len(self.template.before) + after < len(ids):
            raise RowError("source", f"no token of it is left in the {self.source_length} there is room for")
        if len(ids) > self.source_length:
            ids = [*ids[: self.source_length - after], *ids[len(ids) - after :]]
        return self._checked(ids, "source", "encoder")

    def _written(self, generated: Tensor) -> list[str]:
        """The texts of generated ids, each up to its end, without special tokens."""
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        lines = [ids[: ids.index(self.end) if self.end in ids else None] for ids in generated.tolist()]
        return [str(self.tokenizer.decode(ids, **options)).strip() for ids in lines]

    def _checked_target(self, ids: list[int], text: str) -> list[int]:
        """The ids of a target with its end.

        Raises:
            RowError: the model has no embedding for one of them, or could not be seen to generate it.
        """
        self._checked(ids, "target", "decoder")
        special = {*self.tokenizer.all_special_ids} - {self.tokenizer.unk_token_id, self.end}
        if self.task_kind == "generation" and (wrong := next((i for i in ids if i in special), None)) is not None:
            raise RowError(
                "target",
                f"{text!r} has the special token {self.tokenizer.convert_ids_to_tokens(wrong)!r} in it, which "
                "predictions are read without; add it to the tokenizer as a token that is not special",
            )
        if self.has_unknown(ids) and not self._written(torch.tensor([ids]))[0]:
            raise RowError("target", f"{text!r} has no token in the model's vocabulary")
        return ids

    def has_unknown(self, ids: Sequence[int]) -> bool:
        """Whether a target to be generated has the unknown token in it, which predictions are read without."""
        return self.task_kind == "generation" and self.tokenizer.unk_token_id in ids

    def _wanted(self, example: Example, *, ranked: bool) -> tuple[Sequence[str], int]:
        """The candidates to encode and which of them is the target."""
        if ranked and example.candidates:
            return example.candidates, example.candidates.index(example.target)
        return (example.target,), 0

    def _by_turn(self, rows: Sequence[Row]) -> list[list[int]]:
        """For each candidate number, the rows that have it: the memory of one pass is that of one batch."""
        most = max(len(row["candidates"]) for row in rows)
        return [[i for i, row in enumerate(rows) if len(row["candidates"]) > turn] for turn in range(most)]


def precise(logits: Tensor) -> Tensor:
    """The logits in float32, or in float64 if that is what they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def sums(logits: Tensor, labels: Tensor) -> tuple[list[float], list[int]]:
    """The log-likelihood of each row's labels, and how many there are."""
    losses = cross_entropy(precise(logits).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return (-losses.view(labels.shape).sum(1)).tolist(), (labels != IGNORED).sum(1).tolist()
