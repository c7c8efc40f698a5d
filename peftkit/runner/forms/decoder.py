"""The form of decoder-only models, such as GPT-2 and Llama."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from peftkit.components import Example
from peftkit.errors import RowError
from peftkit.runner.forms.base import IGNORED, PAD_TO, Row, Scores, sums
from peftkit.runner.forms.padding import by_length, ignores_padding
from peftkit.runner.forms.ranking import (
    Continuing,
    Likelihoods,
    NotShared,
    Way,
    continued,
    groups,
    layers,
    limits,
    part,
    row_bytes,
    takes,
    tolerance,
)
from peftkit.runner.forms.tokens import continuation, cut, ended, refuse_equal, token_ids


class Decoder(Continuing):
    """Source and target in one text; only the target's tokens are learnt and scored."""

    auto_class = "AutoModelForCausalLM"

    @property
    def _source_room(self) -> int:
        return self.source_length + len(self.template.after)  # which a prompt goes without

    def token_problems(self) -> list[str]:
        return self._problems_of("decoder", lambda: self.template.before, lambda: [self.end])

    def _framed(self, ids: list[int]) -> list[int]:
        """A prompt goes on with its target, so nothing of the template ends it; it has one token at the least."""
        prompt = [*self.template.before, *self.template.bare(ids)]
        begin = self.tokenizer.bos_token_id
        return prompt or [self.end if begin is None else begin]

    def _cut_source(self, ids: list[int]) -> list[int]:
        """A prompt's ids without the first ones that are too many; the template's stay."""
        if len(ids) > self.source_length:
            before = len(self.template.before)
            if self.source_length <= before:
                raise RowError("source", f"no token of it is left in the {self.source_length} there is room for")
            ids = [*ids[:before], *ids[len(ids) - self.source_length + before :]]
        return self._checked(ids, "source", "decoder")

    def encode(self, examples: Sequence[Example], *, ranked: bool) -> list[Row]:
        texts, prompts, lengths = self._sources(examples)
        wanted = [self._wanted(e, ranked=ranked) for e in examples]
        # Continuations are cut out of the whole text, since many vocabularies join a word to its blank.
        bare = token_ids(self.tokenizer, texts, special=False)
        whole = iter(
            token_ids(
                self.tokenizer,
                [f"{text} {t}" for text, (targets, _) in zip(texts, wanted, strict=True) for t in targets],
                special=False,
            )
        )
        rows: list[Row] = []
        for text, ids, prompt, length, (targets, answer) in zip(texts, bare, prompts, lengths, wanted, strict=True):
            candidates = [self._target(next(whole), ids, prompt, text, target) for target in targets]
            kept = [cut(c, self.target_length) for c in candidates]
            if len(targets) > 1:
                refuse_equal(targets, candidates)
                refuse_equal(targets, kept, self.target_length)
            rows.append(
                {
                    "source": self._cut_source(prompt),
                    "candidates": kept,
                    "answer": answer,
                    "source_tokens": length,
                    "target_tokens": max(map(len, candidates)),
                    "segments": [],
                }
            )
        return rows

    def _target(self, whole: list[int], bare: list[int], prompt: list[int], source: str, target: str) -> list[int]:
        """The ids of a target that continues the prompt, with the end of text.

        Args:
            whole: the ids of source and target as one text, without the template's.
            bare: those of the source.
            prompt: the ids of the source as the model sees them.
            source: the source.
            target: the target.

        Raises:
            RowError: there are none that read as the target does.
        """
        if not target:
            return [self.end]
        if whole[: len(bare)] == bare:
            ids = whole[len(bare) :]
        else:
            ids = continuation(self.tokenizer, self.template, prompt, source, target)
        return self._checked_target(ended(ids, self.end, target, self.tokenizer), target)

    def batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        chosen = [row["candidates"][row["answer"]] for row in rows]
        made = self._joined([row["source"] for row in rows], chosen)
        return {**made, "input_tokens": torch.tensor(sum(len(row["source"]) for row in rows))}

    def _joined(self, sources: Sequence[list[int]], targets: Sequence[list[int]]) -> dict[str, Tensor]:
        texts = [s + t for s, t in zip(sources, targets, strict=True)]
        labels = [[IGNORED] * len(s) + t for s, t in zip(sources, targets, strict=True)]
        widest = self.decoder_width
        return {
            "input_ids": self._padded(texts, self.pad, widest=widest),
            "attention_mask": self._mask(texts, widest=widest),
            "labels": self._padded(labels, IGNORED, widest=widest),
        }

    def logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        labels = batch["labels"]
        # Prompt methods put their own positions in front of the text's.
        logits = output.logits[:, -labels.shape[1] :]
        return logits[:, :-1], labels[:, 1:]

    def ways(self) -> Sequence[Way]:
        return self.score_packed, self.score_continued

    def score_alone(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        scores = Scores([[] for _ in rows], [[] for _ in rows])
        for turn, which in enumerate(self._by_turn(rows)):
            batch = self._joined([rows[i]["source"] for i in which], [rows[i]["candidates"][turn] for i in which])
            logits, labels = self.logits(model, {k: v.to(device) for k, v in batch.items()})
            for i, value, count in zip(which, *sums(logits, labels), strict=True):
                scores.sums[i].append(value)
                scores.tokens[i].append(count)
        return scores

    def score_packed(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        """Scores by two passes: sources with what a row's candidates begin with, then all their rests side by side.

        In the second a row's rests are one text, in which each sees the cache of the first and itself. So no cache is
        copied, but the model has to take the position of each token and a mask for each pair of them.
        """
        if not takes(model, "position_ids"):
            raise NotShared("the model takes no positions")
        found = Likelihoods(rows, device)
        past, mask, begins, vocabulary = self._read_shared(model, rows, found)
        dtype = layers(past)[0].keys.dtype
        rests = [[c for c in found.unread if c.row == i] for i in range(len(rows))]
        longest = max(sum(len(c.rest) for c in each) for each in rests)
        size = max(1, limits(device).bytes // max(1, longest * vocabulary * 8))
        for first in range(0, len(rows), size):
            which, group = slice(first, first + size), rests[first : first + size]
            if not any(group):
                continue
            ids = self._padded([[t for c in each for t in c.rest] for each in group], self.pad, multiple=1)
            places = [[begins[c.row] + i for c in each for i in range(len(c.rest))] for each in group]
            owners = self._padded([[c.number for c in each for _ in c.rest] for each in group], -1, multiple=1)
            own = (owners[:, :, None] == owners[:, None, :]).tril().to(device)
            seen = torch.cat([mask[which, None, :].bool().expand(-1, ids.shape[1], -1), own], 2)
            hidden = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, torch.finfo(dtype).min)
            logits = continued(model)(
                input_ids=ids.to(device),
                attention_mask=hidden[:, None],
                position_ids=self._padded(places, 0, multiple=1).to(device),
                past_key_values=part(past, which),
                use_cache=True,
            ).logits
            offsets = [accumulate((len(c.rest) for c in each), initial=0) for each in group]
            found.note_rest(
                logits,
                (
                    (c, i, column)
                    for i, (each, columns) in enumerate(zip(group, offsets, strict=True))
                    for c, column in zip(each, columns, strict=False)
                ),
            )
        return found.scores()

    def score_continued(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        """Scores like ``score_packed``, but the second pass takes each rest as a row, with a copy of the cache."""
        found = Likelihoods(rows, device)
        past, mask, begins, vocabulary = self._read_shared(model, rows, found)
        for group in groups(found.unread, len(rows), row_bytes(past), vocabulary, limits(device)):
            which = torch.tensor([c.row for c in group], device=device)
            ids = self._padded([c.rest for c in group], self.pad, multiple=1).to(device)
            places = torch.tensor([begins[c.row] for c in group], device=device)[:, None]
            # What fills a rest up stands where its last token does: there may be no position after that.
            last = torch.tensor([len(c.rest) - 1 for c in group], device=device)[:, None]
            places = places + torch.arange(ids.shape[1], device=device).minimum(last)
            logits = continued(model)(
                input_ids=ids,
                attention_mask=torch.cat([mask[which], torch.ones_like(ids)], 1),
                past_key_values=part(past, which),
                use_cache=True,
                **({"position_ids": places} if takes(model, "position_ids") else {}),
            ).logits
            found.note_rest(logits, ((c, i, 0) for i, c in enumerate(group)))
        return found.scores()

    def _read_shared(
        self, model: nn.Module, rows: Sequence[Row], found: Likelihoods
    ) -> tuple[Any, Tensor, list[int], int]:
        """Reads each row's source and what its candidates begin with, and notes what that predicts.

        Returns:
            The cache, the mask of its positions, each row's next position, and the size of the vocabulary.
        """
        if not all(row["source"] for row in rows):
            raise NotShared("nothing stands before the candidates of a row")
        texts = [row["source"] + row["candidates"][0][:n] for row, n in zip(rows, found.shared, strict=True)]
        multiple = 1 if found.device.type == "cpu" else PAD_TO
        widest = self.decoder_width
        ids = self._padded(texts, self.pad, multiple=multiple, widest=widest).to(found.device)
        ones = [[1] * len(text) for text in texts]
        mask = self._padded(ones, 0, multiple=multiple, widest=widest).to(found.device)
        last = [len(row["source"]) - 1 for row in rows]
        wanted = sorted({at + read for at, n in zip(last, found.shared, strict=True) for read in range(n + 1)})
        # Counted from the end, since prompt methods put positions of their own in front.
        kept = torch.tensor(wanted, device=found.device) - ids.shape[1]
        options = {"logits_to_keep": kept} if takes(model, "logits_to_keep") else {}
        output = model(input_ids=ids, attention_mask=mask, use_cache=True, **options)
        columns = {position: column for column, position in enumerate(wanted)}
        found.note_shared(
            output.logits if options else output.logits[:, kept], lambda row, read: columns[last[row] + read]
        )
        past = output.past_key_values
        longest = max(len(row["source"]) + len(ids) for row in rows for ids in row["candidates"])
        front = past.get_seq_length() - ids.shape[1]
        layers(past, front + longest)
        mask = pad(mask, (front, 0), value=1)
        return past, mask, [front + len(text) for text in texts], output.logits.shape[-1]

    def generate(self, model: nn.Module, rows: Sequence[Row], device: torch.device, **options: Any) -> list[str]:
        sources = [row["source"] for row in rows]
        if ignores_padding(model, partial(self._differs_when_padded, model, sources, device, options)):
            return self._written(self._continued(model, sources, device, options))
        texts = [""] * len(rows)
        for which in by_length(sources):
            ids = self._continued(model, [sources[i] for i in which], device, options, multiple=1)
            for i, text in zip(which, self._written(ids), strict=True):
                texts[i] = text
        return texts

    def _continued(
        self,
        model: nn.Module,
        sources: Sequence[list[int]],
        device: torch.device,
        options: Mapping[str, Any],
        multiple: int = PAD_TO,
    ) -> Any:
        """What the model generates after the sources, as ids, or with what else the options ask for."""
        # As many positions as sources may have are left beside those of what is generated.
        widest = None if self.decoder_width is None else self.source_length
        ids = self._padded(sources, self.pad, left=True, multiple=multiple, widest=widest).to(device)
        ones = [[1] * len(source) for source in sources]
        mask = self._padded(ones, 0, left=True, multiple=multiple, widest=widest).to(device)
        generated: Any = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            pad_token_id=self.pad,
            eos_token_id=self.end,
            **options,
        )
        return generated[:, ids.shape[1] :] if isinstance(generated, Tensor) else generated

    def _differs_when_padded(
        self, model: nn.Module, sources: Sequence[list[int]], device: torch.device, options: Mapping[str, Any]
    ) -> bool | None:
        """Whether padding on the left changes what the shortest source goes on with; None if none is padded here."""
        shortest, longest = min(sources, key=len), max(sources, key=len)
        if len(shortest) == len(longest) and len(shortest) % PAD_TO == 0:
            return None
        asked = {**options, "num_beams": 1, "max_new_tokens": 2, "output_logits": True, "return_dict_in_generate": True}
        alone = self._continued(model, [shortest], device, asked, multiple=1)
        padded = self._continued(model, [shortest, longest], device, asked)
        share = 10 * tolerance(model, device)
        for one, other in zip(alone.logits, padded.logits, strict=False):
            near = (one[0] - other[0]).abs().max() <= share * max(1.0, one[0].abs().max().item())
            if not near:
                return True
            if one[0].argmax() != other[0].argmax():
                break
        return False
