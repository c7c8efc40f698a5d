"""Memory that steps free is kept for the next ones, and given back for everything else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from peftkit.train.steps import malloc_settings
from peftkit.train.steps.malloc_settings import KEEP, RETURN, KeptMemory
from tests.tiny_runs import Make

CPU = torch.device("cpu")


class Libc:
    """Stands in for glibc."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def mallopt(self, number: int, value: int) -> int:
        """Record a setting."""
        self.calls.append((number, value))
        return 1

    def malloc_trim(self, pad: int) -> int:
        """Record that memory is given back."""
        self.calls.append("trim")
        return 1


@pytest.fixture
def libc(monkeypatch: pytest.MonkeyPatch) -> Libc:
    stand_in = Libc()
    monkeypatch.setattr(malloc_settings, "_glibc", lambda: stand_in)
    return stand_in


def test_settings_are_those_of_the_process_until_the_last_one_gives_memory_back(libc: Libc) -> None:
    one, other = KeptMemory(CPU, wanted=True), KeptMemory(CPU, wanted=True)
    for memory in (one, one, other):
        memory.keep()
    assert libc.calls == [*KEEP.items()]
    one.give_back()
    one.give_back()
    assert len(libc.calls) == len(KEEP)
    other.give_back()
    assert libc.calls[len(KEEP) :] == [*RETURN.items(), "trim"]


@pytest.mark.parametrize(("device", "wanted"), [("meta", True), ("cpu", False)])
def test_other_devices_and_recipes_change_nothing(device: str, wanted: bool, libc: Libc) -> None:
    memory = KeptMemory(torch.device(device), wanted=wanted)
    memory.keep()
    memory.give_back()
    assert (memory.available, libc.calls) == (False, [])


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "1"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=1")]
)
def test_settings_of_the_user_are_left_alone(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert not KeptMemory(CPU, wanted=True).available


def test_memory_is_given_back_before_each_evaluation_and_at_the_end(make: Make, registry: Registry, libc: Libc) -> None:
    path = run(
        make("encoder", "method.name=lora", "evaluate.every=50%", "train.budget.steps=2", "train.keep_memory=true"),
        registry,
    )
    assert path is not None
    assert RunDirectory(path).summary()["keep_memory"] is True
    assert libc.calls == 2 * [*KEEP.items(), *RETURN.items(), "trim"]
