from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftkit import Method
from peftkit.errors import RunError
from peftkit.macs import mac_counter as mac_counter
from peftkit.macs.flop_counter import OpCounter
from peftkit.macs.interpolated_counts import StepMacs
from peftkit.macs.length_polynomial import LengthPolynomial
from peftkit.macs.mac_counter import MacCounter
from peftkit.macs.shadow_models import shadow_models
from peftkit.methods.full import Full
from peftkit.methods.lora import Lora
from peftkit.testing import apply_method, batch, tiny_model
from peftkit.testing.method_checks import check_mac_counts
from peftkit.testing.tiny_models import FAMILIES
from peftkit.train.optimizer import make_optimizer
from tests.tiny_runs import Make

ROWS, WIDTH, DEEP, LAYERS = 4, 32, 64, 2


def model_loss(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    loss: Tensor = model(**rows).loss
    return loss


def sizes(architecture: str) -> Any:
    return tiny_model(architecture).config


def test_full_fine_tuning_of_a_decoder_matches_the_formula() -> None:
    config, length = sizes("llama"), batch("llama")["input_ids"].shape[1]
    heads, kept = config.num_attention_heads, config.num_key_value_heads
    projections = WIDTH * WIDTH * 2 + WIDTH * WIDTH * kept // heads * 2
    block = length * (projections + 3 * WIDTH * config.intermediate_size) + 2 * length * length * WIDTH
    # transformers computes rotary angles as a matrix product of frequencies and positions.
    rotary = length * config.head_dim // 2
    forward = ROWS * (LAYERS * block + length * WIDTH * config.vocab_size) + ROWS * rotary
    count = MacCounter(apply_method(Full(), "llama"), model_loss).count(batch("llama"))
    assert count.forward_macs == pytest.approx(forward, rel=1e-3)
    assert count.backward_macs == pytest.approx(2 * forward, rel=1e-3)


@pytest.mark.parametrize("architecture", [name for family in FAMILIES.values() for name in family])
def test_every_architecture_is_counted_with_its_default_attention(architecture: str, tmp_path: Path) -> None:
    check_mac_counts(Full(), architecture, tmp_path)


def test_full_fine_tuning_of_an_encoder_decoder_matches_the_formula() -> None:
    config, rows = sizes("t5"), batch("t5")
    source, target = rows["input_ids"].shape[1], rows["labels"].shape[1]
    inner = config.num_heads * config.d_kv

    def attention(queries: int, keys: int) -> int:
        return 2 * queries * WIDTH * inner + 2 * keys * WIDTH * inner + 2 * queries * keys * inner

    feed = 2 * WIDTH * config.d_ff
    encoder = config.num_layers * (attention(source, source) + source * feed)
    decoder = config.num_decoder_layers * (attention(target, target) + attention(target, source) + target * feed)
    forward = ROWS * (encoder + decoder + target * WIDTH * config.vocab_size)
    count = MacCounter(apply_method(Full(), "t5"), model_loss).count(rows)
    assert count[:2] == (forward, 2 * forward)


def test_full_fine_tuning_of_an_encoder_matches_the_formula() -> None:
    config, length = sizes("bert"), batch("bert")["input_ids"].shape[1]
    block = length * (4 * WIDTH * WIDTH + 2 * WIDTH * config.intermediate_size) + 2 * length * length * WIDTH
    forward = ROWS * (LAYERS * block + WIDTH * WIDTH + WIDTH * config.num_labels)
    count = MacCounter(apply_method(Full(), "bert"), model_loss).count(batch("bert"))
    assert count[:2] == (forward, 2 * forward)


def test_weight_gradients_of_frozen_parameters_are_not_counted() -> None:
    lora, full = (MacCounter(apply_method(m, "t5"), model_loss).count(batch("t5")) for m in (Lora(), Full()))
    assert full.forward_macs < lora.forward_macs < 1.2 * full.forward_macs
    assert lora.backward_macs < 0.75 * full.backward_macs


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
def test_gradient_checkpointing_counts_the_recomputed_forward_pass(architecture: str) -> None:
    kept = MacCounter(apply_method(Full(), architecture), model_loss).count(batch(architecture))
    model = apply_method(Full(), architecture)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    recomputed = MacCounter(model.eval(), model_loss).count(batch(architecture))
    assert recomputed.forward_macs == kept.forward_macs
    assert (
        kept.backward_macs + 0.4 * kept.forward_macs
        < recomputed.backward_macs
        <= kept.backward_macs + kept.forward_macs
    )


def test_counting_has_no_side_effects_and_counts_a_shape_once() -> None:
    model = apply_method(Full(), "t5")
    for counter in (
        MacCounter(model, model_loss),
        without_shadows(MacCounter(model, model_loss)),
    ):
        before, state = {n: p.clone() for n, p in model.named_parameters()}, torch.get_rng_state()
        implementation = model.config._attn_implementation
        first, seconds = counter.count(batch("t5")), counter.seconds
        assert counter.count(batch("t5")) is first
        assert counter.seconds == seconds > 0
        assert torch.equal(torch.get_rng_state(), state)
        assert all(p.grad is None and p.equal(before[n]) for n, p in model.named_parameters())
        assert model.config._attn_implementation == implementation


def without_shadows(counter: MacCounter) -> MacCounter:
    counter._shadow = None
    return counter


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_counts_do_not_depend_on_the_attention_or_on_weights(architecture: str, attention: str) -> None:
    expected = MacCounter(apply_method(Full(), architecture), model_loss).count(batch(architecture))[:2]
    try:
        model = apply_method(Full(), architecture, attn_implementation=attention)
    except ValueError:  # transformers 4's T5 has one only
        assert (architecture, attention) == ("t5", "sdpa")
        return
    assert MacCounter(model, model_loss).count(batch(architecture))[:2] == expected
    assert without_shadows(MacCounter(model, model_loss)).count(batch(architecture))[:2] == expected


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
@pytest.mark.parametrize("method", [Full(), Lora()])
def test_cached_output_shapes_do_not_change_counts(
    method: Method, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = apply_method(method, architecture)
    anew = []
    for _ in range(2):
        monkeypatch.setattr("peftkit.macs.flop_counter.OUTPUT_SHAPES", {})
        anew.append(MacCounter(model, model_loss).count(batch(architecture)))
    known = MacCounter(model, model_loss).count(batch(architecture))
    assert anew[0] == anew[1] == known
    assert without_shadows(MacCounter(model, model_loss)).count(batch(architecture))[:2] == known[:2]


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
def test_a_later_sharded_model_is_counted_on_fake_tensors(architecture: str) -> None:
    model = apply_method(Lora(), architecture)
    counter = MacCounter(model, model_loss, has_all_weights=False)
    expected = counter.count(batch(architecture))
    fake = MacCounter(model, model_loss, has_all_weights=False)
    for parameter in model.parameters():
        parameter.data = torch.empty(0)
    fake._shadow = next(fake._shadows)  # as if counting on meta had failed
    assert fake.count(batch(architecture))[:2] == expected[:2]
    assert fake._shadow is not None


def test_trainable_parameters_may_change_during_training() -> None:
    counter = MacCounter(model := apply_method(Full(), "t5"), model_loss)
    whole = counter.count(batch("t5"))
    for key, parameter in model.named_parameters():
        parameter.requires_grad = "decoder" in key
    frozen = counter.count(batch("t5"))
    assert frozen.forward_macs == whole.forward_macs
    assert frozen == MacCounter(model, model_loss).count(batch("t5"))
    assert frozen.backward_macs < 0.9 * whole.backward_macs
    model.requires_grad_(True)
    assert counter.count(batch("t5")) is whole


def test_counting_that_needs_weights_of_a_sharded_model_is_an_error() -> None:
    counter = without_shadows(MacCounter(apply_method(Full(), "t5"), model_loss, has_all_weights=False))
    with pytest.raises(RunError, match="can only be counted with the model's weights"):
        counter.count(batch("t5"))


def resized(rows: dict[str, Tensor], source: int, target: int) -> dict[str, Tensor]:
    """Resize a batch to these lengths."""
    size = {
        key: target if "decoder_input_ids" in rows and key in ("labels", "decoder_input_ids") else source
        for key in rows
    }
    return {k: torch.ones(len(v), size[k], dtype=v.dtype) if v.ndim == 2 else v for k, v in rows.items()}


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
@pytest.mark.parametrize("method", [Full(), Lora()])
def test_interpolated_counts_equal_real_ones(architecture: str, method: Method) -> None:
    counter, rng = MacCounter(apply_method(method, architecture), model_loss), random.Random(3)
    shapes = [(8 * rng.randint(1, 7), 8 * rng.randint(1, 7)) for _ in range(30)]
    rows = [resized(batch(architecture), *shape) for shape in shapes]
    counts = [counter.count(each) for each in rows]
    [family] = counter._families.values()
    assert family.interpolated
    assert family.lengths.regular
    counted = MacCounter(apply_method(method, architecture), model_loss)
    for each, count in zip(rows, counts, strict=True):
        counted._families.clear()  # so that nothing is interpolated
        assert count == counted.count(each)


def test_counts_of_other_numbers_of_rows_are_interpolated_too() -> None:
    counter, rng = MacCounter(apply_method(Lora(), "llama"), model_loss), random.Random(3)
    counted = MacCounter(apply_method(Lora(), "llama"), model_loss)
    for _ in range(40):
        number, length = rng.randint(1, 4), 8 * rng.randint(1, 5)
        rows = resized({k: v[:number] if v.ndim else v for k, v in batch("llama").items()}, length, length)
        counted._families.clear()  # so that nothing is interpolated
        assert counter.count(rows) == counted.count(rows)
    [family] = counter._families.values()
    assert len({entry.batch["input_ids"].shape[0] for entry in family.interpolated.values()}) > 1


class Uneven(nn.Module):
    """A model whose number of matrix products is any function of the length."""

    def __init__(self, products: Callable[[int], int]) -> None:
        super().__init__()
        self.weight, self.products = nn.Parameter(torch.ones(4, 4)), products

    def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
        hidden = input_ids.to(self.weight.dtype)[..., None].expand(*input_ids.shape, 4)
        for _ in range(self.products(input_ids.shape[1])):
            hidden = hidden @ self.weight
        return SimpleNamespace(loss=hidden.sum())


@pytest.mark.parametrize(
    "products",
    [lambda length: 1 + (length > 100), lambda length: -(-length // 64), lambda length: 1 + length % 16 // 8],
)
def test_wrong_interpolations_are_corrected(products: Callable[[int], int]) -> None:
    counter, rng, total, expected = (
        MacCounter(Uneven(products), model_loss),
        random.Random(2),
        StepMacs(0, 0, 0),
        StepMacs(0, 0, 0),
    )
    lengths = [104, 88, 96, 96, *(8 * rng.randint(1, 30) for _ in range(200))]
    for length in lengths:
        rows = {"input_ids": torch.ones(2, length, dtype=torch.long), "labels": torch.zeros(2)}
        total = total.plus(counter.count(rows))
        expected = expected.plus(MacCounter(Uneven(products), model_loss).count(rows))
    [family] = counter._families.values()
    assert not family.lengths.regular
    assert not family.interpolated
    assert total == expected


def test_a_failed_verification_recounts_the_interpolated_shapes() -> None:
    def model() -> nn.Module:
        return Uneven(lambda length: 1 + (length > 200))

    def work(counter: MacCounter, length: int) -> StepMacs:
        return counter.count({"input_ids": torch.ones(2, length, dtype=torch.long), "labels": torch.zeros(2)})

    counter = MacCounter(model(), model_loss)
    for length in (8, 80, 40, 24, 64, 32, 48, 56, 32):
        work(counter, length)
    [family] = counter._families.values()
    uses = {entry.batch["input_ids"].shape[1]: entry.uses for entry in family.interpolated.values()}
    assert uses == {24: 1, 64: 1, 32: 2, 48: 1, 56: 1}
    assert all(value.is_meta for entry in family.interpolated.values() for value in entry.batch.values())
    for entry in family.interpolated.values():  # as if the interpolation had been wrong
        entry.macs = entry.macs.plus(StepMacs(7, 5, 3))
    assert work(counter, 208) == work(MacCounter(model(), model_loss), 208).plus(StepMacs(-6 * 7, -6 * 5, -6 * 3))
    assert work(counter, 32) == work(MacCounter(model(), model_loss), 32)


def test_macs_are_linear_in_rows() -> None:
    counter, rows = MacCounter(apply_method(Full(), "t5"), model_loss), batch("t5")
    whole, half = counter.count(rows), counter.count({key: value[:2] for key, value in rows.items()})
    assert whole[:2] == (2 * half.forward_macs, 2 * half.backward_macs)


@pytest.mark.parametrize(("name", "times"), [("SGD", 2), ("AdamW", 12), ("adafactor", 14)])
def test_an_optimizer_step_is_counted_per_trained_number(name: str, times: int, make: Make) -> None:
    options = ["train.weight_decay=0"] if name != "AdamW" else []
    recipe = make("decoder", f'train.optimizer="{name}"', *options)
    model = apply_method(Full(), "llama")
    moved = sum(p.numel() for p in model.parameters() if p.requires_grad)
    elementwise = MacCounter(model, model_loss, partial(make_optimizer, recipe)).optimizer_elementwise
    assert moved <= elementwise <= times * moved


@pytest.mark.parametrize("name", ["SGD", "AdamW", "adafactor", "RMSprop"])
def test_an_optimizer_step_covers_all_its_tensors(name: str, make: Make) -> None:
    model = apply_method(Lora(), "llama")
    recipe = make("decoder", f'train.optimizer="{name}"', "train.weight_decay=0.1")
    optimizer = make_optimizer(recipe, model)
    for group in optimizer.param_groups:
        group |= {key: False for key in ("fused", "foreach") if key in group}
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with OpCounter() as op_counter:
        optimizer.step()
    kept = [value for tensors in optimizer.state.values() for value in tensors.values() if isinstance(value, Tensor)]
    mac_counter = MacCounter(model, model_loss, partial(make_optimizer, recipe))
    assert mac_counter.optimizer_elementwise == op_counter.elementwise > 0
    assert mac_counter.optimizer.state_bytes == sum(value.numel() * value.element_size() for value in kept)


class Layer(nn.Module):
    """Two linear layers without biases, whose loss is a sum of squares."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(8, 8, bias=False) for _ in range(2))

    def forward(self, inputs: Tensor) -> Any:
        return SimpleNamespace(loss=self.second(self.first(inputs)).pow(2).sum())


@pytest.mark.parametrize("copies", [0, 1, 2])
def test_the_memory_of_a_step_is_counted(copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts on the model, on its copy on ``meta``, and on fake tensors."""
    monkeypatch.setattr(mac_counter, "shadow_models", lambda model, make=shadow_models: islice(make(model), copies))
    model, size = Layer(), 4 * 8 * 4
    rows = {"inputs": torch.ones(4, 8)}
    whole = MacCounter(model, model_loss).step_bytes([rows])
    # Two outputs, the square's and the loss's gradient, and the gradients of weights: not the weights.
    assert 4 * size < whole < 8 * size + 2 * 8 * 8 * 4
    assert whole < MacCounter(model, model_loss).step_bytes([rows, rows])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_step_that_cannot_be_counted_is_an_error() -> None:
    def failing(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
        raise RuntimeError("it fails")

    counter = MacCounter(Layer(), failing)
    with pytest.raises(RunError, match="cannot be estimated without"):
        counter.step_bytes([{"inputs": torch.ones(4, 8)}])


@pytest.mark.parametrize(
    ("traced", "expected"),
    [
        # Three determine the polynomial, two verify it; then up to four are interpolated, then eight, and so on.
        (False, [0, 1, 2, 3, 4, 9, 14, 23, 40]),
        # Two determine the operations, one verifies them; then up to 16 are interpolated, then 64.
        (True, [0, 1, 2, 19]),
    ],
)
def test_verification_counts_follow_each_growth_of_interpolated_shapes(traced: bool, expected: list[int]) -> None:
    counter = MacCounter(Uneven(lambda length: 1), model_loss)
    if not traced:  # as if the operations were not predictable
        counter.count({"input_ids": torch.ones(2, 8, dtype=torch.long), "labels": torch.zeros(2)})
        [family] = counter._families.values()
        family.traces.regular = False
        counter._counted.clear()
        family.lengths = LengthPolynomial()
    counted = []
    lengths = [8, 800, 400, 240, 640, *(range(16, 240, 8)), *(range(248, 400, 8))]
    for number, length in enumerate(lengths):
        before = len(counter._counted)
        counter.count({"input_ids": torch.ones(2, length, dtype=torch.long), "labels": torch.zeros(2)})
        if len(counter._counted) > before:
            counted.append(number)
    assert counted == expected


class ByValue(torch.optim.SGD):
    """An optimizer that needs values."""

    def step(self, closure: Any = None) -> Any:
        assert self.param_groups[0]["params"][0].grad.sum().item() == 0
        return super().step(closure)


def test_an_optimizer_that_needs_values_is_counted_on_zeros() -> None:
    model = Layer()

    def make(kind: type[torch.optim.SGD]) -> Callable[[nn.Module], torch.optim.Optimizer]:
        return lambda copy: kind(copy.parameters(), lr=0.1, momentum=0.9)

    counters = [MacCounter(model, model_loss, make(kind)) for kind in (ByValue, torch.optim.SGD)]
    assert counters[0].optimizer.state_bytes == counters[1].optimizer.state_bytes == 2 * 8 * 8 * 4
    assert counters[0].optimizer_elementwise >= counters[1].optimizer_elementwise > 0


def test_gradient_hooks_are_copied() -> None:
    model, called = Layer(), []
    model.first.weight.register_hook(lambda gradient: called.append(gradient.is_meta))
    assert MacCounter(model, model_loss).count({"inputs": torch.ones(4, 8)}).backward_macs == 3 * 4 * 8 * 8
    assert called == [True]
