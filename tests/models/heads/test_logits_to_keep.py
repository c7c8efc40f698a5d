"""Logits of targets only: the same loss and gradients as with those of all positions, for less compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from peftkit.components.types import TokenizedRow
from peftkit.macs.mac_counter import MacCounter
from peftkit.models import CausalLM, Seq2SeqLM
from peftkit.models.batches.padding import TARGET_POSITIONS, max_lengths, split_batch
from peftkit.models.heads.logits_to_keep import find_output_layer, select_positions
from peftkit.plugins import load_registry
from peftkit.testing import apply_method, run_spec, tiny_model
from peftkit.testing.tiny_models import FAMILIES

EXPERTS = {"mixtral", "qwen2_moe", "qwen3_moe"}
"""Models whose experts torch cannot multiply in double precision."""
GENERATORS = tuple(name for kind in ("decoder", "encoder-decoder") for name in FAMILIES[kind] if name not in EXPERTS)
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"r": 4},
    "prompt_tuning": {"num_virtual_tokens": 3},
    "prefix_tuning": {"num_virtual_tokens": 3},
    "ia3": {},
}


def row(source: int, target: int) -> TokenizedRow:
    """A row with a source and a target of these lengths."""
    ids = [3 + (7 * i + source) % 50 for i in range(source + target)]
    return {
        "source": ids[:source],
        "candidates": [ids[source:]],
        "answer": 0,
        "length": source + target,
        "source_tokens": source,
        "target_tokens": target,
    }


def family(model: Any, *, all_logits: bool) -> CausalLM | Seq2SeqLM:
    tokenizer: Any = None
    kind = Seq2SeqLM if model.config.is_encoder_decoder else CausalLM
    chosen = kind(tokenizer, model.config, 64, 64, all_logits=all_logits)
    chosen.__dict__["pad_id"] = 0
    return chosen


def loss_and_gradients(model: Any, rows: list[TokenizedRow], *, all_logits: bool) -> tuple[float, list[torch.Tensor]]:
    chosen = family(model, all_logits=all_logits)
    model.zero_grad()
    loss = chosen.cross_entropy(model, chosen.collate(rows))
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_same(model: Any, rows: list[TokenizedRow]) -> None:
    model.double()
    expected, gradients = loss_and_gradients(model, rows, all_logits=True)
    actual, selected = loss_and_gradients(model, rows, all_logits=False)
    assert actual == pytest.approx(expected, rel=1e-9)
    for one, other in zip(gradients, selected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


ROWS = [row(5, 2), row(2, 6), row(9, 1)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", GENERATORS)
def test_loss_and_gradients_are_those_of_all_positions(architecture: str, method: str) -> None:
    component: Any = load_registry().find("method", method).component.model_validate(METHODS[method])
    if component.incompatible_with(run_spec(architecture)):
        return
    assert_same(apply_method(component, architecture), ROWS)


def test_output_layers_that_get_the_task_of_each_row_get_all_positions() -> None:
    component: Any = (
        load_registry().find("method", "poly").component.model_validate({"r": 4, "target_modules": ["lm_head"]})
    )
    model = apply_method(component, "llama").eval()  # its routing is sampled in training
    assert find_output_layer(model) is None
    assert_same(model, ROWS)


WRAPPED = {
    "target_modules": {"r": 4, "target_modules": ["q_proj", "lm_head"]},
    "modules_to_save": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("options", WRAPPED)
def test_wrapped_output_layers_keep_their_wrapper(options: str) -> None:
    component: Any = load_registry().find("method", "lora").component.model_validate(WRAPPED[options])
    model = apply_method(component, "llama")
    layer = find_output_layer(model)
    assert layer is not None
    assert any("lora" in name or "modules_to_save" in name for name, _ in layer.named_parameters())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1
    assert_same(model, ROWS)


@pytest.fixture(scope="module", params=["llama", "t5"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(request.param).eval().double()


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9)), min_size=1, max_size=5))
def test_any_lengths_give_the_same_loss(model: Any, lengths: list[tuple[int, int]]) -> None:
    assert_same(model, [row(*each) for each in lengths])


def test_padding_and_splitting_a_batch_change_neither_targets_nor_likelihoods(model: Any) -> None:
    chosen = family(model, all_logits=False)
    batch = chosen.collate(ROWS)
    lengths = max_lengths([batch])
    further = chosen.pad_to(batch, {key: length + 5 for key, length in lengths.items()})
    assert further[TARGET_POSITIONS].shape == (1, 9)
    expected, numbers = family(model, all_logits=True).target_loglikelihoods(model, batch)
    for parts in ([batch], [further], [*split_batch(further, 2)]):
        assert sum(part[TARGET_POSITIONS].shape[1] for part in parts) == 9
        sums, counts = zip(*(chosen.target_loglikelihoods(model, part) for part in parts), strict=True)
        torch.testing.assert_close(torch.cat(sums), expected)
        assert torch.cat(counts).tolist() == numbers.tolist() == [2, 6, 1]


def test_only_the_logits_of_targets_are_computed_and_counted(model: Any) -> None:
    counts = {}
    for all_logits in (True, False):
        chosen = family(model, all_logits=all_logits)
        batch = chosen.collate([row(30, 2), row(30, 5), row(30, 3)])
        counts[all_logits] = MacCounter(model, chosen.cross_entropy).count(batch)
    hidden, vocabulary = model.config.hidden_size, model.config.vocab_size
    positions = batch["labels"].numel() - 10
    assert counts[True].forward_macs - counts[False].forward_macs == positions * hidden * vocabulary
    assert counts[True].backward_macs - counts[False].backward_macs == 2 * positions * hidden * vocabulary


class Mixing(nn.Module):
    """An output layer whose positions depend on each other."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(hidden + hidden.mean(1, keepdim=True))
        return logits


def test_an_unknown_output_layer_gets_all_positions() -> None:
    model = tiny_model("llama").eval()
    model.lm_head = Mixing(model.lm_head)
    assert find_output_layer(model) is None
    assert_same(model, ROWS)
    with select_positions(
        model, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long), (1, 4)
    ) as selection:
        model(input_ids=torch.tensor([[3, 4, 5, 6]]))
    assert selection.applied == 0


def test_a_layer_that_is_used_twice_gets_all_positions() -> None:
    model = tiny_model("llama").eval()
    layer = model.lm_head

    def use_layer(module: nn.Module, inputs: Any) -> None:
        layer(torch.zeros(3, 16, model.config.hidden_size))

    model.register_forward_pre_hook(use_layer)
    chosen = family(model, all_logits=False)
    batch = chosen.collate(ROWS)
    plain = family(model, all_logits=True)
    assert chosen.cross_entropy(model, batch).item() == pytest.approx(plain.cross_entropy(model, batch).item())
