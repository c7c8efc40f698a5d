"""What the forms of the three kinds of model share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from transformers import PreTrainedTokenizerBase

from peftkit.components import Example, TaskKind
from peftkit.runner.forms.shortening import shortened

IGNORED = -100
PAD_TO = 8  # widths that are multiples of 8 suit tensor cores, and make for few distinct shapes


class Row(TypedDict):
    """One encoded example: token ids, and which candidate is the target.

    ``candidates`` holds the target alone where nothing is ranked. For an encoder a candidate is the whole input,
    source and choice together, and a fixed label has none. ``source_tokens`` and ``target_tokens`` are the lengths
    of the source and of the longest candidate before anything was cut.
    """

    source: list[int]
    candidates: list[list[int]]
    answer: int
    source_tokens: int
    target_tokens: int


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-likelihood of each candidate of each row, and the number of tokens it is the sum over."""

    sums: list[list[float]]
    tokens: list[list[int]]


@dataclass(frozen=True)
class Form:
    """Turns examples into tensors for one kind of model.

    ``source_length`` and ``target_length`` are the tokens kept at the most.
    """

    tokenizer: PreTrainedTokenizerBase
    config: Any
    task_kind: TaskKind
    source_length: int
    target_length: int

    auto_class: ClassVar[str]
    """The transformers class that loads the model."""
    generates: ClassVar[bool] = True

    @property
    def pad(self) -> int:
        """The id that fills up; a tokenizer without one pads with its end of text, which is masked anyway."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id or 0)

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
        fill = {"attention_mask": 0, "labels": IGNORED}
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
        self, rows: Sequence[Sequence[int]], fill: int, *, left: bool = False, multiple: int = PAD_TO
    ) -> Tensor:
        width = -(-max(map(len, rows)) // multiple) * multiple
        blanks = [[fill] * (width - len(row)) for row in rows]
        return torch.tensor([b + list(r) if left else list(r) + b for r, b in zip(rows, blanks, strict=True)])

    def _mask(self, rows: Sequence[Sequence[int]], *, left: bool = False) -> Tensor:
        return self._padded([[1] * len(row) for row in rows], 0, left=left)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in self.tokenizer(list(texts))["input_ids"]] if texts else []

    def _sources(self, examples: Sequence[Example]) -> tuple[list[list[int]], list[list[int]]]:
        """The ids of the sources, first with contexts shortened where that is needed, then whole."""
        whole = self._ids([e.source for e in examples])
        fitted = list(whole)
        for i, example in enumerate(examples):
            if len(whole[i]) > self.source_length and example.context:
                fitted[i] = list(self.tokenizer(shortened(example, self.source_length, self.tokenizer))["input_ids"])
        return fitted, whole

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


def ended(ids: list[int], longest: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """At most ``longest`` ids, of which the last stays the end of text."""
    if len(ids) <= longest:
        return ids
    return [*ids[: longest - 1], ids[-1] if ids[-1] == tokenizer.eos_token_id else ids[longest - 1]]


def unended(ids: list[int], end: int | None) -> list[int]:
    """The ids without the end of text."""
    return ids[:-1] if ids and ids[-1] == end else ids
