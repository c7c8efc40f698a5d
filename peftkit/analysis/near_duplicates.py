"""Finds texts that are almost equal, with the MinHash of datasketch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from peftkit.answer_texts.text_normalization import normalize

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

SHINGLE_WORDS = 3
"""Number of words of the word sequences that texts are compared by."""
SIMILARITY = 0.8
"""Jaccard similarity of word sequences from which texts are almost equal."""
SEARCHED_SIMILARITY = 0.7
"""Similarity of the candidates, which MinHash estimates; the exact one decides."""
MAX_PAIRS = 1_000_000
"""Number of pairs of candidates that are compared; texts of one template are candidates of each other."""
PERMUTATIONS = 128
"""Number of hash functions of a MinHash; its standard error is 1 / sqrt(128), or 0.09."""


def can_find_near_duplicates() -> bool:
    """Returns whether datasketch is installed."""
    try:
        import datasketch  # noqa: F401
    except ImportError:
        return False
    return True


@dataclass(frozen=True)
class SketchedTexts:
    """Texts that are compared with others.

    Attributes:
        texts: The texts.
    """

    texts: Sequence[str]

    @cached_property
    def shingles(self) -> list[frozenset[bytes]]:
        """The word sequences of each text."""
        return list(map(_shingles, self.texts))

    @cached_property
    def sketches(self) -> list[MinHash]:
        """The MinHash of each text."""
        from datasketch import MinHash

        return list(MinHash.generator(map(list, self.shingles), num_perm=PERMUTATIONS))

    @cached_property
    def index(self) -> MinHashLSH:
        """Finds texts by their MinHash."""
        from datasketch import MinHashLSH

        index = MinHashLSH(threshold=SEARCHED_SIMILARITY, num_perm=PERMUTATIONS)
        with index.insertion_session() as session:
            for number, sketch in enumerate(self.sketches):
                session.insert(number, sketch)
        return index


def find_near_duplicates(texts: SketchedTexts, others: SketchedTexts) -> tuple[dict[int, int], int]:
    """Finds the texts that are almost equal to one of others.

    Args:
        texts: The texts.
        others: The texts that they are compared with.

    Returns:
        The index of the most similar other text, by the index of the text; and the number of texts that were compared,
        which is smaller than that of all if there are too many candidates.
    """
    near: dict[int, int] = {}
    pairs = 0
    for number, (shingles, sketch) in enumerate(zip(texts.shingles, texts.sketches, strict=True)):
        candidates = others.index.query(sketch)
        pairs += len(candidates)
        if pairs > MAX_PAIRS:
            return near, number
        similar = sorted((-_similarity(shingles, others.shingles[other]), other) for other in candidates)
        if similar and -similar[0][0] >= SIMILARITY:
            near[number] = similar[0][1]
    return near, len(texts.texts)


def _shingles(text: str) -> frozenset[bytes]:
    words = normalize(text, ignore_punctuation=True).split()
    last = max(1, len(words) - SHINGLE_WORDS + 1)
    return frozenset(" ".join(words[i : i + SHINGLE_WORDS]).encode("utf-8", "surrogatepass") for i in range(last))


def _similarity(one: frozenset[bytes], other: frozenset[bytes]) -> float:
    return len(one & other) / len(one | other)
