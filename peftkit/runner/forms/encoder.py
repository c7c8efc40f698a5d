"""The form of encoders with a classification head, such as BERT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.components import Example
from peftkit.errors import RowError
from peftkit.runner.forms.base import Form, Row, Scores, precise
from peftkit.runner.forms.padding import by_length, ignores_padding
from peftkit.runner.forms.ranking import takes, tolerance
from peftkit.runner.forms.shortening import shortened
from peftkit.runner.forms.tokens import refuse_equal

PER_TEXT = ("input_ids", "attention_mask", "token_type_ids")
"""The tensors that have a line for each text, and not for each row."""


class Encoder(Form):
    """A classification head: one output a label, or one score for each (source, choice) pair of a row."""

    auto_class = "AutoModelForSequenceClassification"
    generates = False

    def encode(self, examples: Sequence[Example], *, ranked: bool) -> list[Row]:
        _, sources, lengths = self._sources(examples)
        if self.task_kind != "classification":
            return [self._paired(e, length) for e, length in zip(examples, lengths, strict=True)]
        return [
            {
                "source": self._cut_source(source),
                "candidates": [],
                "answer": e.candidates.index(e.target),
                "source_tokens": length,
                "target_tokens": 0,
                "segments": [],
            }
            for e, source, length in zip(examples, sources, lengths, strict=True)
        ]

    def _paired(self, example: Example, length: int) -> Row:
        """Each choice after the source; where a pair is too long, the source gives way.

        Raises:
            RowError: a choice leaves no room for the source, or two choices have the same ids.
        """
        choices, source = list(example.candidates), example.source
        pairs = self.tokenizer([source] * len(choices), choices, return_token_type_ids=True)
        longest = max(map(len, pairs["input_ids"]))
        if longest > self.source_length and example.context:
            source = shortened(example, self.source_length - (longest - length), self.tokenizer)
        if longest > self.source_length:
            pairs = self._truncated(source, choices)
        texts = [self._checked(list(pair), "source", "encoder") for pair in pairs["input_ids"]]
        refuse_equal(choices, texts)
        return {
            "source": [],
            "candidates": texts,
            "answer": choices.index(example.target),
            "source_tokens": longest,
            "target_tokens": 0,
            "segments": [list(each) for each in pairs["token_type_ids"]],
        }

    def _truncated(self, source: str, choices: list[str]) -> Any:
        """The pairs with sources that are cut at their end."""
        most = max(len(pair) for pair in self.tokenizer([""] * len(choices), choices)["input_ids"])
        if most >= self.source_length:
            raise RowError(
                "candidates",
                f"one of them has {most} tokens, which leaves the source none of the {self.source_length} there is "
                "room for; raise train.max_source_length",
            )
        self.tokenizer.truncation_side = "right"
        options: dict[str, Any] = {
            "truncation": "only_first",
            "max_length": self.source_length,
            "return_token_type_ids": True,
        }
        return self.tokenizer([source] * len(choices), choices, **options)

    def batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        texts = [text for row in rows for text in (row["candidates"] or [row["source"]])]
        segments = [segment for row in rows for segment in row.get("segments", ())]
        widest = self.encoder_width
        return {
            "input_ids": self._padded(texts, self.pad, widest=widest),
            "attention_mask": self._mask(texts, widest=widest),
            **({"token_type_ids": self._padded(segments, 0, widest=widest)} if segments else {}),
            "labels": torch.tensor([row["answer"] for row in rows]),
            "choices": torch.tensor([len(row["candidates"]) for row in rows]),
            "input_tokens": torch.tensor(sum(map(len, texts))),
        }

    def parts(self, batch: Mapping[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
        inputs = [max(1, n) for n in batch["choices"].tolist()]  # a row has as many as it has choices
        first = 0
        for start in range(0, len(inputs), size):
            number = sum(inputs[start : start + size])
            which = {key: slice(first, first + number) for key in PER_TEXT}
            yield {k: v[which.get(k, slice(start, start + size))] if v.ndim else v for k, v in batch.items()}
            first += number

    def logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self._beside(self._outputs(model, batch), batch), batch["labels"]

    def _outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """What the head gives for each text."""
        inputs = {"input_ids": batch["input_ids"]}
        if takes(model, "attention_mask") or takes(model, "kwargs"):  # in transformers 4 FNet takes none
            inputs["attention_mask"] = batch["attention_mask"]
        if "token_type_ids" in batch and self.numbers_segments(model):
            inputs["token_type_ids"] = batch["token_type_ids"]
        outputs: Tensor = model(**inputs).logits
        return outputs

    def _beside(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The outputs of each row: where there is one score a pair, the scores of a row's pairs lie side by side."""
        choices = batch["choices"].tolist()
        if not any(choices):
            return outputs
        scores: list[Tensor] = list(torch.split(precise(outputs)[:, 0], choices))
        return nn.utils.rnn.pad_sequence(scores, batch_first=True, padding_value=-torch.inf)

    def numbers_segments(self, model: nn.Module) -> bool:
        """Whether the model knows two texts from each other: RoBERTa has one segment, DistilBERT none."""
        return takes(model, "token_type_ids") and getattr(self.config, "type_vocab_size", 2) > 1

    def score(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        batch = {k: v.to(device) for k, v in self.batch(rows).items()}
        outputs = self._outputs(model, batch)
        lengths = batch["attention_mask"].sum(1).tolist()

        def alone(which: list[int]) -> Tensor:
            short = {key: batch[key][which, : lengths[which[0]]] for key in PER_TEXT if key in batch}
            return self._outputs(model, short)

        def differs() -> bool | None:
            shortest = min(range(len(lengths)), key=lengths.__getitem__)
            if lengths[shortest] == batch["input_ids"].shape[1]:
                return None
            difference = (alone([shortest])[0] - outputs[shortest]).abs().max().item()
            return difference > 10 * tolerance(model, device) * max(1.0, outputs[shortest].abs().max().item())

        if not ignores_padding(model, differs):
            for which in by_length([range(length) for length in lengths]):
                outputs[which] = alone(which)
        logits = self._beside(outputs, batch)
        likelihoods = precise(logits).log_softmax(-1).tolist()
        counts = [len(row["candidates"]) or logits.shape[1] for row in rows]
        return Scores([values[:n] for values, n in zip(likelihoods, counts, strict=True)], [[1] * n for n in counts])
