"""The form of encoders with a classification head, such as BERT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from peftkit.components import Example
from peftkit.runner.forms.base import Form, Row, Scores


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
