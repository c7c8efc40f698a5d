"""The most memory that operations hold at a time."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from peftkit.macs.activation_memory import StepMemory
from peftkit.macs.mac_counter import MacCounter
from peftkit.testing.tiny_models import tiny_model

MIB = 2**20


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_tensor_counts_while_it_lives(device: str) -> None:
    kept = torch.ones(MIB, device=device)
    memory = StepMemory()
    memory.exclude([kept])
    with memory:
        first = kept * 2
        view = first[::2]
        first = view + 1
        del view
        second = torch.cat([first, first])
        second.add_(1)
        del first, second
    # Two of four MiB; a half beside its whole; half and twice the half.
    assert memory.peak == 6 * MIB
    with memory:
        kept.view(-1).add_(1)
    assert memory.peak == 6 * MIB


def test_fake_tensors_count_as_real_ones_do() -> None:
    peaks = []
    for mode in (None, FakeTensorMode()):
        memory = StepMemory()
        if mode is not None:
            mode.__enter__()
        with memory:
            total = sum(torch.ones(1000) * i for i in range(4))
        del total
        if mode is not None:
            mode.__exit__(None, None, None)
        peaks.append(memory.peak)
    assert peaks[0] == peaks[1] > 0


@pytest.mark.parametrize("architecture", ["t5", "bert", "llama", "gpt2"])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("number", [1, 2])
def test_the_memory_of_a_step_is_what_the_profiler_measures(architecture: str, method: str, number: int) -> None:
    model: Any = tiny_model(architecture, vocab_size=2_000)
    if method == "lora":
        model = get_peft_model(model, LoraConfig(target_modules="all-linear"))
    batch = {"input_ids": torch.randint(10, 90, (16, 40)), "labels": torch.randint(10, 90, (16, 40))}
    if architecture == "bert":
        batch["labels"] = torch.zeros(16, dtype=torch.long)

    def loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
        return model(**batch).loss  # type: ignore[no-any-return]

    estimated = MacCounter(model, loss).step_bytes([batch] * number)
    model.train()
    loss(model, batch).backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        for _ in range(number):
            loss(model, batch).backward()  # type: ignore[no-untyped-call]
    events = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    measured = max(accumulate(change for _, change in changes))
    # Transformers 4 reads the mask, of which copies know no values.
    assert estimated == pytest.approx(measured, rel=0.05)
