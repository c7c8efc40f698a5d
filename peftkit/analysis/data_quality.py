"""What is suspicious in the data of a task: duplicates, empty texts, leakage between splits, rare answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from peftkit.analysis.near_duplicates import SketchedTexts, can_find_near_duplicates, find_near_duplicates
from peftkit.answer_texts.text_normalization import text_hash
from peftkit.components import Example, Task
from peftkit.models import BoundObjective

REPORTED_ROWS = 50_000
"""Number of rows of each split that are compared exactly."""
NEAR_ROWS = 20_000
"""Number of rows of each split that are compared approximately; that takes a few seconds."""
SHOWN = 3
"""Number of examples of each finding."""
BINS = 8
"""Number of bins of a histogram."""
Locate = Callable[[str, int], str]
"""Describes a row of a split, given its index."""


@dataclass(frozen=True)
class SplitInputs:
    """The inputs of some rows of a split.

    Attributes:
        name: Name of the split.
        indices: Index of each row in the split.
        texts: What the model reads, without what is the same in all prompts.
        answers: The target of each row.
        groups: The group of each row; empty if it has none.
    """

    name: str
    indices: Sequence[int]
    texts: Sequence[str]
    answers: Sequence[str]
    groups: Sequence[str]

    @cached_property
    def hashes(self) -> list[int]:
        """The hash of each normalized text."""
        return list(map(text_hash, self.texts))

    @cached_property
    def compared(self) -> Sequence[int]:
        """The positions of the rows that are compared approximately, evenly spaced."""
        size = len(self.texts)
        return range(size) if size <= NEAR_ROWS else [i * size // NEAR_ROWS for i in range(NEAR_ROWS)]

    @cached_property
    def sketched(self) -> SketchedTexts:
        """The texts of these rows."""
        return SketchedTexts([self.texts[i] for i in self.compared])


def split_inputs(name: str, indices: Sequence[int], examples: Sequence[Example]) -> SplitInputs:
    """Reads the inputs of examples.

    Args:
        name: Name of the split.
        indices: Index of each example in the split.
        examples: The examples.
    """
    texts = [_input_text(example) for example in examples]
    return SplitInputs(name, indices, texts, [e.target for e in examples], [e.group for e in examples])


def _input_text(example: Example) -> str:
    if example.words:
        return " ".join(example.words)
    return "\n".join(example.source_pair) if example.source_pair else example.source


def without_common_start(splits: Sequence[SplitInputs]) -> list[SplitInputs]:
    """Removes the words that start all inputs, such as those of the prompt, so that they make no texts similar.

    Args:
        splits: The splits.
    """
    texts = [text for split in splits for text in split.texts]
    first, last = min(texts, default=""), max(texts, default="")
    different = (i for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    start = first[: next(different, min(len(first), len(last)))]  # of the first and the last, so of all
    length = start.rfind(" ") + 1
    return [SplitInputs(s.name, s.indices, [text[length:] for text in s.texts], s.answers, s.groups) for s in splits]


def describe_duplicates(split: SplitInputs, locate: Locate) -> dict[str, Any]:
    """Counts the rows whose input occurred before, and those of them that have another answer than there.

    Args:
        split: The split.
        locate: Describes a row.
    """
    first: dict[int, int] = {}
    repeated: list[tuple[int, int]] = []
    for position, text in enumerate(split.hashes):
        earlier = first.setdefault(text, position)
        if earlier != position:
            repeated.append((position, earlier))
    other_answer = [pair for pair in repeated if split.answers[pair[0]] != split.answers[pair[1]]]
    return {
        "rows": len(repeated),
        "with_other_answer": len(other_answer),
        "examined": len(split.texts),
        "first": [
            {"row": locate(split.name, split.indices[a]), "same_as": locate(split.name, split.indices[b])}
            for a, b in (other_answer or repeated)[:SHOWN]
        ],
    }


def describe_empty(split: SplitInputs, locate: Locate) -> dict[str, Any]:
    """Counts the rows without input and those without answer.

    Args:
        split: The split.
        locate: Describes a row.
    """
    inputs = [i for i, text in enumerate(split.texts) if not text.strip()]
    answers = [i for i, answer in enumerate(split.answers) if not answer.strip()]
    first = [locate(split.name, split.indices[i]) for i in [*inputs, *answers][:SHOWN]]
    return {"inputs": len(inputs), "answers": len(answers), "first": first}


def describe_leakage(split: SplitInputs, other: SplitInputs, locate: Locate) -> dict[str, Any]:
    """Counts the rows of a split whose input occurs in another one, exactly or nearly, or whose group does.

    Args:
        split: The split.
        other: The other split.
        locate: Describes a row.

    Returns:
        ``exact`` and ``near`` (None without datasketch), ``groups``, the numbers of rows that were compared, and the
        first rows with those that they equal.
    """
    known: dict[int, int] = {}
    for position, each in enumerate(other.hashes):
        known.setdefault(each, position)
    exact = [(i, known[each]) for i, each in enumerate(split.hashes) if each in known]
    near: dict[int, int] | None = None
    compared = 0
    if can_find_near_duplicates():
        pairs, compared = find_near_duplicates(split.sketched, other.sketched)
        rows = ((split.compared[a], other.compared[b]) for a, b in pairs.items())
        near = {a: b for a, b in rows if split.hashes[a] not in known}
    groups = {group for group in other.groups if group}
    shown = [*((a, b, "equals") for a, b in exact), *((a, b, "nearly equals") for a, b in (near or {}).items())]
    return {
        "of": other.name,
        "exact": len(exact),
        "near": None if near is None else len(near),
        "groups": sum(group in groups for group in split.groups) if groups else None,
        "examined": [len(split.texts), len(other.texts)],
        "examined_near": None if near is None else [compared, len(other.compared)],
        "first": [
            {"row": locate(split.name, split.indices[a]), word.replace(" ", "_"): locate(other.name, other.indices[b])}
            for a, b, word in (shown if len(shown) <= SHOWN else [*shown[: SHOWN - 1], shown[-1]])
        ],
    }


def describe_answers(objective: BoundObjective, task: Task, examples: Sequence[Example]) -> dict[str, Any]:
    """Describes the distribution of answers: of labels, labels of a text, tags, numbers.

    Args:
        objective: The objective, which knows what an answer consists of.
        task: The task.
        examples: The examples.

    Returns:
        ``answers`` with the share of each category and ``imbalance``, or ``numbers``; empty for free texts.
    """
    component = objective.component
    counts = Counter(each for example in examples for each in component.categories(task, example))
    if counts:
        total = sum(counts.values())
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return {
            "answers": {answer: count / total for answer, count in sorted(counts.items())},
            "imbalance": {
                "most": ordered[0][0],
                "least": ordered[-1][0],
                "ratio": ordered[0][1] / ordered[-1][1],
                "unseen": [label for label in task.labels if label not in counts],
            },
        }
    columns = [*zip(*(component.numbers(example) for example in examples), strict=True)]
    if not columns:
        return {}
    names = task.targets or ("",) * len(columns)
    return {
        "numbers": {name or "target": _describe_numbers(column) for name, column in zip(names, columns, strict=True)}
    }


def _describe_numbers(values: Sequence[float]) -> dict[str, Any]:
    array = np.asarray(values, dtype=float)
    described = {"lowest": array.min(), "mean": array.mean(), "highest": array.max(), "std": array.std()}
    return {**{key: float(value) for key, value in described.items()}, "histogram": histogram(values)}


def histogram(values: Sequence[float]) -> list[dict[str, float]]:
    """Returns the bins of a histogram, of equal width.

    Args:
        values: The values; whole numbers have bins of whole numbers.

    Returns:
        ``from``, ``to`` (inclusive for whole numbers and for the last bin) and ``rows`` of each bin.
    """
    array = np.asarray(values, dtype=float)
    if not len(array):
        return []
    low, high = float(array.min()), float(array.max())
    if np.all(array == np.round(array)):
        width = max(1, -(-int(high - low + 1) // BINS))
        edges = [int(low) + width * i for i in range(int(high - low) // width + 2)]
        counts, _ = np.histogram(array, edges)
        return [{"from": a, "to": b - 1, "rows": int(n)} for a, b, n in zip(edges, edges[1:], counts, strict=False)]
    counts, bounds = np.histogram(array, BINS)
    pairs = zip(bounds, bounds[1:], counts, strict=False)
    return [{"from": float(a), "to": float(b), "rows": int(n)} for a, b, n in pairs]


def report_splits(splits: Mapping[str, SplitInputs], locate: Locate) -> dict[str, dict[str, Any]]:
    """Reports duplicates, empty texts, and leakage from the splits that precede each split.

    Args:
        splits: The inputs of each split, the training split first.
        locate: Describes a row.
    """
    shortened = without_common_start([*splits.values()])
    return {
        split.name: {
            "duplicates": describe_duplicates(split, locate),
            "empty": describe_empty(split, locate),
            "leakage": [describe_leakage(split, other, locate) for other in shortened[:number]],
        }
        for number, split in enumerate(shortened)
    }
