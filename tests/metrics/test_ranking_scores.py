"""Metrics of rankings: equal to scikit-learn's and to definitions, and their expected values at random."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import ndcg_score

from peftkit import Example
from peftkit.metrics import EvaluateMetric, MeanReciprocalRank, Ndcg, Recall

METRICS: tuple[Any, ...] = (Ndcg, MeanReciprocalRank, Recall)


def compute(metric: EvaluateMetric, ranks: list[list[int]], rows_of_query: list[int] | None = None) -> dict[str, float]:
    numbers = rows_of_query or [1] * len(ranks)
    rankings: Any = [{"ranks": r, "rows_of_query": n} for r, n in zip(ranks, numbers, strict=True)]
    return metric.compute(rankings, [["x"]] * len(ranks), [])


@given(st.integers(2, 12).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(1, n), min_size=1))))
def test_scores_of_a_query_are_those_of_the_definitions(drawn: tuple[int, set[int]]) -> None:
    documents, relevant = drawn
    ranks = sorted(relevant)
    for k in (1, 3, 10):
        true = np.array([[float(rank in relevant) for rank in range(1, documents + 1)]])
        scores = -np.arange(documents, dtype=float)[None]
        assert compute(Ndcg(k=(k,)), [ranks])[f"ndcg@{k}"] == pytest.approx(ndcg_score(true, scores, k=k))
        retrieved = [rank for rank in ranks if rank <= k]
        assert compute(Recall(k=(k,)), [ranks])[f"recall@{k}"] == len(retrieved) / len(ranks)
        assert compute(MeanReciprocalRank(k=(k,)), [ranks])[f"mrr@{k}"] == (1 / retrieved[0] if retrieved else 0)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_with_the_same_anchor_are_one_query(metric: Any) -> None:
    ranks = [[1], [2, 5], [2, 5], [7]]
    rows_of_query = [1, 2, 2, 1]
    whole, queries = compute(metric(), ranks, rows_of_query), compute(metric(), [ranks[0], ranks[1], ranks[3]])
    assert whole == pytest.approx(queries)
    for numbers in (rows_of_query, [1, 1, 1, 1]):
        rankings: Any = [{"ranks": r, "rows_of_query": n} for r, n in zip(ranks, numbers, strict=True)]
        rows = metric().compute_per_example(rankings, [["x"]] * 4, [])
        means = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
        assert means == pytest.approx(compute(metric(), ranks, numbers)), "comparisons average the scores of rows"


def examples(queries: list[tuple[str, str]], others: list[str]) -> list[Example]:
    rows = [Example(anchor, positive, documents=(positive,)) for anchor, positive in queries]
    first = rows[0]
    return [Example(first.source, first.target, documents=(first.target, *others)), *rows[1:]]


@pytest.mark.parametrize("metric", METRICS)
def test_chance_is_the_mean_over_all_orders(metric: Any) -> None:
    rows = examples([("q", "a"), ("q", "b "), ("r", "b"), ("s", "c")], ["d", " a"])  # four documents
    relevant = {"q": {"a", "b"}, "r": {"b"}, "s": {"c"}}
    k = metric(k=(1, 2, 3, 9))
    means: dict[str, list[float]] = {}
    for order in permutations("abcd"):
        ranks = [sorted(order.index(text) + 1 for text in texts) for texts in relevant.values()]
        for key, value in compute(k, ranks).items():
            means.setdefault(key, []).append(value)
    expected = {key: np.mean(values) for key, values in means.items()}
    assert k.compute_by_chance(rows) == pytest.approx(expected)


def test_numbers_of_documents_are_different() -> None:
    with pytest.raises(ValidationError, match="occurs twice; keep one"):
        Recall(k=(1, 1))
    assert Recall(k=(3,)).value_names == ("recall@3",)
