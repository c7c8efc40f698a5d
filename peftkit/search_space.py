"""What a method is tuned over: ranges, and the learning rates that methods were published with.

The ranges of the learning rate differ by what a method trains, and lie where methods of that kind were published
(docs/learning-rates.md). Each spans four decades, so that the same number of trials has the same resolution for every
method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Between:
    """A range that tuning draws from, both ends in it: whole numbers where both ends are, evenly or on a log scale."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"a range needs low < high, and above zero on a log scale, not {self.low} to {self.high}")


Search = Mapping[str, Between | Sequence[str | int | float | bool]]
"""What tuning may set: a recipe's key, such as ``train.learning_rate`` or ``method.r``, and what it draws from."""


@dataclass(frozen=True, slots=True)
class PublishedRate:
    """Learning rates that a method was trained with in its paper, its authors' code or its library's examples.

    Attributes:
        rates: the learning rates, in ascending order.
        source: where they are given: authors and year, and the section, table or file.
        optimizer: the optimizer that they were used with; empty where the source does not name it.
    """

    rates: tuple[float, ...]
    source: str
    optimizer: str = "AdamW"

    def __post_init__(self) -> None:
        if not self.rates or self.rates[0] <= 0 or list(self.rates) != sorted(set(self.rates)):
            raise ValueError(f"published rates are one or more numbers above zero in ascending order, not {self.rates}")
        if not self.source.strip():
            raise ValueError("a published rate needs its source: authors, year and place")


WEIGHTS: Search = {"train.learning_rate": Between(1e-6, 1e-2, log=True)}
"""The model's own weight matrices: full fine-tuning, the top layers."""
ROTATIONS: Search = {"train.learning_rate": Between(3e-6, 3e-2, log=True)}
"""Orthogonal factors of the model's own weights, as in OFT."""
MATRICES: Search = {"train.learning_rate": Between(1e-5, 1e-1, log=True)}
"""New matrices beside frozen weights: low-rank updates, bottlenecks, networks that make prompts, heads."""
VECTORS: Search = {"train.learning_rate": Between(3e-5, 3e-1, log=True)}
"""Vectors of a layer's width that are added or normalise: biases, norms, keys and values before the text."""
SCALES: Search = {"train.learning_rate": Between(1e-4, 1.0, log=True)}
"""A few factors or coefficients that each act on a whole row or matrix, as in IA3, VeRA and FourierFT."""
PROMPTS: Search = {"train.learning_rate": Between(3e-4, 3.0, log=True)}
"""Input embeddings that are trained directly."""
