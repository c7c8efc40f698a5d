"""Search spaces of methods, and the learning rates that they were published with.

The range of the learning rate depends on what a method trains, and covers the published rates of methods of that kind
(docs/learning-rates.md). Each range spans four decades, so that the same number of trials has the same resolution for
every method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """A range that tuning samples from, uniformly or on a log scale.

    Attributes:
        low: The lower end, which is included. Values are integers if both ends are.
        high: The upper end, which is included.
        log: Whether to sample on a log scale.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"a range needs low < high, and low > 0 on a log scale, not {self.low} to {self.high}")


SearchSpace = Mapping[str, Range | Sequence[str | int | float | bool]]
"""Ranges or lists of values by recipe key, such as ``train.learning_rate`` or ``method.r``."""


@dataclass(frozen=True, slots=True)
class PublishedRate:
    """Learning rates that a method was trained with in its paper, its authors' code or its library's examples.

    Attributes:
        rates: The learning rates, in ascending order.
        source: Where they are given: authors and year, and the section, table or file.
        optimizer: The optimizer that they were used with; empty if the source does not name it.
    """

    rates: tuple[float, ...]
    source: str
    optimizer: str = "AdamW"

    def __post_init__(self) -> None:
        if not self.rates or self.rates[0] <= 0 or list(self.rates) != sorted(set(self.rates)):
            raise ValueError(f"rates must be one or more numbers above zero in ascending order, not {self.rates}")
        if not self.source.strip():
            raise ValueError("a published rate needs its source: authors, year and section")


WEIGHTS: SearchSpace = {"train.learning_rate": Range(1e-6, 1e-2, log=True)}
"""The model's weight matrices, as in full fine-tuning of all or the top layers."""
ROTATIONS: SearchSpace = {"train.learning_rate": Range(3e-6, 3e-2, log=True)}
"""Orthogonal factors of the model's weights, as in OFT."""
MATRICES: SearchSpace = {"train.learning_rate": Range(1e-5, 1e-1, log=True)}
"""New matrices beside frozen weights: low-rank updates, bottlenecks, prompt encoders, heads."""
VECTORS: SearchSpace = {"train.learning_rate": Range(3e-5, 3e-1, log=True)}
"""Vectors of a layer's hidden size: biases, norm weights, key and value prefixes."""
SCALES: SearchSpace = {"train.learning_rate": Range(1e-4, 1.0, log=True)}
"""A few scaling factors or coefficients that act on whole rows or matrices, as in IA3, VeRA and FourierFT."""
PROMPTS: SearchSpace = {"train.learning_rate": Range(3e-4, 3.0, log=True)}
"""Trained input embeddings, as in prompt tuning."""
FAMILIES: Mapping[str, SearchSpace] = {
    "weights": WEIGHTS,
    "rotations": ROTATIONS,
    "matrices": MATRICES,
    "vectors": VECTORS,
    "scales": SCALES,
    "prompts": PROMPTS,
}
"""What a method trains, by the range of its learning rate."""


def find_family(space: SearchSpace) -> str:
    """Return the family, of ``FAMILIES``, whose range of learning rates a search space has; empty if none has it.

    Args:
        space: The search space of a method.
    """
    rate = space.get("train.learning_rate")
    return next((name for name, each in FAMILIES.items() if each["train.learning_rate"] == rate), "")
