"""Counts that are kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from peftkit.data.count_cache import CountCache, count_cache
from peftkit.macs.mac_counter import MacCounter
from peftkit.models.load_base_model import apply_method, load_base
from peftkit.recipe import Recipe


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    result: Tensor = model(batch["x"]).sum()
    return result


def test_kept_counts_equal_new_ones_and_are_not_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, batch = tmp_path / "counts" / "a.json", {"x": torch.ones(2, 3)}

    def counter() -> MacCounter:
        return MacCounter(nn.Linear(3, 5), loss, lambda model: torch.optim.AdamW(model.parameters()), known=kept())

    def kept() -> CountCache:
        return CountCache(file)

    first = counter()
    macs, activations = first.count(batch), first.step_bytes([batch])
    assert macs.forward_macs == 2 * 3 * 5
    monkeypatch.setattr(MacCounter, "_count_on", None)
    monkeypatch.setattr(MacCounter, "_count_optimizer", None)
    again = counter()
    assert again.count(batch) == macs
    assert again.step_bytes([batch]) == activations
    assert again.optimizer == first.optimizer
    with pytest.raises(TypeError):
        again.count({"x": torch.ones(4, 3)})


def test_a_damaged_or_unwritable_file_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("[")
    assert dict(CountCache(file)) == {}
    unwritable = CountCache(file / "below.json")
    unwritable["a"] = [1]
    assert unwritable["a"] == [1]


def test_counts_depend_on_options_and_not_on_the_learning_rate(make: Callable[..., Recipe]) -> None:
    def name(*overrides: str) -> str:
        recipe = make("encoder-decoder", *overrides)
        base = load_base(recipe)
        file = count_cache(recipe, base.objective, apply_method(recipe, base, 4)).file
        assert file is not None
        return file.name

    same = name('method.name="lora"')
    assert name('method.name="lora"', "train.learning_rate=0.5", "run.seed=7") == same
    for other in ('method.name="full"', 'method={name="lora", r=2}', 'train.optimizer="sgd"', "model.dtype='float64'"):
        assert name('method.name="lora"', other) != same, other
