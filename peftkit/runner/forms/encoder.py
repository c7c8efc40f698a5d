"""The form of encoders with a classification head, such as BERT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from peftkit.components import Example
from peftkit.runner.forms.base import Form, Row, Scores, precise
from peftkit.runner.forms.shortening import shortened


class Encoder(Form):
    """A classification head: one output a label, or one score for each (source, choice) pair of a row."""

    auto_class = "AutoModelForSequenceClassification"
    generates = False

    def encode(self, examples: Sequence[Example], *, ranked: bool) -> list[Row]:
        sources, whole = self._sources(examples)
        if self.task_kind != "classification":
            return [self._paired(e, len(uncut)) for e, uncut in zip(examples, whole, strict=True)]
        longest = self.source_length
        for i, source in enumerate(sources):
            if len(source) > longest:
                sources[i] = list(self.tokenizer(examples[i].source, truncation=True, max_length=longest)["input_ids"])
        return [
            {
                "source": source,
                "candidates": [],
                "answer": e.candidates.index(e.target),
                "source_tokens": len(uncut),
                "target_tokens": 0,
            }
            for e, source, uncut in zip(examples, sources, whole, strict=True)
        ]

    def _paired(self, example: Example, length: int) -> Row:
        """Each choice after the source; where a pair is too long, the source gives way."""
        choices, source = list(example.candidates), example.source
        pairs = self.tokenizer([source] * len(choices), choices)["input_ids"]
        longest = max(map(len, pairs))
        if longest > self.source_length and example.context:
            source = shortened(example, self.source_length - (longest - length), self.tokenizer)
        if longest > self.source_length:
            options = {"truncation": "only_first", "max_length": self.source_length}
            pairs = self.tokenizer([source] * len(choices), choices, **options)["input_ids"]
        return {
            "source": [],
            "candidates": [list(pair) for pair in pairs],
            "answer": choices.index(example.target),
            "source_tokens": longest,
            "target_tokens": 0,
        }

    def batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        texts = [text for row in rows for text in (row["candidates"] or [row["source"]])]
        return {
            "input_ids": self._padded(texts, self.pad),
            "attention_mask": self._mask(texts),
            "labels": torch.tensor([row["answer"] for row in rows]),
            "choices": torch.tensor([len(row["candidates"]) for row in rows]),
            "input_tokens": torch.tensor(sum(map(len, texts))),
        }

    def parts(self, batch: Mapping[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
        inputs = [max(1, n) for n in batch["choices"].tolist()]  # a row has as many as it has choices
        first = 0
        for start in range(0, len(inputs), size):
            number = sum(inputs[start : start + size])
            which = {key: slice(first, first + number) for key in ("input_ids", "attention_mask")}
            yield {k: v[which.get(k, slice(start, start + size))] if v.ndim else v for k, v in batch.items()}
            first += number

    def logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        choices = batch["choices"].tolist()
        if any(choices):  # one score a pair: lay the scores of each row's pairs side by side
            scores = torch.split(precise(output)[:, 0], choices)
            output = nn.utils.rnn.pad_sequence(list(scores), batch_first=True, padding_value=-torch.inf)
        return output, batch["labels"]

    def score(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        logits, _ = self.logits(model, {k: v.to(device) for k, v in self.batch(rows).items()})
        likelihoods = precise(logits).log_softmax(-1).tolist()
        counts = [len(row["candidates"]) or logits.shape[1] for row in rows]
        return Scores([values[:n] for values, n in zip(likelihoods, counts, strict=True)], [[1] * n for n in counts])
