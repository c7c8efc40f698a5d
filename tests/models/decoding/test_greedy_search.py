"""Texts of batches that rows leave early are those of whole batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peftkit import Example
from peftkit.models import causal_lm, seq2seq_lm
from peftkit.models.decoding import decoder_generation, greedy_search
from peftkit.models.decoding.greedy_search import MIN_STEPS, PASS_TOKENS, ManyEnded, can_divide
from tests.models.test_candidate_scoring import setting

CPU = torch.device("cpu")
SOURCES = ("a bird", "stone", "x", "a train that runs on coal and water", "granite and soup", "yes")


@pytest.mark.parametrize("method", ["none", "lora"])
@pytest.mark.parametrize("name", ["t5", "bart", "llama", "gpt2"])
def test_rows_that_have_ended_leave_the_batch(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, family, _ = setting(name, method)
    rows = family.tokenize_completions([Example(source, "no") for source in SOURCES], ranked=False)
    ids: list[list[int]] = []
    for module in (causal_lm, seq2seq_lm):
        monkeypatch.setattr(module, "read_generated", lambda _, generated, __: ids.append(generated) or "")
    monkeypatch.setattr(greedy_search, "PASS_TOKENS", 0)
    options = {"max_new_tokens": 5 * MIN_STEPS, "num_beams": 1}
    with torch.inference_mode():
        family.__dict__["eos_id"] = -1
        family.generate(model, rows, CPU, **options)
        first, last = next(
            (a, b) for a in range(len(rows)) for b in range(len(rows)) if not set(ids[a][:4]) & set(ids[b])
        )
        family.__dict__["eos_id"] = ids[first][3]
        rows = [rows[first], rows[last], rows[first], rows[first]]
        sizes: list[int] = []
        generate: Any = model.generate
        monkeypatch.setattr(
            model, "generate", lambda **inputs: sizes.append(len(inputs["input_ids"])) or generate(**inputs)
        )
        ids.clear()
        family.generate(model, rows, CPU, **options)
        divided = [*ids]
        assert sizes[-2:] == [4, 1]
        for divides in (decoder_generation, seq2seq_lm):
            monkeypatch.setattr(divides, "can_divide", lambda model, options: False)
        ids.clear()
        family.generate(model, rows, CPU, **options)
    eos_id = family.eos_id
    texts = [[each[: each.index(eos_id) if eos_id in each else None] for each in lines] for lines in (divided, ids)]
    assert texts[0] == texts[1]
    assert len(texts[0][1]) == options["max_new_tokens"]


def test_a_batch_stops_when_ended_rows_cost_as_much_as_reading_the_others_again() -> None:
    stop, steps = ManyEnded(stop_ids=[1], start=2, max_new_tokens=200, encoder_length=10), 0
    ids = torch.tensor([[1, 5]] * 4)
    while not stop(ids, None).any():  # three rows end at once
        ids = torch.cat([ids, torch.tensor([[1], [1], [1], [5]])], 1)
        steps += 1
    in_vain = 3 * (steps - 1)
    assert in_vain >= ids.shape[1] + 10 + PASS_TOKENS > in_vain - 3


def test_a_batch_does_not_stop_when_few_steps_are_left() -> None:
    stop = ManyEnded(stop_ids=[1], start=2, max_new_tokens=MIN_STEPS - 1)
    stop.in_vain = 10**6
    assert stop(torch.tensor([[1, 5, 1]] * 4), None).tolist() == [False] * 4


def test_prompts_in_a_cache_and_beams_are_not_divided() -> None:
    model, _, _ = setting("llama")
    assert can_divide(model, {"max_new_tokens": 9, "num_beams": 1})
    assert not can_divide(model, {"max_new_tokens": 9, "num_beams": 2})
    assert not can_divide(model, {"max_new_tokens": 9, "min_new_tokens": 9})
    assert not can_divide(setting("llama", "prefix_tuning")[0], {"max_new_tokens": 9})
