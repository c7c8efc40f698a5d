"""Metrics of retrieval: where the relevant documents of a query are among all documents."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from peftkit.answer_texts.text_normalization import collapse_blanks
from peftkit.components import Example, TaskKind
from peftkit.metrics.base import EvaluateMetric

Rank = Annotated[int, Field(ge=1)]


class _Retrieval(EvaluateMetric):
    """Base class of metrics of rankings, each at one or several numbers of retrieved documents.

    The query of a row is its anchor. All positives of the same anchor are relevant, and equal documents are one. The
    value is the mean over queries: rows with the same anchor count as one query. Documents with equal scores are ranked
    against the model: those that are not relevant come first.
    """

    kinds: ClassVar[tuple[TaskKind, ...]] = ("embedding",)
    input: ClassVar[str] = "ranking"
    is_mean_of_examples: ClassVar[bool] = True

    k: tuple[Rank, ...] = Field(default=(10,), min_length=1)
    """Numbers of documents that are retrieved for a query."""

    @property
    def value_names(self) -> tuple[str, ...]:
        """The names of the values, such as ``recall@10``."""
        return tuple(f"{self.name}@{k}" for k in self.k)

    def _score(self, ranks: Sequence[int], k: int) -> float:
        """Return the score of a query.

        Args:
            ranks: The ranks of its relevant documents, from 1, in ascending order.
            k: The number of retrieved documents.
        """
        raise NotImplementedError

    def _expected(self, relevant: int, documents: int, k: int) -> float:
        """Return the expected score of a random order.

        Args:
            relevant: The number of relevant documents.
            documents: The number of documents.
            k: The number of retrieved documents, at most that of documents.
        """
        raise NotImplementedError

    def compute_by_chance(self, examples: Sequence[Example]) -> dict[str, float]:
        """Return the expected scores of documents in random order."""
        relevant: dict[str, set[str]] = {}
        for example in examples:
            relevant.setdefault(collapse_blanks(example.source), set()).add(collapse_blanks(example.target))
        number = len({collapse_blanks(text) for example in examples for text in example.documents})
        counts = Counter(len(each) for each in relevant.values())
        return {
            name: sum(n * self._expected(size, number, min(k, number)) for size, n in counts.items()) / len(relevant)
            for name, k in zip(self.value_names, self.k, strict=True)
        }

    def compute_per_example(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> list[dict[str, float]]:
        """Return the scores of each row's query, so that comparisons can resample queries.

        If rows have the same query, they are pseudo-values, whose mean is the mean over queries.
        """
        import numpy as np

        from peftkit.metrics.pseudo_values import pseudo_values

        rankings: Sequence[Mapping[str, Any]] = predictions  # type: ignore[assignment]
        weights = np.array([1 / ranking["rows_of_query"] for ranking in rankings])
        columns = []
        for k in self.k:
            scores = np.array([self._score(ranking["ranks"], k) for ranking in rankings])
            if (weights == 1).all():
                columns.append(scores.tolist())
            else:
                sums = np.stack([weights * scores, weights], axis=1)
                columns.append(pseudo_values(sums, _ratio))
        return [dict(zip(self.value_names, values, strict=True)) for values in zip(*columns, strict=True)]

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the mean over queries, for each number of retrieved documents."""
        rankings: Sequence[Mapping[str, Any]] = predictions  # type: ignore[assignment]
        weights = [1 / ranking["rows_of_query"] for ranking in rankings]
        return {
            name: math.fsum(w * self._score(r["ranks"], k) for w, r in zip(weights, rankings, strict=True))
            / math.fsum(weights)
            for name, k in zip(self.value_names, self.k, strict=True)
        }


class Recall(_Retrieval):
    """Recall@k: the share of a query's relevant documents that are among the first k."""

    name: Literal["recall"] = "recall"
    k: tuple[Rank, ...] = Field(default=(1, 5, 10), min_length=1)
    """Numbers of documents that are retrieved for a query."""

    def _score(self, ranks: Sequence[int], k: int) -> float:
        return sum(rank <= k for rank in ranks) / len(ranks)

    def _expected(self, relevant: int, documents: int, k: int) -> float:
        return k / documents


class MeanReciprocalRank(_Retrieval):
    """MRR@k: one divided by the rank of the first relevant document, or 0 if that is not among the first k."""

    name: Literal["mrr"] = "mrr"

    def _score(self, ranks: Sequence[int], k: int) -> float:
        return 1 / ranks[0] if ranks[0] <= k else 0.0

    def _expected(self, relevant: int, documents: int, k: int) -> float:
        orders = math.comb(documents, relevant)
        first = (math.comb(documents - rank, relevant - 1) / orders for rank in range(1, k + 1))
        return math.fsum(probability / rank for rank, probability in enumerate(first, 1))


class Ndcg(_Retrieval):
    """nDCG@k with binary relevance (Järvelin and Kekäläinen, 2002): gains fall with the logarithm of the rank."""

    name: Literal["ndcg"] = "ndcg"

    def _score(self, ranks: Sequence[int], k: int) -> float:
        return math.fsum(_discount(rank) for rank in ranks if rank <= k) / self._ideal(len(ranks), k)

    def _expected(self, relevant: int, documents: int, k: int) -> float:
        gain = math.fsum(map(_discount, range(1, k + 1)))
        return relevant / documents * gain / self._ideal(relevant, k)

    def _ideal(self, relevant: int, k: int) -> float:
        return math.fsum(map(_discount, range(1, min(relevant, k) + 1)))


def _discount(rank: int) -> float:
    return 1 / math.log2(rank + 1)


def _ratio(sums: Any) -> Any:
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]
