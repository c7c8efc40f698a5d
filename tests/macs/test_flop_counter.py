"""What is counted of each kind of operation, and that cached output shapes are those of the operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from peftkit.macs import flop_counter
from peftkit.macs.flop_counter import REDUCTIONS, OpCounter

ATEN = torch.ops.aten
META = torch.device("meta")


@pytest.fixture(autouse=True)
def no_cached_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flop_counter, "OUTPUT_SHAPES", {})


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device=META)


def counted(operation: Callable[[], Any]) -> tuple[int, int]:
    """The FLOPs and element-wise operations, which are the same with cached output shapes."""
    counts = []
    for _ in range(2):
        with OpCounter() as counter:
            operation()
        counts.append((counter.flops, counter.elementwise))
    assert counts[0] == counts[1]
    return counts[0]


OPERATIONS: dict[str, Callable[[Tensor], Any]] = {
    "_softmax": lambda x: ATEN._softmax(x, -1, False),
    "_log_softmax": lambda x: ATEN._log_softmax(x, -1, False),
    "_softmax_backward_data": lambda x: ATEN._softmax_backward_data(x, x, -1, torch.float32),
    "_log_softmax_backward_data": lambda x: ATEN._log_softmax_backward_data(x, x, -1, torch.float32),
    "native_layer_norm": lambda x: ATEN.native_layer_norm(x, [5], None, None, 1e-5),
    "native_layer_norm_backward": lambda x: ATEN.native_layer_norm_backward(
        x, x, [5], empty(4, 1), empty(4, 1), None, None, [True, False, False]
    ),
    "native_group_norm": lambda x: ATEN.native_group_norm(x, None, None, 4, 5, 1, 1, 1e-5),
    "native_group_norm_backward": lambda x: ATEN.native_group_norm_backward(
        x, x, empty(4, 1), empty(4, 1), None, 4, 5, 1, 1, [True, False, False]
    ),
    "native_dropout": lambda x: ATEN.native_dropout(x, 0.5, True),
    "native_dropout_backward": lambda x: ATEN.native_dropout_backward(x, empty(4, 5, dtype=torch.bool), 2.0),
    "_fused_rms_norm_backward": lambda x: ATEN._fused_rms_norm_backward(x, x, [5], empty(4, 1), None, [True, False]),
    "nll_loss_forward": lambda x: ATEN.nll_loss_forward(x, empty(4, dtype=torch.long), None, 1, -100),
    "var_mean": lambda x: ATEN.var_mean.correction(x, [1]),
}


@pytest.mark.parametrize("name", sorted(REDUCTIONS - {"_fused_rms_norm"}))
def test_a_reduction_counts_the_numbers_that_it_reads(name: str) -> None:
    assert counted(lambda: OPERATIONS[name](empty(4, 5))) == (0, 20)


def test_a_kernel_of_accelerators_counts_the_numbers_that_it_reads() -> None:
    """Without a kernel of its own, a device computes it by other operations before they are counted."""
    counter = OpCounter()
    counter.__torch_dispatch__(ATEN._fused_rms_norm.default, (), (empty(4, 5), [5], None, 1e-5))
    assert (counter.flops, counter.elementwise) == (0, 20)


@pytest.mark.parametrize(
    ("operation", "counts"),
    [
        (lambda: empty(4, 5).sum(1), (0, 20)),
        (lambda: empty(4, 5).amax(0), (0, 20)),
        (lambda: empty(4, 1) + empty(5), (0, 20)),
        (lambda: empty(4, 5).add_(1), (0, 20)),
        (lambda: empty(4, 5).exp(), (0, 20)),
        (lambda: empty(4, 5).clone(), (0, 0)),
        (lambda: empty(4, 5).t(), (0, 0)),
        (lambda: empty(20).view(4, 5), (0, 0)),
        (lambda: torch.cat([empty(4, 5), empty(2, 5)]), (0, 0)),
        (lambda: empty(4, 5) @ empty(5, 3), (2 * 4 * 5 * 3, 0)),
        (lambda: torch.addmm(empty(3), empty(4, 5), empty(5, 3)), (2 * 4 * 5 * 3, 0)),
        (lambda: torch.bmm(empty(2, 4, 5), empty(2, 5, 3)), (2 * 2 * 4 * 5 * 3, 0)),
    ],
)
def test_counts_of_an_operation(operation: Callable[[], Any], counts: tuple[int, int]) -> None:
    assert counted(operation) == counts


def test_counts_add_up() -> None:
    with OpCounter() as counter:
        (empty(4, 5) @ empty(5, 3)).exp().sum()
        empty(4, 5) @ empty(5, 3)
    assert (counter.flops, counter.elementwise, counter.guessed) == (2 * 120, 24, False)


@pytest.mark.parametrize("guess", [False, True])
def test_the_truth_value_of_a_tensor_without_values_is_guessed(guess: bool) -> None:
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(torch.ones(1, dtype=torch.bool))
    for condition in (empty(1, dtype=torch.bool), fake):
        with OpCounter(guess) as counter:
            assert bool(condition) is guess
        assert counter.guessed


@pytest.mark.parametrize("value", [False, True])
def test_a_tensor_with_values_has_its_own_truth_value(value: bool) -> None:
    with OpCounter(not value) as counter:
        assert bool(torch.tensor([value])) is value
        assert torch.tensor([3.0]).item() == 3.0
    assert not counter.guessed
    with OpCounter(), pytest.raises(RuntimeError):
        empty(1).item()  # a number is not guessed


def outputs(operation: Callable[[], Any]) -> list[Any]:
    """The outputs of an operation without, and twice with a counter."""
    results = [operation()]
    for _ in range(2):
        with OpCounter():
            results.append(operation())
    return results


def layout(output: Any) -> Any:
    if isinstance(output, tuple | list):
        return [layout(each) for each in output]
    return output if output is None else (output.shape, output.stride(), output.dtype, output.device)


@pytest.mark.parametrize(
    "operation",
    [
        lambda: empty(4, 5).t().exp(),
        lambda: empty(4, 5) > 0,
        lambda: empty(4, 5).double() @ empty(5, 3).double(),
        lambda: ATEN.native_layer_norm(empty(4, 5), [5], None, None, 1e-5),
        lambda: ATEN.convolution_backward(
            empty(1, 1, 3), empty(1, 1, 3), empty(1, 1, 1), [0], [1], [0], [1], False, [0], 1, [True, False, False]
        ),
        lambda: nn.Parameter(empty(4, 5)).exp(),
        lambda: empty(4, 5).max(1),
        lambda: empty(4, 5).split(2),
    ],
)
def test_outputs_from_cached_shapes_equal_those_of_the_operation(operation: Callable[[], Any]) -> None:
    plain, first, cached = map(layout, outputs(operation))
    assert plain == first == cached


def test_outputs_depend_on_shapes_and_arguments() -> None:
    whole = empty(3, dtype=torch.long)
    with OpCounter():
        assert [(whole + number).dtype for number in (1, 1.0, True, 1)] == [
            torch.long,
            torch.float32,
            torch.long,
            torch.long,
        ]
        assert [whole.sum(0, keepdim=keep).shape for keep in (True, False, True)] == [(1,), (), (1,)]
        assert [torch.cat([empty(2), empty(n)]).shape for n in (1, 3, 1)] == [(3,), (5,), (3,)]
        assert [torch.exp(each).stride() for each in (empty(4, 5), empty(5, 4).t())] == [(5, 1), (1, 4)]
        assert [torch.exp(empty(2, dtype=kind)).dtype for kind in (torch.float32, torch.float64)] == [
            torch.float32,
            torch.float64,
        ]


def test_shapes_of_new_tensors_only_are_cached() -> None:
    base = empty(4, 5)
    for _ in range(2):
        with OpCounter():
            view, written = base.t(), base.add_(1)
        assert view.untyped_storage()._cdata == base.untyped_storage()._cdata
        assert written is base
    assert flop_counter.OUTPUT_SHAPES == {}
    with OpCounter():
        base.exp()
    assert len(flop_counter.OUTPUT_SHAPES) == 1


def test_tensors_with_values_or_a_device_are_computed() -> None:
    values = torch.ones(2, 2)
    for _ in range(2):
        with OpCounter() as counter:
            assert (values @ values).tolist() == [[2.0, 2.0], [2.0, 2.0]]
        assert counter.flops == 2 * 8
    with FakeTensorMode() as mode, OpCounter():
        assert mode.from_tensor(values).exp().device.type == "cpu"
    assert flop_counter.OUTPUT_SHAPES == {}
