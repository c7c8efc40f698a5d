"""The form of encoder-decoders, such as T5 and BART."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from peftkit.components import Example
from peftkit.runner.forms.base import IGNORED, PAD_TO, Form, Row, Scores, ended, sums


class EncoderDecoder(Form):
    """Source into the encoder, target out of the decoder."""

    auto_class = "AutoModelForSeq2SeqLM"

    def encode(self, examples: Sequence[Example], *, ranked: bool) -> list[Row]:
        sources, whole = self._sources(examples)
        rows: list[Row] = []
        wanted = [self._wanted(e, ranked=ranked) for e in examples]
        targets = iter(self._ids([text for texts, _ in wanted for text in texts]))
        for source, uncut, (texts, answer) in zip(sources, whole, wanted, strict=True):
            candidates = [next(targets) for _ in texts]
            rows.append(
                {
                    "source": ended(source, self.source_length, self.tokenizer),
                    "candidates": [ended(c, self.target_length, self.tokenizer) for c in candidates],
                    "answer": answer,
                    "source_tokens": len(uncut),
                    "target_tokens": max(map(len, candidates)),
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
            for i, value, count in zip(which, *sums(output.logits, decoder["labels"].to(device)), strict=True):
                scores.sums[i].append(value)
                scores.tokens[i].append(count)
        return scores

    def generate(self, model: nn.Module, rows: Sequence[Row], device: torch.device, **options: Any) -> list[str]:
        sources = [row["source"] for row in rows]
        ids, mask = self._padded(sources, self.pad).to(device), self._mask(sources).to(device)
        generated = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **options)  # type: ignore[operator]
        return [t.strip() for t in self.tokenizer.batch_decode(generated, skip_special_tokens=True)]
