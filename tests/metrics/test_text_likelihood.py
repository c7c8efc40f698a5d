"""Perplexity and bits per byte."""

from __future__ import annotations

import math
from typing import Any

import pytest

from peftkit.metrics import BitsPerByte, Perplexity

LIKELIHOODS: Any = [{"nats": 6.0, "tokens": 3, "bytes": 10}, {"nats": 2.0, "tokens": 1, "bytes": 6}] * 3


def test_tokens_and_bytes_of_all_texts_count_alike() -> None:
    references = [[""]] * 6
    assert Perplexity().compute(LIKELIHOODS, references, []) == {"perplexity": pytest.approx(math.exp(24 / 12))}
    assert BitsPerByte().compute(LIKELIHOODS, references, []) == {"bits_per_byte": pytest.approx(24 / 48 / math.log(2))}


@pytest.mark.parametrize("metric", [Perplexity(), BitsPerByte()], ids=lambda metric: metric.name)
def test_the_mean_of_the_values_of_texts_is_the_score(metric: Perplexity | BitsPerByte) -> None:
    each = [values[metric.name] for values in metric.compute_per_example(LIKELIHOODS, [[""]] * 6, [])]
    assert sum(each) / 6 == pytest.approx(metric.compute(LIKELIHOODS, [[""]] * 6, [])[metric.name])
    varies = max(each) - min(each) > 1e-6
    assert varies == (metric.name == "bits_per_byte"), "nats per token are equal in all texts, nats per byte are not"


def test_a_model_that_has_diverged_has_an_infinite_perplexity() -> None:
    diverged: Any = [{"nats": 5000.0, "tokens": 1, "bytes": 1}]
    assert Perplexity().compute(diverged, [[""]], []) == {"perplexity": math.inf}
