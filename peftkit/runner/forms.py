"""How examples become tensors: one form for each kind of model.

A form is the only place that knows the difference between an encoder-decoder, a decoder and an encoder. All three
give the same things: encoded rows, a summed training loss, and the log-likelihood of each candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from peftkit.components import Example, ModelKind, TaskKind

IGNORED = -100
PAD_TO = 8  # widths that are multiples of 8 suit tensor cores, and make for few distinct shapes


class Row(TypedDict):
    """One encoded example: token ids, and which candidate is the target.

    ``candidates`` holds the target alone where nothing is ranked. For an encoder a candidate is the whole input,
    source and choice together, and a fixed label has none.
    """

    source: list[int]
    candidates: list[list[int]]
    answer: int
    cut: bool


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

    def logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The logits and the labels they should give, both aligned."""
        raise NotImplementedError

    def score(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        """The log-likelihood of every candidate of every row."""
        raise NotImplementedError

    def generate(self, model: nn.Module, rows: Sequence[Row], device: torch.device, **options: Any) -> list[str]:
        """The text that the model generates for each row's source."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The summed cross-entropy of the batch's targets."""
        logits, labels = self.logits(model, batch)
        return cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")

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

    def _wanted(self, example: Example, *, ranked: bool) -> tuple[Sequence[str], int]:
        """The candidates to encode and which of them is the target."""
        if ranked and example.candidates:
            return example.candidates, example.candidates.index(example.target)
        return (example.target,), 0

    def _by_turn(self, rows: Sequence[Row]) -> list[list[int]]:
        """For each candidate number, the rows that have it: the memory of one pass is that of one batch."""
        most = max(len(row["candidates"]) for row in rows)
        return [[i for i, row in enumerate(rows) if len(row["candidates"]) > turn] for turn in range(most)]


def _sums(logits: Tensor, labels: Tensor) -> tuple[list[float], list[int]]:
    losses = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return (-losses.view(labels.shape).sum(1)).tolist(), (labels != IGNORED).sum(1).tolist()


class EncoderDecoder(Form):
    """Source into the encoder, target out of the decoder."""

    auto_class = "AutoModelForSeq2SeqLM"

    def encode(self, examples: Sequence[Example], *, ranked: bool) -> list[Row]:
        sources = self._ids([e.source for e in examples])
        rows: list[Row] = []
        wanted = [self._wanted(e, ranked=ranked) for e in examples]
        targets = iter(self._ids([text for texts, _ in wanted for text in texts]))
        for source, (texts, answer) in zip(sources, wanted, strict=True):
            candidates = [next(targets) for _ in texts]
            cut = len(source) > self.source_length or any(len(c) > self.target_length for c in candidates)
            rows.append(
                {
                    "source": _ended(source, self.source_length, self.tokenizer),
                    "candidates": [_ended(c, self.target_length, self.tokenizer) for c in candidates],
                    "answer": answer,
                    "cut": cut,
                }
            )
        return rows

    def batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        sources = [row["source"] for row in rows]
        return {
            "input_ids": self._padded(sources, self.pad),
            "attention_mask": self._mask(sources),
            **self._decoder_side([row["candidates"][row["answer"]] for row in rows]),
            "input_tokens": torch.tensor(sum(map(len, sources))),
        }

    def _decoder_side(self, targets: Sequence[list[int]], multiple: int = PAD_TO) -> dict[str, Tensor]:
        # Shifted here and not by the model: wrappers differ in whether they do it.
        start = self.config.decoder_start_token_id
        return {
            "decoder_input_ids": self._padded([[start, *t[:-1]] for t in targets], self.pad, multiple=multiple),
            "labels": self._padded(targets, IGNORED, multiple=multiple),
        }

    def logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        keys = ("input_ids", "attention_mask", "decoder_input_ids")
        return model(**{k: batch[k] for k in keys}, use_cache=False).logits, batch["labels"]

    def score(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        sources = [row["source"] for row in rows]
        ids, mask = self._padded(sources, self.pad).to(device), self._mask(sources).to(device)
        scores = Scores([[] for _ in rows], [[] for _ in rows])
        hidden: Tensor | None = None
        for turn, which in enumerate(self._by_turn(rows)):
            # Candidates are often of two or three tokens: filled up to eight, most of the work would be on nothing.
            decoder = self._decoder_side([rows[i]["candidates"][turn] for i in which], multiple=1)
            inputs: dict[str, Any] = {
                "input_ids": ids[which],  # read again by none, but peft's prompts count the rows by it
                "attention_mask": mask[which],
                "decoder_input_ids": decoder["decoder_input_ids"].to(device),
            }
            if hidden is not None:  # every row has a first candidate, so the first pass has encoded them all
                inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=hidden[which])  # type: ignore[arg-type]
            output = model(**inputs, use_cache=False)
            hidden = output.encoder_last_hidden_state if hidden is None else hidden
            for i, value, count in zip(which, *_sums(output.logits, decoder["labels"].to(device)), strict=True):
                scores.sums[i].append(value)
                scores.tokens[i].append(count)
        return scores

    def generate(self, model: nn.Module, rows: Sequence[Row], device: torch.device, **options: Any) -> list[str]:
        sources = [row["source"] for row in rows]
        ids, mask = self._padded(sources, self.pad).to(device), self._mask(sources).to(device)
        generated = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **options)  # type: ignore[operator]
        return [t.strip() for t in self.tokenizer.batch_decode(generated, skip_special_tokens=True)]


