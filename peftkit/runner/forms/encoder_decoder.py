"""The form of encoder-decoders, such as T5 and BART."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from peftkit.components import Example
from peftkit.runner.forms.base import IGNORED, PAD_TO, Row, Scores, sums
from peftkit.runner.forms.ranking import Continuing, Likelihoods, Way, continued, groups, limits, part, row_bytes
from peftkit.runner.forms.tokens import Template, cut, ended, refuse_equal, start_token, template, token_ids


class EncoderDecoder(Continuing):
    """Source into the encoder, target out of the decoder."""

    auto_class = "AutoModelForSeq2SeqLM"

    @cached_property
    def start(self) -> int:
        """The id that the decoder begins with.

        Raises:
            InputError: the config has none.
        """
        return start_token(self.config)

    @cached_property
    def target_template(self) -> Template:
        """The special tokens that the tokenizer puts around a target."""
        return template(self.tokenizer, target=True)

    def token_problems(self) -> list[str]:
        needed = (lambda: [self.start], lambda: [self.end], lambda: self.target_template.before)
        return [*super().token_problems(), *self._problems_of("decoder", *needed)]

    def encode(self, examples: Sequence[Example], *, ranked: bool) -> list[Row]:
        _, sources, lengths = self._sources(examples)
        rows: list[Row] = []
        wanted = [self._wanted(e, ranked=ranked) for e in examples]
        encoded = iter(token_ids(self.tokenizer, [t for texts, _ in wanted for t in texts], target=True, special=False))
        for source, length, (texts, answer) in zip(sources, lengths, wanted, strict=True):
            candidates = [self._target(next(encoded), text) for text in texts]
            kept = [cut(c, self.target_length) for c in candidates]
            if len(texts) > 1:
                refuse_equal(texts, candidates)
                refuse_equal(texts, kept, self.target_length)
            rows.append(
                {
                    "source": self._cut_source(source),
                    "candidates": kept,
                    "answer": answer,
                    "source_tokens": length,
                    "target_tokens": max(map(len, candidates)),
                    "segments": [],
                }
            )
        return rows

    def _target(self, ids: list[int], text: str) -> list[int]:
        """The ids of a target as the decoder says it: what the template puts before it, the text, the end of text.

        Raises:
            RowError: the text has no such ids.
        """
        ids = ended(self.target_template.bare(ids), self.end, text, self.tokenizer)
        return [*self.target_template.before, *self._checked_target(ids, text)]

    def batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        sources = [row["source"] for row in rows]
        return {
            "input_ids": self._padded(sources, self.pad, widest=self.encoder_width),
            "attention_mask": self._mask(sources, widest=self.encoder_width),
            **self._decoder_side([row["candidates"][row["answer"]] for row in rows]),
            "input_tokens": torch.tensor(sum(map(len, sources))),
        }

    def _decoder_side(self, targets: Sequence[list[int]], multiple: int = PAD_TO) -> dict[str, Tensor]:
        # Shifted here and not by the model: wrappers differ in whether they do it.
        options: dict[str, Any] = {"multiple": multiple, "widest": self.decoder_width}
        return {
            "decoder_input_ids": self._padded([[self.start, *t[:-1]] for t in targets], self.pad, **options),
            "labels": self._padded(targets, IGNORED, **options),
        }

    def logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        keys = ("input_ids", "attention_mask", "decoder_input_ids")
        return model(**{k: batch[k] for k in keys}, use_cache=False).logits, batch["labels"]

    def ways(self) -> Sequence[Way]:
        return self.score_continued, self.score_encoded_once

    def score_alone(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        return self._score_each(model, rows, device, encode_once=False)

    def score_encoded_once(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        """Scores by a pass for each candidate; only the encoder's output is shared."""
        return self._score_each(model, rows, device, encode_once=True)

    def _score_each(self, model: nn.Module, rows: Sequence[Row], device: torch.device, *, encode_once: bool) -> Scores:
        ids, mask = self._encoder_side(rows, device)
        scores = Scores([[] for _ in rows], [[] for _ in rows])
        hidden: Tensor | None = None
        for turn, which in enumerate(self._by_turn(rows)):
            # Candidates are often of two or three tokens: filled up to eight, most of the work would be on nothing.
            decoder = self._decoder_side([rows[i]["candidates"][turn] for i in which], multiple=1)
            inputs: dict[str, Any] = {
                "input_ids": ids[
                    which
                ],  # beside the encoder's output read by none, but peft's prompts count rows by it
                "attention_mask": mask[which],
                "decoder_input_ids": decoder["decoder_input_ids"].to(device),
            }
            if hidden is not None:
                inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=hidden[which])  # type: ignore[arg-type]
            output = model(**inputs, use_cache=False)
            if encode_once and hidden is None:  # every row has a first candidate, so this pass has encoded them all
                hidden = output.encoder_last_hidden_state
            for i, value, count in zip(which, *sums(output.logits, decoder["labels"].to(device)), strict=True):
                scores.sums[i].append(value)
                scores.tokens[i].append(count)
        return scores

    def score_continued(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        """Scores by one pass of sources and what a row's candidates begin with, whose cache the candidates continue.

        That cache has the cross-attention's keys and values too: they are computed once for each row.
        """
        ids, mask = self._encoder_side(rows, device)
        found = Likelihoods(rows, device)
        begun = [[self.start, *row["candidates"][0][:n]] for row, n in zip(rows, found.shared, strict=True)]
        head = self._padded(begun, self.pad, multiple=1).to(device)
        # The adapters library gives tuples back, unless it is given a cache.
        empty = EncoderDecoderCache(DynamicCache(), DynamicCache())
        output = model(
            input_ids=ids, attention_mask=mask, decoder_input_ids=head, past_key_values=empty, use_cache=True
        )
        found.note_shared(output.logits, lambda row, read: read)

        past, hidden = output.past_key_values, output.encoder_last_hidden_state
        mask = pad(mask, (hidden.shape[1] - mask.shape[1], 0), value=1)  # prompt methods lengthen the source
        front = past.get_seq_length() - head.shape[1]  # what the method put before the start
        width = output.logits.shape[-1]
        for group in groups(found.unread, len(rows), row_bytes(past), width, limits(device), same=True):
            which = torch.tensor([c.row for c in group], device=device)
            logits = continued(model)(
                encoder_outputs=BaseModelOutput(last_hidden_state=hidden[which]),  # type: ignore[arg-type]
                attention_mask=mask[which],
                decoder_input_ids=self._padded([c.rest for c in group], self.pad, multiple=1).to(device),
                past_key_values=part(past, which, front + 1 + group[0].shared),
                use_cache=True,
            ).logits
            found.note_rest(logits, ((c, i, 0) for i, c in enumerate(group)))
        return found.scores()

    def _encoder_side(self, rows: Sequence[Row], device: torch.device) -> tuple[Tensor, Tensor]:
        sources = [row["source"] for row in rows]
        multiple = 1 if device.type == "cpu" else PAD_TO
        options: dict[str, Any] = {"multiple": multiple, "widest": self.encoder_width}
        ids = self._padded(sources, self.pad, **options)
        mask = self._padded([[1] * len(source) for source in sources], 0, **options)
        return ids.to(device), mask.to(device)

    def generate(self, model: nn.Module, rows: Sequence[Row], device: torch.device, **options: Any) -> list[str]:
        ids, mask = self._encoder_side(rows, device)
        generated = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            decoder_start_token_id=self.start,
            pad_token_id=self.pad,
            eos_token_id=self.end,
            **options,
        )
        return self._written(generated[:, 1:])
