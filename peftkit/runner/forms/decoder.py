"""The form of decoder-only models, such as GPT-2 and Llama."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.components import Example
from peftkit.runner.forms.base import IGNORED, Form, Row, Scores, ended, sums, unended


class Decoder(Form):
    """Source and target in one text; only the target's tokens are learnt and scored."""

    auto_class = "AutoModelForCausalLM"

    def encode(self, examples: Sequence[Example], *, ranked: bool) -> list[Row]:
        end = self.tokenizer.eos_token_id
        sources, uncut = self._sources(examples)
        starts = [unended(ids, end) for ids in uncut]
        wanted = [self._wanted(e, ranked=ranked) for e in examples]
        # Continuations are cut out of the whole text, since many vocabularies join a word to its blank.
        whole = iter(
            self._ids([f"{e.source} {t}" for e, (texts, _) in zip(examples, wanted, strict=True) for t in texts])
        )
        rows: list[Row] = []
        for source, start, (texts, answer) in zip(sources, starts, wanted, strict=True):
            targets = [[*unended(next(whole), end)[len(start) :], end] for _ in texts]
            rows.append(
                {
                    "source": unended(source, end)[-self.source_length :],
                    "candidates": [ended(t, self.target_length, self.tokenizer) for t in targets],
                    "answer": answer,
                    "source_tokens": len(start),
                    "target_tokens": max(map(len, targets)),
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
            for i, value, count in zip(which, *sums(logits, labels), strict=True):
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