class Decoder(Form):
    """Source and target in one text; only the target's tokens are learnt and scored."""

    auto_class = "AutoModelForCausalLM"

    def encode(self, examples: Sequence[Example], *, ranked: bool) -> list[Row]:
        end = self.tokenizer.eos_token_id
        sources = [_unended(ids, end) for ids in self._ids([e.source for e in examples])]
        wanted = [self._wanted(e, ranked=ranked) for e in examples]
        # Continuations are cut out of the whole text, since many vocabularies join a word to its blank.
        whole = iter(
            self._ids([f"{e.source} {t}" for e, (texts, _) in zip(examples, wanted, strict=True) for t in texts])
        )
        rows: list[Row] = []
        for source, (texts, answer) in zip(sources, wanted, strict=True):
            targets = [_unended(next(whole), end)[len(source) :] for _ in texts]
            cut = len(source) > self.source_length or any(len(t) >= self.target_length for t in targets)
            rows.append(
                {
                    "source": source[-self.source_length :],
                    "candidates": [_ended([*t, end], self.target_length, self.tokenizer) for t in targets],
                    "answer": answer,
                    "cut": cut,
                }
            )
        return rows

    def batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        chosen = [row["candidates"][row["answer"]] for row in rows]
        made = self._joined([row["source"] for row in rows], chosen)
        return {**made, "input_tokens": torch.tensor(sum(len(row["source"]) for row in rows))}

    def _joined(self, sources: Sequence[list[int]], targets: Sequence[list[int]]) -> dict[str, Tensor]:
        texts = [s + t for s, t in zip(sources, targets, strict=True)]
        labels = [[IGNORED] * len(s) + t for s, t in zip(sources, targets, strict=True)]
        return {
            "input_ids": self._padded(texts, self.pad),
            "attention_mask": self._mask(texts),
            "labels": self._padded(labels, IGNORED),
        }

    def logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        labels = batch["labels"]
        # Prompt methods put their own positions in front of the text's.
        logits = output.logits[:, -labels.shape[1] :]
        return logits[:, :-1], labels[:, 1:]

    def score(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        scores = Scores([[] for _ in rows], [[] for _ in rows])
        for turn, which in enumerate(self._by_turn(rows)):
            batch = self._joined([rows[i]["source"] for i in which], [rows[i]["candidates"][turn] for i in which])
            logits, labels = self.logits(model, {k: v.to(device) for k, v in batch.items()})
            for i, value, count in zip(which, *_sums(logits, labels), strict=True):
                scores.sums[i].append(value)
                scores.tokens[i].append(count)
        return scores

    def generate(self, model: nn.Module, rows: Sequence[Row], device: torch.device, **options: Any) -> list[str]:
        sources = [row["source"] for row in rows]
        ids = self._padded(sources, self.pad, left=True).to(device)
        mask = self._mask(sources, left=True).to(device)
        generated = model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, do_sample=False, pad_token_id=self.pad, **options
        )
        texts = self.tokenizer.batch_decode(generated[:, ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]


class Encoder(Form):
    """A classification head: one output a label, or one score for each (source, choice) pair of a row."""

    auto_class = "AutoModelForSequenceClassification"
    generates = False

    def encode(self, examples: Sequence[Example], *, ranked: bool) -> list[Row]:
        longest = self.source_length
        if self.task_kind == "classification":
            sources = self.tokenizer([e.source for e in examples], truncation=True, max_length=longest)["input_ids"]
            full = self._ids([e.source for e in examples])
            return [
                {"source": list(s), "candidates": [], "answer": e.candidates.index(e.target), "cut": len(f) > len(s)}
                for e, s, f in zip(examples, sources, full, strict=True)
            ]
        texts = [(e.source, candidate) for e in examples for candidate in e.candidates]
        pairs = {"text": [a for a, _ in texts], "text_pair": [b for _, b in texts]}
        kept = iter(self.tokenizer(**pairs, truncation="only_first", max_length=longest)["input_ids"])
        whole = iter(self.tokenizer(**pairs)["input_ids"])
        rows: list[Row] = []
        for e in examples:
            candidates = [list(next(kept)) for _ in e.candidates]
            cut = any(len(next(whole)) > len(c) for c in candidates)
            rows.append({"source": [], "candidates": candidates, "answer": e.candidates.index(e.target), "cut": cut})
        return rows

    def batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        texts = [text for row in rows for text in (row["candidates"] or [row["source"]])]
        return {
            "input_ids": self._padded(texts, self.pad),
            "attention_mask": self._mask(texts),
            "labels": torch.tensor([row["answer"] for row in rows]),
            "choices": torch.tensor([len(row["candidates"]) for row in rows]),
            "input_tokens": torch.tensor(sum(map(len, texts))),
        }

    def logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        choices = batch["choices"].tolist()
        if any(choices):  # one score a pair: lay the scores of each row's pairs side by side
            scores = output.float()[:, 0].split(choices)
            output = nn.utils.rnn.pad_sequence(list(scores), batch_first=True, padding_value=-torch.inf)
        return output, batch["labels"]

    def score(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        logits, _ = self.logits(model, {k: v.to(device) for k, v in self.batch(rows).items()})
        likelihoods = logits.float().log_softmax(-1).tolist()
        counts = [len(row["candidates"]) or logits.shape[1] for row in rows]
        return Scores([values[:n] for values, n in zip(likelihoods, counts, strict=True)], [[1] * n for n in counts])


FORMS: Mapping[ModelKind, type[Form]] = {"encoder-decoder": EncoderDecoder, "decoder": Decoder, "encoder": Encoder}


def _ended(ids: list[int], longest: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """At most ``longest`` ids, of which the last stays the end of text."""
    if len(ids) <= longest:
        return ids
    return [*ids[: longest - 1], ids[-1] if ids[-1] == tokenizer.eos_token_id else ids[longest - 1]]


def _unended(ids: list[int], end: int | None) -> list[int]:
    return ids[:-1] if ids and ids[-1] == end else ids
