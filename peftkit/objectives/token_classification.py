"""Tags of words, by a head that scores each token of an encoder."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from peftkit.components import Example, Head, ModelKind, Objective, Prediction, Task
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import IGNORE_INDEX, Row
from peftkit.errors import RowError
from peftkit.objectives.window_offsets import assign_tokens, windows_as_texts
from peftkit.tag_schemes import OUTSIDE, SCHEME_KEY, SchemeName, entities

if TYPE_CHECKING:
    from torch import Tensor, nn


class TokenTaggingHead(Objective):
    """Tags of words by a head with one output for each tag.

    The words are read as running text. The first token of a word is trained and scored for it. Sentences that are too
    long are read in overlapping windows, and each word is tagged once, in the window with most context on both sides.
    A word without any token of its own has the tag O.
    """

    name: Literal["token_tagging_head"] = "token_tagging_head"

    stride: int = Field(default=64, ge=0)
    """Number of tokens that the windows of a long sentence have in common, at most half of a window."""

    task_kind = "token_tagging"
    scored_values = ()
    families: ClassVar[tuple[ModelKind, ...]] = ("encoder",)
    used_settings = ()

    def head(self, task: Task) -> Head:
        """Return a head with the task's tags."""
        return Head(len(task.labels), task.labels, "AutoModelForTokenClassification")

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize sentences; a row has the positions of the words' first tokens in each window, and their tags."""
        numbers = {tag: number for number, tag in enumerate(context.task.labels)}
        return [self._tokenize(example, numbers, context) for example in examples]

    def _tokenize(self, example: Example, numbers: dict[str, int], context: ObjectiveContext) -> Row:
        words, spans = _words(example)
        windows = context.family.tokenize_windows(example.source, None, stride=self.stride)
        places = assign_tokens(windows)
        first_tokens: dict[int, int] = {}
        starts = [start for start, _ in spans]
        for token, (number, position) in places.items():
            start, end = windows[number].offsets[position] or (0, 0)
            word = bisect_right(starts, end - 1) - 1  # a token may start with the blank before its word
            if end > start and word >= 0 and end - 1 < spans[word][1]:
                first_tokens.setdefault(word, token)
        if not first_tokens:
            raise RowError("source", "it has no token in the model's vocabulary")
        if len(first_tokens) < len(words) and OUTSIDE not in numbers:
            word = next(i for i in range(len(words)) if i not in first_tokens)
            reason = f"the word {words[word]!r} has no token in the model's vocabulary, and there is no tag {OUTSIDE}"
            raise RowError("source", reason)
        tagged = sorted(first_tokens)
        positions: list[list[int]] = [[] for _ in windows]
        for word in tagged:
            number, position = places[first_tokens[word]]
            positions[number].append(position)
        tags = example.target.split()
        return {
            "source": windows[0].ids,
            "windows": [window.ids for window in windows[1:]],
            "positions": positions,
            "words": tagged,
            "tags": [numbers[tags[word]] for word in tagged] if tags else [],
            "length": sum(len(window.ids) for window in windows),
            "source_tokens": max(len(window.ids) for window in windows),
            "target_tokens": 0,
        }

    def collate(self, rows: Sequence[Row], context: ObjectiveContext) -> dict[str, Tensor]:
        """Make a text of each window; labels have the shape (texts, length)."""
        import torch

        batch = context.family.collate(windows_as_texts(rows))
        labels = torch.full_like(batch["input_ids"], IGNORE_INDEX)
        if all(row["tags"] for row in rows):
            labels[_places(rows)] = torch.tensor([tag for row in rows for tag in row["tags"]])
        return {**batch, "labels": labels}

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Predict the most probable tag of each word; without targets, also what marks entities and where they are."""
        batch = context.to_device(self.collate(rows, context))
        outputs = context.family.outputs_without_padding_effects(model, batch)
        texts, positions = _places(rows)
        scores = outputs[texts.to(outputs.device), positions.to(outputs.device)].float().log_softmax(-1).cpu()
        labels, first = context.task.labels, 0
        predictions: list[Prediction] = []
        for row, example in zip(rows, examples, strict=True):
            of_row = scores[first : first + len(row["words"])]
            first += len(row["words"])
            words, spans = _words(example)
            tags, probabilities = [OUTSIDE] * len(words), [1.0] * len(words)
            best = of_row.max(-1)
            for word, number, score in zip(
                row["words"], best.indices.tolist(), best.values.exp().tolist(), strict=True
            ):
                tags[word], probabilities[word] = labels[number], score
            prediction: Prediction = {"prediction": " ".join(tags)}
            if has_targets:
                true = of_row[range(len(row["tags"])), row["tags"]]
                prediction |= {"loss": -true.sum().item(), "tokens": len(row["tags"])}
            else:
                prediction |= {"words": words, "tags": tags, "tag_probabilities": probabilities}
                prediction["entities"] = _entities(example, spans, tags, probabilities)
            predictions.append(prediction)
        return predictions

    def answer(self, example: Example) -> str:
        """Return the most frequent tag of the sentence."""
        counts = Counter(example.target.split())
        return min(counts, key=lambda tag: (-counts[tag], tag), default="")

    def answer_text(self, answer: str, example: Example) -> str:
        """Return the tag for each word."""
        return " ".join([answer] * len(_words(example)[0]))

    def possible_answers(self, task: Task, examples: Sequence[Example]) -> Sequence[str]:
        """Return the tags."""
        return task.labels

    def categories(self, task: Task, example: Example) -> Sequence[str]:
        """Return the tag of each word."""
        return example.target.split()

    def describe_constant_answer(self, answer: str) -> tuple[str, str]:
        """Describe that all words have the same tag."""
        return f"every word has the tag {answer!r}", "use sentences with different tags"


def _words(example: Example) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the words of a sentence, and the start and end of each in its source."""
    words = list(example.words or example.source.split())
    spans: list[tuple[int, int]] = []
    end = 0
    for word in words:
        start = example.source.index(word, end)
        end = start + len(word)
        spans.append((start, end))
    return words, spans


def _places(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Return the texts and positions of the words' first tokens, in the order of rows and words."""
    import torch

    windows = [positions for row in rows for positions in row["positions"]]
    texts = [text for text, positions in enumerate(windows) for _ in positions]
    return torch.tensor(texts), torch.tensor([position for positions in windows for position in positions])


def _entities(
    example: Example, spans: Sequence[tuple[int, int]], tags: Sequence[str], probabilities: Sequence[float]
) -> list[dict[str, Any]]:
    """Describe the entities that tags mark; the score of one is the mean probability of its tags."""
    known = example.extra.get(SCHEME_KEY) or ("IOB2" if any(tag[1:2] == "-" for tag in tags) else "none")
    described = []
    for kind, first, last in entities(tags, cast("SchemeName", known)):
        start, end = spans[first][0], spans[last - 1][1]
        score = sum(probabilities[first:last]) / (last - first)
        described.append({"type": kind, "text": example.source[start:end], "start": start, "end": end, "score": score})
    return described
