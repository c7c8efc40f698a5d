from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from peftkit import Meter, Method, StepRecord
from peftkit.errors import InputError, RunError
from peftkit.methods.full import Full
from peftkit.methods.lora import Lora
from peftkit.plugins import Entry, Registry
from peftkit.runner import ledger as ledger_module
from peftkit.runner import models, run
from peftkit.runner.counter import Counter
from peftkit.runner.ledger import Ledger, Work, _copies
from peftkit.runner.optimizers import make_optimizer
from peftkit.runs import RunDirectory
from peftkit.testing import applied, batch, tiny
from peftkit.testing.checks import counts
from peftkit.testing.children import together
from peftkit.testing.tiny import FAMILIES
from tests.runner.conftest import Make

ROWS, WIDTH, DEEP, LAYERS = 4, 32, 64, 2


def own_loss(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    loss: Tensor = model(**rows).loss
    return loss


def sizes(architecture: str) -> Any:
    return tiny(architecture).config


def test_a_decoders_full_fine_tuning_is_what_its_matrices_say() -> None:
    config, length = sizes("llama"), batch("llama")["input_ids"].shape[1]
    heads, kept = config.num_attention_heads, config.num_key_value_heads
    projections = WIDTH * WIDTH * 2 + WIDTH * WIDTH * kept // heads * 2
    block = length * (projections + 3 * WIDTH * config.intermediate_size) + 2 * length * length * WIDTH
    # The turning of positions is a product of each frequency with each position, by transformers a matrix product.
    turning = length * config.head_dim // 2
    forward = ROWS * (LAYERS * block + length * WIDTH * config.vocab_size) + ROWS * turning
    found = Ledger(applied(Full(), "llama"), own_loss).work(batch("llama"))
    assert found.forward_macs == pytest.approx(forward, rel=1e-3)
    assert found.backward_macs == pytest.approx(2 * forward, rel=1e-3)


@pytest.mark.parametrize("architecture", [name for family in FAMILIES.values() for name in family])
def test_every_architecture_is_counted_with_the_attention_that_transformers_chooses(
    architecture: str, tmp_path: Path
) -> None:
    counts(Full(), architecture, tmp_path)


def test_an_encoder_decoders_full_fine_tuning_is_what_its_matrices_say() -> None:
    config, rows = sizes("t5"), batch("t5")
    source, target = rows["input_ids"].shape[1], rows["labels"].shape[1]
    inner = config.num_heads * config.d_kv

    def attention(queries: int, keys: int) -> int:
        return 2 * queries * WIDTH * inner + 2 * keys * WIDTH * inner + 2 * queries * keys * inner

    feed = 2 * WIDTH * config.d_ff
    encoder = config.num_layers * (attention(source, source) + source * feed)
    decoder = config.num_decoder_layers * (attention(target, target) + attention(target, source) + target * feed)
    forward = ROWS * (encoder + decoder + target * WIDTH * config.vocab_size)
    found = Ledger(applied(Full(), "t5"), own_loss).work(rows)
    assert found[:2] == (forward, 2 * forward)


def test_an_encoders_full_fine_tuning_is_what_its_matrices_say() -> None:
    config, length = sizes("bert"), batch("bert")["input_ids"].shape[1]
    block = length * (4 * WIDTH * WIDTH + 2 * WIDTH * config.intermediate_size) + 2 * length * length * WIDTH
    forward = ROWS * (LAYERS * block + WIDTH * WIDTH + WIDTH * config.num_labels)
    found = Ledger(applied(Full(), "bert"), own_loss).work(batch("bert"))
    assert found[:2] == (forward, 2 * forward)


def test_frozen_weights_have_no_gradients_to_be_computed() -> None:
    lora, full = (Ledger(applied(m, "t5"), own_loss).work(batch("t5")) for m in (Lora(), Full()))
    assert full.forward_macs < lora.forward_macs < 1.2 * full.forward_macs
    assert lora.backward_macs < 0.75 * full.backward_macs


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
def test_what_is_computed_once_more_is_counted_once_more(architecture: str) -> None:
    kept = Ledger(applied(Full(), architecture), own_loss).work(batch(architecture))
    model = applied(Full(), architecture)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    recomputed = Ledger(model.eval(), own_loss).work(batch(architecture))
    assert recomputed.forward_macs == kept.forward_macs
    assert (
        kept.backward_macs + 0.4 * kept.forward_macs
        < recomputed.backward_macs
        <= kept.backward_macs + kept.forward_macs
    )


def test_counting_leaves_no_trace_and_counts_a_shape_once() -> None:
    for ledger in (Ledger(model := applied(Full(), "t5"), own_loss), _real(Ledger(model, own_loss))):
        before, state = {n: p.clone() for n, p in model.named_parameters()}, torch.get_rng_state()
        implementation = model.config._attn_implementation
        first, seconds = ledger.work(batch("t5")), ledger.seconds
        assert ledger.work(batch("t5")) is first
        assert ledger.seconds == seconds > 0
        assert torch.equal(torch.get_rng_state(), state)
        assert all(p.grad is None and p.equal(before[n]) for n, p in model.named_parameters())
        assert model.config._attn_implementation == implementation


def _real(ledger: Ledger) -> Ledger:
    ledger._copy = None
    return ledger


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_count_is_the_same_for_every_attention_and_with_weights(architecture: str, attention: str) -> None:
    expected = Ledger(applied(Full(), architecture), own_loss).work(batch(architecture))[:2]
    try:
        model = applied(Full(), architecture, attn_implementation=attention)
    except ValueError:  # transformers 4's T5 has one only
        assert (architecture, attention) == ("t5", "sdpa")
        return
    assert Ledger(model, own_loss).work(batch(architecture))[:2] == expected
    assert _real(Ledger(model, own_loss)).work(batch(architecture))[:2] == expected


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
@pytest.mark.parametrize("method", [Full(), Lora()])
def test_forms_that_are_known_change_no_count(
    method: Method, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = applied(method, architecture)
    anew = []
    for _ in range(2):
        monkeypatch.setattr("peftkit.runner.counter.FORMS", {})
        anew.append(Ledger(model, own_loss).work(batch(architecture)))
    known = Ledger(model, own_loss).work(batch(architecture))
    assert anew[0] == anew[1] == known
    assert _real(Ledger(model, own_loss)).work(batch(architecture))[:2] == known[:2]


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
def test_what_goes_by_values_is_counted_on_fake_tensors_though_the_model_is_sharded_by_then(architecture: str) -> None:
    model = applied(Lora(), architecture)
    ledger = Ledger(model, own_loss, whole=False)
    expected = ledger.work(batch(architecture))
    fake = Ledger(model, own_loss, whole=False)
    for parameter in model.parameters():
        parameter.data = torch.empty(0)
    fake._copy = next(fake._copies)  # as if nothing could be counted on meta
    assert fake.work(batch(architecture))[:2] == expected[:2]
    assert fake._copy is not None


def test_what_learns_may_change_while_it_does() -> None:
    ledger = Ledger(model := applied(Full(), "t5"), own_loss)
    whole = ledger.work(batch("t5"))
    for key, parameter in model.named_parameters():
        parameter.requires_grad = "decoder" in key
    frozen = ledger.work(batch("t5"))
    assert frozen.forward_macs == whole.forward_macs
    assert frozen == Ledger(model, own_loss).work(batch("t5"))
    assert frozen.backward_macs < 0.9 * whole.backward_macs
    model.requires_grad_(True)
    assert ledger.work(batch("t5")) is whole


def test_what_needs_weights_to_be_counted_is_not_where_they_are_sharded() -> None:
    ledger = _real(Ledger(applied(Full(), "t5"), own_loss, whole=False))
    with pytest.raises(RunError, match="can only be counted with its weights"):
        ledger.work(batch("t5"))


def test_a_methods_own_loss_is_of_the_pass_before_it(make: Make, registry: Registry) -> None:
    options = ("method.name=lora", "method.monteclora_config={}", "train.batch_size=2")
    found = costs(run(make("encoder-decoder", *options, "evaluate.every=1 steps"), registry))
    plain = costs(run(make("encoder-decoder", *options[::2], "evaluate.every=1 steps"), registry))
    assert all(drawn["gmacs"] > without["gmacs"] for drawn, without in zip(found[1:], plain[1:], strict=True))


def test_a_quantised_model_is_counted_on_one_that_is_not(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make("decoder", "method.name=lora")
    expected = costs(run(recipe, registry))[-1]["gmacs"]
    quantised = recipe.model_copy(update={"model": recipe.model.model_copy(update={"quantization": "4bit"})})
    loaded = models.load_base(recipe)
    monkeypatch.setattr("peftkit.runner.load_base", lambda _: loaded)  # bitsandbytes needs a GPU
    made, devices = Ledger.__init__, []

    def noted(self: Ledger, model: nn.Module, *rest: Any, **options: Any) -> None:
        devices.append({parameter.device.type for parameter in model.parameters()})
        made(self, model, *rest, **options)

    monkeypatch.setattr(Ledger, "__init__", noted)
    assert costs(run(quantised, registry))[-1]["gmacs"] == expected
    assert devices == [{"meta"}]


class Kept(Meter):
    """Keeps every record, for all runs of a test."""

    name: Literal["kept"] = "kept"

    records: ClassVar[list[StepRecord]] = []

    def step(self, record: StepRecord) -> None:
        type(self).records.append(record)

    def read(self) -> dict[str, float]:
        return {"kept": float(len(type(self).records))}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(24, 40),
    size=st.integers(1, 4),
    passes=st.integers(1, 3),
    steps=st.integers(1, 9),
    streaming=st.booleans(),
    kind=st.sampled_from(["encoder-decoder", "decoder", "encoder"]),
)
def test_the_ledger_is_the_sum_of_its_steps(
    make: Make, registry: Registry, rows: int, size: int, passes: int, steps: int, streaming: bool, kind: str
) -> None:
    Kept.records.clear()
    batch = size * passes
    recipe = make(
        kind,
        f"task.rows={rows}",
        f"task.streaming={str(streaming).lower()}",
        f"train.batch_size={size}",
        f"train.gradient_accumulation_steps={passes}",
        f"train.budget.samples={(steps - 1) * batch + 1}",
        "train.budget.steps=1000",
        "evaluate.every=2 steps",
    )
    kept = Entry("meter", "kept", Kept, "tests", "0")
    watched = Registry((*registry.entries, kept), registry.failures, registry.distributions)
    path = run(recipe, watched)
    assert path is not None
    found, records = RunDirectory(path).summary(), Kept.records
    # Rows that fill no batch are left out of an epoch, and a step that was begun within the budget is counted whole.
    assert found["steps"] == len(records) == steps
    assert found["samples"] == found["cost"]["samples"] == sum(r.samples for r in records) == steps * batch
    assert found["tokens"] == {
        "input": sum(r.input_tokens for r in records),
        "target": sum(r.target_tokens for r in records),
    }
    assert found["cost"]["padding_tokens"] == sum(r.padding_tokens for r in records)
    macs = [(r.forward_macs, r.backward_macs) for r in records]
    assert found["cost"]["forward_gmacs"] == pytest.approx(sum(f for f, _ in macs) / 1e9, rel=1e-12)
    assert found["cost"]["backward_gmacs"] == pytest.approx(sum(b for _, b in macs) / 1e9, rel=1e-12)
    assert all(forward > 0 and backward > 0 for forward, backward in macs)
    assert found["cost"]["train_seconds"] == pytest.approx(sum(r.seconds for r in records))


def test_what_meters_measure_ends_before_the_step_is_counted(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Watching(Meter):
        name: Literal["watching"] = "watching"

        def begin(self) -> None:
            seen.append("begin")

        def end(self) -> None:
            seen.append("end")

        def step(self, record: StepRecord) -> None:
            seen.append("step")

        def read(self) -> dict[str, float]:
            return {}

    counted = Ledger.work
    monkeypatch.setattr(Ledger, "work", lambda self, batch: (seen.append("count"), counted(self, batch))[1])
    own = Entry("meter", "watching", Watching, "tests", "0")
    run(make("encoder"), Registry((*registry.entries, own), registry.failures, registry.distributions))
    assert seen[:2] == ["count", "count"]  # the shortest and the longest batch, before all
    steps = len(seen) // 4
    assert seen[2:] == ["begin", "end", "count", "step"] * steps
    assert steps > 1


def widths(rows: dict[str, Tensor], source: int, target: int) -> dict[str, Tensor]:
    """Rows of other lengths."""
    size = {
        key: target if "decoder_input_ids" in rows and key in ("labels", "decoder_input_ids") else source
        for key in rows
    }
    return {k: torch.ones(len(v), size[k], dtype=v.dtype) if v.ndim == 2 else v for k, v in rows.items()}


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
@pytest.mark.parametrize("method", [Full(), Lora()])
def test_what_is_told_of_other_lengths_is_what_is_counted(architecture: str, method: Method) -> None:
    ledger, rng = Ledger(applied(method, architecture), own_loss), random.Random(3)
    shapes = [(8 * rng.randint(1, 7), 8 * rng.randint(1, 7)) for _ in range(60)]
    rows = [widths(batch(architecture), *shape) for shape in shapes]
    found = [ledger.work(each) for each in rows]
    [pattern] = ledger._patterns.values()
    assert pattern.told
    assert pattern.lengths.regular
    counted = Ledger(applied(method, architecture), own_loss)
    for each, work in zip(rows, found, strict=True):
        counted._patterns.clear()  # nothing is told of what it has not seen
        assert work == counted.work(each)


class Uneven(nn.Module):
    """Makes so many products of a text, by its length."""

    def __init__(self, products: Callable[[int], int]) -> None:
        super().__init__()
        self.weight, self.products = nn.Parameter(torch.ones(4, 4)), products

    def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
        found = input_ids.to(self.weight.dtype)[..., None].expand(*input_ids.shape, 4)
        for _ in range(self.products(input_ids.shape[1])):
            found = found @ self.weight
        return SimpleNamespace(loss=found.sum())


@pytest.mark.parametrize(
    "products",
    [lambda length: 1 + (length > 100), lambda length: -(-length // 64), lambda length: 1 + length % 16 // 8],
)
def test_what_was_told_wrongly_is_made_up_for(products: Callable[[int], int]) -> None:
    ledger, rng, total, right = Ledger(Uneven(products), own_loss), random.Random(2), Work(0, 0, 0), Work(0, 0, 0)
    lengths = [104, 88, 96, 96, *(8 * rng.randint(1, 30) for _ in range(200))]
    for length in lengths:
        rows = {"input_ids": torch.ones(2, length, dtype=torch.long), "labels": torch.zeros(2)}
        total = total.plus(ledger.work(rows))
        right = right.plus(Ledger(Uneven(products), own_loss).work(rows))
    [pattern] = ledger._patterns.values()
    assert not pattern.lengths.regular
    assert not pattern.told
    assert total == right


def test_what_was_told_before_a_longer_text_is_counted_after_it() -> None:
    def model() -> nn.Module:
        return Uneven(lambda length: 1 + (length > 200))

    def work(ledger: Ledger, length: int) -> Work:
        return ledger.work({"input_ids": torch.ones(2, length, dtype=torch.long), "labels": torch.zeros(2)})

    ledger = Ledger(model(), own_loss)
    for length in (8, 80, 40, 24, 64, 32, 48, 56, 32):
        work(ledger, length)
    [pattern] = ledger._patterns.values()
    assert {lengths: told.passes for lengths, told in pattern.told.items()} == {(32,): 2, (48,): 1, (56,): 1}
    assert all(value.is_meta for told in pattern.told.values() for value in told.batch.values())
    for told in pattern.told.values():  # as if it had been something else
        told.work = told.work.plus(Work(7, 5, 3))
    assert work(ledger, 208) == work(Ledger(model(), own_loss), 208).plus(Work(-4 * 7, -4 * 5, -4 * 3))
    assert work(ledger, 32) == work(Ledger(model(), own_loss), 32)


def test_work_is_linear_in_rows() -> None:
    ledger, rows = Ledger(applied(Full(), "t5"), own_loss), batch("t5")
    whole, half = ledger.work(rows), ledger.work({key: value[:2] for key, value in rows.items()})
    assert whole[:2] == (2 * half.forward_macs, 2 * half.backward_macs)


def costs(path: Path | None) -> list[dict[str, float]]:
    assert path is not None
    return [row["cost"] for row in RunDirectory(path).evaluations()]


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder", "encoder"])
def test_a_run_records_its_work(kind: str, make: Make, registry: Registry) -> None:
    path = run(make(kind, "evaluate.every=1 steps"), registry)
    found = costs(path)
    assert found[0]["gmacs"] == 0
    assert all(later["gmacs"] > before["gmacs"] for before, later in pairwise(found))
    last = found[-1]
    assert last["elementwise_gops"] > 0
    assert last["optimizer_gops"] > 0
    assert last["gmacs"] == pytest.approx(last["forward_gmacs"] + last["backward_gmacs"])
    assert last["gflops"] == pytest.approx(2 * last["gmacs"])
    assert last["backward_gmacs"] > last["forward_gmacs"]
    assert path is not None
    assert RunDirectory(path).summary()["counting_seconds"] > 0


def test_a_run_counts_its_shortest_and_its_longest_batch_and_few_between(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    counted: list[int] = []
    work, count = Ledger.work, Ledger._counted

    def noted(self: Ledger, rows: dict[str, Tensor]) -> Work:
        asked.append(rows["input_ids"].shape[1])
        return work(self, rows)

    def noted_too(self: Ledger, learning: tuple[bool, ...], rows: dict[str, Tensor]) -> Work:
        counted.append(rows["input_ids"].shape[1])
        return count(self, learning, rows)

    monkeypatch.setattr(Ledger, "work", noted)
    monkeypatch.setattr(Ledger, "_counted", noted_too)
    sizes = [f"evaluate.{split}_examples=8" for split in ("train", "dev", "test")]
    options = ("task.name=wordnet_mcq", "train.batch_size=2", "train.budget.steps=300", *sizes)
    run(make("encoder-decoder", *options), registry)
    assert counted[:2] == asked[:2]
    assert counted[0] <= min(asked)
    assert counted[1] >= max(asked)
    assert len(counted) <= 7 < len({*asked})


def test_what_cannot_be_counted_before_training_for_want_of_memory_is_counted_in_it(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = costs(run(make("decoder", "run.name=one"), registry))
    counted, lengths = Ledger._counted, []

    def without_memory(self: Ledger, learning: tuple[bool, ...], rows: dict[str, Tensor]) -> Work:
        lengths.append(rows["input_ids"].shape[1])
        if len(lengths) <= 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return counted(self, learning, rows)

    monkeypatch.setattr(Ledger, "_counted", without_memory)
    found = costs(run(make("decoder", "run.name=two"), registry))
    assert len(lengths) > 2
    assert [row["gmacs"] for row in found] == [row["gmacs"] for row in expected]


def test_accumulation_does_the_work_of_its_passes(make: Make, registry: Registry) -> None:
    whole, parts = (
        costs(run(make("decoder", *options, f"run.name={name}"), registry))[-1]["gmacs"]
        for name, options in (
            ("whole", ("train.batch_size=8",)),
            ("parts", ("train.batch_size=4", "train.gradient_accumulation_steps=2")),
        )
    )
    assert parts == pytest.approx(whole, rel=1e-5)  # some models turn positions into angles once a pass


@pytest.mark.slow
def test_two_processes_do_the_work_of_one(make: Make, registry: Registry) -> None:
    one = make("decoder", "run.name=one", "train.batch_size=8")
    two = make("decoder", "run.name=two", "train.batch_size=4")
    together(one, registry)
    together(two, registry, 2)
    found = [
        costs(path)[-1]["gmacs"]
        for name in ("one", "two")
        for path in Path(one.run.output).iterdir()
        if path.name.startswith(name)
    ]
    assert len(found) == 2
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_budget_of_work_ends_within_a_step_of_it(make: Make, registry: Registry) -> None:
    step = costs(run(make("decoder", "train.budget.steps=4", "evaluate.every=1 steps", "run.name=try"), registry))
    budget = step[-1]["gmacs"] * 2.5
    largest = max(later["gmacs"] - before["gmacs"] for before, later in pairwise(step))
    for method in ("full", "lora"):
        recipe = make("decoder", f"method.name={method}", f"train.budget.gmacs={budget}", "train.budget.steps=1000")
        last = costs(run(recipe, registry))[-1]["gmacs"]
        assert budget <= last < budget + 1.3 * largest


def test_the_summary_says_it_as_the_rows_do(make: Make, registry: Registry) -> None:
    path = run(make("encoder"), registry)
    assert path is not None
    summary = json.loads((path / "summary.json").read_text())
    assert summary["cost"]["gmacs"] == costs(path)[-1]["gmacs"]


@pytest.mark.parametrize(("name", "times"), [("SGD", 2), ("AdamW", 12), ("adafactor", 14)])
def test_an_optimizers_step_is_counted_by_number_that_is_moved(name: str, times: int, make: Make) -> None:
    options = ["train.weight_decay=0"] if name != "AdamW" else []
    recipe = make("decoder", f'train.optimizer="{name}"', *options)
    model = applied(Full(), "llama")
    moved = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found = Ledger(model, own_loss, partial(make_optimizer, recipe)).optimizer
    assert moved <= found <= times * moved


@pytest.mark.parametrize("name", ["SGD", "AdamW", "adafactor", "RMSprop"])
def test_an_optimizers_step_is_that_of_all_its_tensors(name: str, make: Make) -> None:
    model = applied(Lora(), "llama")
    recipe = make("decoder", f'train.optimizer="{name}"', "train.weight_decay=0.1")
    optimizer = make_optimizer(recipe, model)
    for group in optimizer.param_groups:
        group |= {key: False for key in ("fused", "foreach") if key in group}
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with Counter() as counter:
        optimizer.step()
    kept = [value for own in optimizer.state.values() for value in own.values() if isinstance(value, Tensor)]
    found = Ledger(model, own_loss, partial(make_optimizer, recipe))
    assert found.optimizer == counter.rest > 0
    assert found.optimizer_bytes == sum(value.numel() * value.element_size() for value in kept)


class Broken(Full):
    """A method whose library does not know the model."""

    name: Literal["broken"] = "broken"  # type: ignore[assignment]

    def apply(self, model: Any, context: Any) -> Any:
        model.register_forward_pre_hook(lambda *_: [][0])
        return model


def test_a_method_that_fails_in_its_first_pass_is_refused_in_words(make: Make, registry: Registry) -> None:
    known = Registry((*registry.entries, Entry("method", "broken", Broken, "tests", "0")), registry.failures)
    recipe = make("decoder").model_copy(update={"method": Broken()})
    with pytest.raises(InputError, match=r"'broken' fails in its first pass .*IndexError: list index out of range"):
        run(recipe, known)


class Layer(nn.Module):
    """Two linear layers without biases, whose loss is a sum of squares."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(8, 8, bias=False) for _ in range(2))

    def forward(self, inputs: Tensor) -> Any:
        return SimpleNamespace(loss=self.second(self.first(inputs)).pow(2).sum())


@pytest.mark.parametrize("copies", [0, 1, 2])
def test_activations_are_counted_in_bytes(copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the model itself, on its copy on ``meta``, and on fake tensors."""
    monkeypatch.setattr(ledger_module, "_copies", lambda model, make=_copies: islice(make(model), copies))
    model, size = Layer(), 4 * 8 * 4
    rows = {"inputs": torch.ones(4, 8)}
    # The input of each layer, for its weight's gradient, and that of the square; weights are no activations.
    assert Ledger(model, own_loss).kept_bytes(rows) == 3 * size
    model.first.requires_grad_(False)
    assert Ledger(model, own_loss).kept_bytes(rows) == 2 * size
    assert all(parameter.grad is None for parameter in model.parameters())


def test_activations_that_cannot_be_counted_are_an_error() -> None:
    def failing(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
        raise RuntimeError("it fails")

    ledger = Ledger(Layer(), failing)
    with pytest.raises(RunError, match="cannot be told without weights"):
        ledger.kept_bytes({"inputs": torch.ones(4, 8)})


def test_each_time_that_twice_as_many_are_told_one_is_counted() -> None:
    ledger = Ledger(Uneven(lambda length: 1), own_loss)
    counted = []
    lengths = [8, 800, 400, 240, 640, *(range(16, 240, 8)), *(range(248, 400, 8))]
    for number, length in enumerate(lengths):
        before = len(ledger._known)
        ledger.work({"input_ids": torch.ones(2, length, dtype=torch.long), "labels": torch.zeros(2)})
        if len(ledger._known) > before:
            counted.append(number)
    # Three determine the polynomial and two prove it; then four are told, eight and sixteen in all, and so on.
    assert counted == [0, 1, 2, 3, 4, 9, 14, 23, 40]


class ByValue(torch.optim.SGD):
    """Cannot step on tensors without values."""

    def step(self, closure: Any = None) -> Any:
        assert self.param_groups[0]["params"][0].grad.sum().item() == 0
        return super().step(closure)


def test_an_optimizer_that_needs_values_is_counted_on_zeros() -> None:
    model = Layer()

    def make(kind: type[torch.optim.SGD]) -> Callable[[nn.Module], torch.optim.Optimizer]:
        return lambda like: kind(like.parameters(), lr=0.1, momentum=0.9)

    found = [Ledger(model, own_loss, make(kind)) for kind in (ByValue, torch.optim.SGD)]
    assert found[0].optimizer_bytes == found[1].optimizer_bytes == 2 * 8 * 8 * 4
    assert found[0].optimizer >= found[1].optimizer > 0


def test_hooks_of_gradients_are_in_the_copy_too() -> None:
    model, called = Layer(), []
    model.first.weight.register_hook(lambda gradient: called.append(gradient.is_meta))
    assert Ledger(model, own_loss).work({"inputs": torch.ones(4, 8)}).backward_macs == 3 * 4 * 8 * 8
    assert called == [True]
