"""Answers to questions that are spans of a context."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftkit.answer_texts.text_normalization import normalize
from peftkit.components import Example, Head, ModelKind, Objective, Prediction, Task
from peftkit.components.family_services import Batch
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import NO_ANSWER, Row, TextWindow
from peftkit.errors import LengthError, RowError
from peftkit.objectives.completions import FreeGeneration, rewrite_texts
from peftkit.objectives.window_offsets import windows_as_texts

if TYPE_CHECKING:
    from torch import Tensor, nn


NO_SPAN = -1e9
"""Score where a context has no span that is not blank."""


class _SpanQa(Objective):
    """What answers are, for all families."""

    task_kind = "span_qa"
    generates = True  # answers are free texts
    scored_values: ClassVar[tuple[str, ...] | None] = ()

    def answer(self, example: Example) -> str:
        """Return the answer; empty if there is none."""
        return "" if example.target == NO_ANSWER else example.target

    def possible_answers(self, task: Task, examples: Sequence[Example]) -> Sequence[str]:
        """Return no answer, if some questions have none."""
        return ("",) if any(example.target == NO_ANSWER for example in examples) else ()

    def categories(self, task: Task, example: Example) -> Sequence[str]:
        """Return whether there is an answer, where questions may have none."""
        if NO_ANSWER not in example.extra:
            return ()
        return (NO_ANSWER if example.target == NO_ANSWER else "answerable",)


class SpanQaHead(_SpanQa):
    """Spans by a head that scores each token as the start and as the end of the answer (Devlin et al., 2019).

    A context that is too long is read in overlapping windows, each after the question. A window without the answer is
    trained to point to its first token, [CLS]. The answer is the span with the best sum of scores among all windows;
    where questions may have no answer, it is empty if pointing to [CLS] scores more than the best span, by more than
    ``null_score_diff_threshold``.
    """

    name: Literal["span_qa_head"] = "span_qa_head"

    doc_stride: int = Field(default=128, ge=0)
    """Number of tokens of the context that windows have in common, at most half of a window."""
    max_answer_length: int = Field(default=30, ge=1)
    """Maximum length of a predicted answer, in tokens."""
    n_best: int = Field(default=20, ge=1)
    """Number of spans of each window that are compared, and that `predict` gives."""
    null_score_diff_threshold: float | Literal["dev"] = "dev"
    """How much more than the best span no answer must score to be predicted; `dev` chooses the number with the highest
    F1 of words on dev."""

    families: ClassVar[tuple[ModelKind, ...]] = ("encoder",)
    used_settings: ClassVar[tuple[str, ...] | None] = ()

    def options_without_effect(self, task: Task) -> Mapping[str, str]:
        """Return the threshold, if every question has an answer."""
        allowed = getattr(task, "allow_no_answer", True)
        return {} if allowed else {"null_score_diff_threshold": "task.allow_no_answer is false"}

    def head(self, task: Task) -> Head:
        """Return a head with an output for starts and one for ends."""
        return Head(2, (), "AutoModelForQuestionAnswering")

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize questions and contexts; a row has where the tokens of each window are in the context."""
        return [self._tokenize(example, context, training=training) for example in examples]

    def _tokenize(self, example: Example, context: ObjectiveContext, *, training: bool) -> Row:
        if example.source_pair is None:
            raise RowError("source", "needs a question and a context")
        question, text = example.source_pair
        windows = context.family.tokenize_windows(text, question, stride=self.doc_stride)
        starts, ends, firsts = [], [], []
        for window in windows:
            positions = [i for i, offsets in enumerate(window.offsets) if offsets is not None]
            spans = [window.offsets[i] or (0, 0) for i in positions]
            firsts.append(positions[0] if positions else 0)
            starts.append([start for start, _ in spans])
            ends.append([end for _, end in spans])
        if not any(starts):
            raise RowError("context", "it has no token in the model's vocabulary")
        cls = context.tokenizer.cls_token_id
        nulls = [window.ids.index(cls) if cls in window.ids else 0 for window in windows]
        labels = [[null, null] for null in nulls]
        if example.target_span is not None:
            places = _find_answer(example.target_span, windows)
            for number, label in places.items():
                labels[number] = label
            if training and not places:
                limit = context.family.max_source_length
                raise LengthError(
                    "answers",
                    f"no window of {limit} tokens holds the whole answer; {context.family.source_remedy}, or raise "
                    "objective.doc_stride",
                )
        return {
            "source": windows[0].ids,
            "windows": [window.ids for window in windows[1:]],
            "segments": [window.segments for window in windows],
            "starts": starts,
            "ends": ends,
            "first_positions": firsts,
            "null_positions": nulls,
            "spans": labels,
            "length": sum(len(window.ids) for window in windows),
            "source_tokens": max(len(window.ids) for window in windows),
            "target_tokens": 0,
        }

    def collate(self, rows: Sequence[Row], context: ObjectiveContext) -> dict[str, Tensor]:
        """Make a text of each window; labels are start and end of its answer, of shape (texts, 2)."""
        import torch

        spans = torch.tensor([span for row in rows for span in row["spans"]])
        return {**context.family.collate(windows_as_texts(rows)), "labels": spans}

    def loss(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the summed cross-entropy of the starts and ends."""
        outputs, spans = context.family.logits(model, batch)
        return _losses(outputs, spans, batch["attention_mask"]).sum()

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Predict the best span of each context; without targets, also the other good ones."""
        batch = context.to_device(self.collate(rows, context))
        outputs = context.family.outputs_without_padding_effects(model, batch)
        losses = _losses(outputs, batch["labels"], batch["attention_mask"]).cpu()
        scores, first = outputs.float().cpu(), 0
        predictions: list[Prediction] = []
        for row, example in zip(rows, examples, strict=True):
            last = first + len(row["first_positions"])
            best = self._best_spans(scores[first:last], row, example)
            nulls = [scores[first + i, position].sum().item() for i, position in enumerate(row["null_positions"])]
            prediction: Prediction = {"prediction": best[0].text}
            if example.extra.get(NO_ANSWER):
                difference = min(nulls) - best[0].score
                prediction["null_score_diff"] = difference
                prediction["best_span"] = best[0].text
                threshold = self.null_score_diff_threshold
                prediction = _choose(prediction, 0.0 if threshold == "dev" else threshold)
                best = sorted([*best, _Span("", 0, 0, min(nulls))], key=lambda span: -span.score)
            if has_targets:
                prediction |= {"loss": losses[first:last].sum().item(), "tokens": 2 * (last - first)}
            else:
                prediction["n_best"] = _describe(best[: self.n_best])
            predictions.append(prediction)
            first = last
        return predictions

    def calibrate(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, Any]:
        """Choose the threshold of no answer, as SQuAD's official script does."""
        if (
            self.null_score_diff_threshold != "dev"
            or not predictions
            or not all("null_score_diff" in each for each in predictions)
        ):
            return {}
        gains: list[tuple[float, float]] = []
        for prediction, example in zip(predictions, examples, strict=True):
            right = max(_word_f1(prediction["best_span"], answer) for answer in example.references)
            gains.append((prediction["null_score_diff"], right - ("" in example.references)))
        gains.sort()
        total = best = 0.0
        threshold = gains[0][0] - 1
        for (difference, gain), (following, _) in pairwise([*gains, (math.inf, 0.0)]):
            total += gain
            if following > difference and total > best:
                best, threshold = total, (difference + min(following, difference + 2)) / 2
        return {"null_score_diff_threshold": threshold}

    def apply_calibration(self, prediction: Prediction, calibration: Mapping[str, Any]) -> Prediction:
        """Predict the best span, or no answer, by the threshold."""
        return _choose(prediction, calibration["null_score_diff_threshold"])

    def _best_spans(self, scores: Tensor, row: Row, example: Example) -> list[_Span]:
        """Return the best spans of all windows of a row, best first, each text once."""
        import torch

        text = (example.source_pair or ("", ""))[1]
        spans: dict[str, _Span] = {}
        for window, first, starts, ends in zip(scores, row["first_positions"], row["starts"], row["ends"], strict=True):
            if not starts:
                continue
            of_text = window[first : first + len(starts)]
            sums = of_text[:, 0, None] + of_text[None, :, 1]
            sums = sums.masked_fill(~torch.ones_like(sums).triu().tril(self.max_answer_length - 1).bool(), -math.inf)
            top = sums.flatten().topk(min(self.n_best, sums.numel()))
            for score, index in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                start, end = starts[index // len(starts)], ends[index % len(starts)]
                answer = text[start:end].strip()
                if score > -math.inf and answer and (answer not in spans or score > spans[answer].score):
                    spans[answer] = _Span(answer, start, end, score)
        return sorted(spans.values(), key=lambda span: -span.score) or [_Span("", 0, 0, NO_SPAN)]


class SpanQaGeneration(_SpanQa, FreeGeneration):
    """Answers that are generated; the word unanswerable or no text at all is no answer."""

    name: Literal["span_qa_generation"] = "span_qa_generation"  # type: ignore[assignment]

    task_kind = "span_qa"

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Generate an answer; that there is none becomes the empty text."""
        predictions = super().predict(model, rows, examples, context, has_targets=has_targets)
        return [
            rewrite_texts(each, lambda text: "" if text.strip(" .").lower() == NO_ANSWER else text)
            for each in predictions
        ]


@dataclass(frozen=True, slots=True)
class _Span:
    text: str
    start: int
    end: int
    score: float


def _choose(prediction: Prediction, threshold: float) -> Prediction:
    """Predict the best span, or no answer if that scores more by more than a threshold."""
    text = "" if prediction["null_score_diff"] > threshold else prediction["best_span"]
    return {**prediction, "prediction": text}


def _word_f1(predicted: str, answer: str) -> float:
    """Return the F1 of words, without case and punctuation."""
    words = [normalize(text, ignore_case=True, ignore_punctuation=True).split() for text in (predicted, answer)]
    common = sum((Counter(words[0]) & Counter(words[1])).values())
    return 2 * common / max(1, sum(map(len, words)))


def _find_answer(span: tuple[int, int], windows: Sequence[TextWindow]) -> dict[int, list[int]]:
    """Return the positions of the first and last token of an answer in each window that has all of it."""
    start, end = span
    tokens: dict[int, tuple[int, int]] = {}
    places: list[dict[int, int]] = []
    for window in windows:
        pairs = [(i, offsets) for i, offsets in enumerate(window.offsets) if offsets is not None]
        places.append({window.first_token + turn: i for turn, (i, _) in enumerate(pairs)})
        tokens |= {window.first_token + turn: offsets for turn, (_, offsets) in enumerate(pairs)}
    inside = [token for token, (first, last) in tokens.items() if first < end and last > start]
    if not inside:
        return {}
    whole = (min(inside), max(inside))
    return {n: [place[token] for token in whole] for n, place in enumerate(places) if all(t in place for t in whole)}


def _losses(outputs: Tensor, spans: Tensor, mask: Tensor) -> Tensor:
    """Return the cross-entropy of starts and ends, of shape (texts, 2), from outputs of shape (texts, length, 2)."""
    import torch

    scores = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    logprobs = scores.masked_fill(mask[..., None] == 0, -math.inf).log_softmax(1)
    return -logprobs.gather(1, spans[:, None]).squeeze(1)


def _describe(spans: Sequence[_Span]) -> list[Mapping[str, Any]]:
    """Describe spans with their probabilities among each other."""
    highest = max(span.score for span in spans)
    weights = [math.exp(span.score - highest) for span in spans]
    total = sum(weights)
    return [
        {"text": span.text, "start": span.start, "end": span.end, "probability": weight / total}
        for span, weight in zip(spans, weights, strict=True)
    ]
