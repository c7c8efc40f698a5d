"""Counts that are interpolated operation by operation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftkit.analysis.simulated_steps import prepare_training_rows
from peftkit.data.dataloader import shortest_and_longest_batch
from peftkit.errors import PeftkitError
from peftkit.macs.flop_counter import OpCounter, count_operation
from peftkit.macs.interpolated_counts import ShapeFamily, StepMacs
from peftkit.macs.mac_counter import MacCounter
from peftkit.macs.operation_traces import OperationTraces
from peftkit.models.load_base_model import apply_method, init_random_base
from peftkit.plugins import load_registry
from peftkit.testing import tiny_model
from peftkit.train.build_mac_counter import create_mac_counter
from tests.conftest import exhaustive_unless_quick
from tests.tiny_runs import Make

Pass = Callable[[int, int], Any]


def trace(run: Pass, source: int, target: int) -> Sequence[Any]:
    with OpCounter() as counter:
        run(source, target)
    return counter.operations


def learn(run: Pass, *points: tuple[int, int]) -> OperationTraces:
    traces = OperationTraces()
    for point in points:
        traces.add(point, trace(run, *point))
    return traces


def attend(source: int, target: int) -> Tensor:
    keys, queries = torch.ones(2, source + 3, 8), torch.ones(2, target, 8)
    scores = (queries @ keys.transpose(1, 2)).softmax(-1)
    return (scores @ keys).exp()


POINTS = [(4, 2), (20, 9), (11, 9), (16, 5), (7, 3)]


def test_three_passes_determine_those_at_two_lengths_and_two_confirm_them() -> None:
    assert [learn(attend, *POINTS[:number]).trusted for number in (3, 4, 5)] == [False, False, True]
    predicted = [*learn(attend, *POINTS).predictions()]
    assert len(predicted) == 10, "as many as a cubic polynomial in two lengths has coefficients"
    valid = [(point, counts) for point, counts in predicted if min(point) > 0]
    assert valid
    for (source, target), counts in valid:
        operations = map(count_operation, trace(attend, source, target))
        assert counts == tuple(map(sum, zip(*operations, strict=True)))


@pytest.mark.parametrize(
    "run",
    [
        lambda source, target: torch.ones(-(-source // 4) * 4, 3) @ torch.ones(3, 2),  # padded to a multiple
        lambda source, target: torch.ones(source * source, 3) @ torch.ones(3, 2),
        lambda source, target: [torch.ones(2).exp() for _ in range(source)],
        lambda source, target: torch.ones(2).exp() if source != 16 else torch.ones(2).sin(),
    ],
    ids=["steps", "squares", "loops", "others"],
)
def test_operations_that_do_not_grow_with_the_lengths_are_not_trusted(run: Pass) -> None:
    traces = learn(run, *POINTS)
    assert not traces.regular
    assert not traces.trusted


def test_one_pass_confirms_those_at_one_length() -> None:
    points = [(4, 1), (20, 1), (11, 1)]
    assert [learn(attend, *points[:number]).trusted for number in (2, 3)] == [False, True]


def test_a_pass_in_which_one_length_varies_confirms_nothing_about_the_other() -> None:
    def multiply(source: int, target: int) -> None:
        torch.ones(source * target).exp()

    traces = learn(multiply, (4, 2), (20, 2), (4, 3), (8, 2), (16, 2), (12, 2))
    assert traces.regular
    assert not traces.trusted
    traces.add((8, 3), trace(multiply, 8, 3))
    assert not traces.regular


def test_a_single_wrong_size_is_noticed() -> None:
    traces = learn(attend, *POINTS)
    wrong = [*trace(attend, 9, 4)]
    backward, packet, (rows, *columns) = next(each for each in wrong if len(each) == 3)
    wrong[wrong.index((backward, packet, (rows, *columns)))] = backward, packet, (rows + 1, *columns)
    traces.add((9, 4), wrong)
    assert not traces.trusted


def test_a_tensor_that_is_overwritten_in_parts_is_one_operation() -> None:
    def overwrite(source: int, target: int) -> None:
        for part in torch.ones(5 * source, 3).split(16):
            part.exp_().mul_(2.0)

    assert [len(trace(overwrite, source, 1)) for source in (2, 20)] == [2, 2]
    assert sum(count_operation(each)[2] for each in trace(overwrite, 20, 1)) == 2 * 100 * 3
    assert learn(overwrite, *((source, 1) for source in (2, 20, 9, 13))).trusted


class Refusing(nn.Module):
    """Refuses some values, or needs them."""

    def __init__(self, refuse: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.weight, self.refuse = nn.Parameter(torch.ones(4, 4)), refuse

    def forward(self, x: Tensor) -> Any:
        if (x > 100).any():
            self.refuse(x)
        return SimpleNamespace(loss=(x[..., None].expand(*x.shape, 4) @ self.weight).sum())


def refuse(x: Tensor) -> None:
    raise ValueError("too large")


def read(x: Tensor) -> None:
    x.sum().item()


@pytest.mark.parametrize(("what", "without_weights"), [(refuse, True), (read, False)])
def test_values_that_a_model_refuses_need_not_be_counted(what: Any, without_weights: bool) -> None:
    counter = MacCounter(Refusing(what), lambda model, rows: model(**rows).loss)
    assert counter.count({"x": torch.ones(2, 3)}).forward_macs == 2 * 3 * 16
    assert (counter._shadow is not None) == without_weights


class ReadsValues(nn.Module):
    """Does more where the first number of a batch is large, and always needs values."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.weight, self.limit = nn.Parameter(torch.ones(4, 4)), limit

    def forward(self, x: Tensor) -> Any:
        hidden = x[..., None].expand(*x.shape, 4) @ self.weight
        return SimpleNamespace(loss=(hidden @ self.weight if x[0, 0].item() > self.limit else hidden).sum())


@pytest.mark.parametrize(("limit", "same"), [(1000.0, True), (2.0, False)])
def test_a_model_that_needs_weights_is_counted_on_ones_if_values_do_not_matter(limit: float, same: bool) -> None:
    counter = MacCounter(ReadsValues(limit), lambda model, rows: model(**rows).loss)
    batches = [torch.full((2, length), 5.0) for length in (2, 40, 9, 12, *range(20, 30))]
    expected = [StepMacs((1 + (not same)) * 2 * batch.shape[1] * 16, 0, 0)[0] for batch in batches]
    assert [counter.count({"x": batch}).forward_macs for batch in batches] == expected
    assert counter._values_matter == (not same)
    assert (len(counter._counted) == 3) == same, "two lengths determine the operations, one confirms them"
    assert not counter.known, "counts of a model with weights are not kept"


def test_a_formula_that_needs_more_than_shapes_leaves_the_polynomial(monkeypatch: pytest.MonkeyPatch) -> None:
    def formula(left: Tensor, right: Tensor, out_val: Tensor) -> int:
        return 2 * left.numel() * right.shape[1]

    monkeypatch.setattr("peftkit.macs.flop_counter.flop_registry", {torch.ops.aten.mm: formula})
    family = ShapeFamily()
    for rows in (2, 40, 9, 12, 30):
        operations = trace(lambda source, target: torch.ones(source, 3) @ torch.ones(3, target), rows, 5)
        family.add((rows,), (), StepMacs(rows * 15, 0, 0), operations)
    assert not family.traces.trusted
    assert family.lengths.at((20,)) == (300, 0, 0)


def model_loss(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    loss: Tensor = model(**rows).loss
    return loss


def test_what_was_learned_about_lengths_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(source: int, target: int) -> dict[str, Tensor]:
        ids, labels = (torch.ones(4, length, dtype=torch.long) for length in (source, target))
        return {"input_ids": ids, "attention_mask": ids, "labels": labels}

    known: dict[str, list[int]] = {}
    first = MacCounter(tiny_model("t5"), model_loss, known=known)
    for point in POINTS:
        first.count(rows(*point))
    expected = MacCounter(tiny_model("t5"), model_loss).count(rows(13, 6))
    monkeypatch.setattr(MacCounter, "_count_on", None)
    later = MacCounter(tiny_model("t5"), model_loss, known=known)
    assert later.count(rows(13, 6)) == first.count(rows(13, 6)) == expected
    with pytest.raises(TypeError):
        later.count(rows(21, 6))


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("method", map(exhaustive_unless_quick, load_registry().all("method")))
def test_predicted_counts_of_every_method_equal_real_ones(method: str, kind: str, make: Make) -> None:
    try:
        recipe = make(kind, f"method.name={method}")
        base = init_random_base(recipe, "cpu")
        _, data = prepare_training_rows(recipe, base.objective)
        row = shortest_and_longest_batch(recipe, data.train, base.objective)[0]
        model = apply_method(recipe, base, 4, lambda number: [row] * number)
    except PeftkitError as error:
        pytest.skip(f"needs options, or another model: {error}")
    counter = create_mac_counter(recipe, base.objective, model, {}, optimizer=False)

    def count(source: int, target: int) -> StepMacs:
        sizes = {
            key: target if kind == "encoder-decoder" and key in ("labels", "decoder_input_ids") else source
            for key in row
        }
        batch = copy.copy(row)
        batch.update(
            (key, torch.ones(len(value), sizes[key], dtype=value.dtype))
            for key, value in row.items()
            if value.ndim == 2
        )
        return counter.count(batch)

    for point in POINTS:
        count(*point)
    [family] = counter._families.values()
    assert family.traces.trusted
    predicted = count(13, 6)
    assert family.interpolated
    counter._families.clear()
    assert count(13, 6) == predicted
