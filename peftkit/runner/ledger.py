"""What a step of training computes: multiply-accumulates (MACs), counted apart from the steps themselves.

One MAC is a multiplication and an addition, so FLOPs are twice the MACs. Matrix products and convolutions of the passes
forward and backward are counted, as torch's counter finds them in the operations that are really called: what no
frozen weight's gradient needs is not there, and what gradient checkpointing computes once more is. Element-wise
operations and the optimizer's step are counted apart from them.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from peftkit.errors import RunError

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]
MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]

UNABLE = (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError)
"""What operations raise that cannot go without values."""


SUMMING = frozenset(
    {"_softmax", "_log_softmax", "_softmax_backward_data", "_log_softmax_backward_data", "native_layer_norm"}
    | {"native_layer_norm_backward", "native_group_norm", "native_group_norm_backward", "native_dropout"}
    | {"_fused_rms_norm", "_fused_rms_norm_backward", "native_dropout_backward", "nll_loss_forward", "var_mean"}
)
"""Element-wise operations and sums that torch does not mark as such."""


class Work(NamedTuple):
    """What one pass over a batch computes."""

    forward_macs: int
    backward_macs: int
    elementwise: int


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is computed within it: FLOPs as torch's registry of formulas says, and the numbers of the rest.

    torch's own ``FlopCounterMode`` gives the same FLOPs, and takes half as long again, since it notes modules.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int = 0
        self.rest: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation, and counts it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if formula := flop_registry.get(packet):
            self.flops += formula(*args, **kwargs, out_val=out)
        elif torch.Tag.reduction in func.tags or packet.__name__ in SUMMING:
            self.rest += args[0].numel()
        elif torch.Tag.pointwise in func.tags and packet.__name__ != "clone" and isinstance(out, Tensor):
            self.rest += out.numel()
        return out


class Ledger:
    """Counts the work of a batch once for each shape, on a copy of the model that has no weights.

    Attention is counted as its matrix products are written down, whatever computes it: forward two of them, backward
    four. So a count is the same on every device, and for every implementation of attention.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, optimizer: MakeOptimizer | None = None, *, sharded: bool = False
    ) -> None:
        self.model, self.loss, self.sharded = model, loss, sharded
        self.optimizer = self.optimizer_bytes = 0
        """Element-wise operations of one step of the optimizer, and what it keeps from step to step."""
        self.seconds = 0.0
        """What counting has taken."""
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._known: dict[Shapes, Work] = {}
        try:
            # In training mode, or nothing would be computed once more.
            self._double: nn.Module | None = _weightless(model, self._mode).train()
        except UNABLE:  # it holds what cannot be copied
            self._double = None
        if optimizer is not None:
            started = time.perf_counter()
            self.optimizer, self.optimizer_bytes = self._stepped(optimizer)
            self.seconds += time.perf_counter() - started

    def work(self, batch: dict[str, Tensor]) -> Work:
        """The MACs of a pass forward and backward over the batch, which is one process's.

        Raises:
            RunError: they can be counted with weights only, of which each process holds a part.
        """
        shapes = tuple(sorted((key, tuple(value.shape)) for key, value in batch.items()))
        if shapes not in self._known:
            started = time.perf_counter()
            self._known[shapes] = self._counted(batch)
            self.seconds += time.perf_counter() - started
        return self._known[shapes]

    def _counted(self, batch: dict[str, Tensor]) -> Work:
        if self._double is not None:
            said = logging.getLogger("torch._subclasses.fake_tensor")
            before, said.disabled = said.disabled, True
            try:
                return self._passed(self._double, batch, self._mode)
            except UNABLE:
                self._double = None  # its operations go by values, which it has not
            finally:
                said.disabled = before
        if self.sharded:
            raise RunError(
                "the multiply-accumulates of this method can only be counted with its weights, of which each process "
                "holds a part; leave out train.deepspeed and train.fsdp"
            )
        return self._passed(self.model, batch, nullcontext())

    def kept_bytes(self, batch: dict[str, Tensor]) -> int:
        """What a pass forward keeps for the one backward, beside the weights.

        Attention is as it will be computed, or, where that goes by values, as it is written down, which keeps more.
        """
        model, mode = (self.model, nullcontext()) if self._double is None else (self._double, self._mode)
        try:
            return self._kept(model, batch, mode)
        except UNABLE:
            with _written_down(model):
                return self._kept(model, batch, mode)

    def _kept(self, model: nn.Module, batch: dict[str, Tensor], mode: Any) -> int:
        weights = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        kept: dict[int, tuple[Tensor, int]] = {}  # the tensors too, or storages that are freed would be reused

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = (tensor, storage.nbytes())
            return tensor

        with torch.random.fork_rng(devices=[]), mode, saved_tensors_hooks(keep, lambda tensor: tensor):
            rows = {k: torch.empty_like(v) for k, v in batch.items()} if mode is self._mode else batch
            self.loss(model, rows)
        return sum(size for _, size in kept.values())

    def _stepped(self, make: MakeOptimizer) -> tuple[int, int]:
        """What the optimizer's second step does, since the first begins its state, and what that takes in bytes."""
        try:
            with self._mode:
                return _steps(make, self.model)
        except UNABLE:
            return _steps(make, self.model)

    def _passed(self, model: nn.Module, batch: dict[str, Tensor], mode: Any) -> Work:
        counter = Counter()
        devices = [batch["labels"].device] if batch["labels"].device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), _written_down(model), mode:
            if mode is self._mode:
                batch = {key: torch.empty_like(value) for key, value in batch.items()}
            try:
                with counter:
                    loss = self.loss(model, batch)
                    forward = counter.flops
                    loss.backward()  # type: ignore[no-untyped-call]
            finally:
                model.zero_grad(set_to_none=True)
                self.model.zero_grad(set_to_none=True)  # of which a hook in the copy may still know
        return Work(forward // 2, (counter.flops - forward) // 2, counter.rest)


def _steps(make: MakeOptimizer, model: nn.Module) -> tuple[int, int]:
    """Counts a step over tensors like those that the model trains, of zeros, on the CPU."""
    like = nn.Module()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = nn.Parameter(torch.zeros(parameter.shape, dtype=parameter.dtype))
            own.grad = torch.zeros_like(own)
            like._parameters[key] = own  # names have dots here, as in the model
    optimizer = make(like)
    for group in optimizer.param_groups:
        group |= {key: False for key in ("fused", "foreach") if key in group}  # kernels of which nothing is seen
    optimizer.step()
    counter = Counter()
    with counter:
        optimizer.step()
    state = [value for own in optimizer.state.values() for value in own.values() if isinstance(value, Tensor)]
    return counter.rest, sum(value.numel() * value.element_size() for value in state)


def _weightless(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A copy that takes no memory: its tensors have shapes, and no values."""
    memo: dict[int, Any] = {}
    with mode:
        for tensor in (*model.parameters(), *model.buffers()):
            device = "cpu" if tensor.device.type == "meta" else tensor.device
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
                for hook in (tensor._backward_hooks or {}).values():  # some methods make their own of a gradient
                    empty.register_hook(hook)  # type: ignore[no-untyped-call]
            memo[id(tensor)] = empty
    return copy.deepcopy(model, memo)


@contextmanager
def _written_down(model: nn.Module) -> Iterator[None]:
    """Within it attention is made of matrix products, which are counted alike on every device."""
    found = (getattr(module, "config", None) for module in model.modules())
    configs: dict[int, Any] = {id(config): config for config in found if hasattr(config, "_attn_implementation")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation = "eager"
        with sdpa_kernel(SDPBackend.MATH):  # layers that were chosen when the model was made keep to torch's own
            yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation
