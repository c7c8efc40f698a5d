"""Samples follow the probabilities, and depend on nothing but their seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peftkit import Example
from peftkit.components.types import GeneratedText, RowSampling
from peftkit.models import seq2seq_lm
from peftkit.models.decoding import decoder_generation, greedy_search
from peftkit.models.decoding.sampling import make_processors
from tests.models.test_candidate_scoring import setting

CPU = torch.device("cpu")
SOURCES = ("a bird", "stone", "x", "a train that runs on coal and water", "granite and soup", "yes")
OPTIONS: dict[str, Any] = {"max_new_tokens": 16, "num_beams": 1}


def sampling(seeds: tuple[int, ...], **settings: Any) -> RowSampling:
    return RowSampling(**{"temperature": 1.0, "top_k": 0, "top_p": 1.0, **settings}, seeds=seeds)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (0.1, 0.2, 0.3, 0.4)),
        ({"temperature": 0.5}, (1 / 30, 4 / 30, 9 / 30, 16 / 30)),
        ({"top_k": 2}, (0, 0, 3 / 7, 4 / 7)),
        ({"top_p": 0.8}, (0, 2 / 9, 3 / 9, 4 / 9)),
    ],
)
def test_tokens_are_drawn_by_their_probabilities(settings: dict[str, float], expected: tuple[float, ...]) -> None:
    draws = 4000
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().repeat(draws, 1)
    ids = torch.zeros(draws, 1, dtype=torch.int64)
    processors = make_processors(sampling(tuple(range(draws)), **settings), range(draws), position=3)
    tokens = processors(ids, logits).argmax(-1)
    counts = torch.bincount(tokens, minlength=4) / draws
    for count, probability in zip(counts.tolist(), expected, strict=True):
        deviation = (probability * (1 - probability) / draws) ** 0.5
        assert count == pytest.approx(probability, abs=4 * deviation)


def generate(name: str, indices: list[int], **settings: Any) -> list[GeneratedText]:
    model, family, _ = setting(name)
    rows = family.tokenize_completions([Example(SOURCES[i], "no") for i in indices], ranked=False)
    seeds = sampling(tuple(100 + i for i in indices), **settings)
    with torch.inference_mode():
        return family.generate(model, rows, CPU, sampling=seeds, **OPTIONS)


@pytest.mark.parametrize("name", ["t5", "llama", "gpt2"])
def test_a_sample_depends_on_no_other_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on the order and the size of the batch, nor on rows that leave it when they have ended."""
    together = generate(name, [0, 1, 2, 3, 4, 5])
    assert len({text for text, _ in together}) == len(SOURCES)
    assert generate(name, [4, 2]) == [together[4], together[2]]
    assert [generate(name, [i])[0] for i in range(6)] == together
    monkeypatch.setattr(greedy_search, "PASS_TOKENS", 0)
    monkeypatch.setattr(greedy_search, "MIN_STEPS", 1)
    assert generate(name, [0, 1, 2, 3, 4, 5]) == together
    for module in (decoder_generation, seq2seq_lm):
        monkeypatch.setattr(module, "can_divide", lambda model, options: False)
    assert generate(name, [0, 1, 2, 3, 4, 5]) == together


def test_the_most_likely_token_alone_is_greedy_search() -> None:
    model, family, _ = setting("llama")
    rows = family.tokenize_completions([Example(source, "no") for source in SOURCES], ranked=False)
    with torch.inference_mode():
        greedy = family.generate(model, rows, CPU, **OPTIONS)
    everything = list(range(len(SOURCES)))
    assert generate("llama", everything, top_k=1) == greedy
    assert generate("llama", everything, top_p=1e-6) == greedy
    assert generate("llama", everything, temperature=1e-4) == greedy
    assert generate("llama", everything) != greedy
