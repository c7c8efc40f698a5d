"""What a step of training computes: multiply-accumulates (MACs), counted apart from the steps themselves.

One MAC is a multiplication and an addition, so FLOPs are twice the MACs. Matrix products and convolutions of the passes
forward and backward are counted, as torch's counter finds them in the operations that are really called: what no
frozen weight's gradient needs is not there, and what gradient checkpointing computes once more is. Element-wise
operations and the optimizer's step are counted apart from them.
"""

from __future__ import annotations

import copy
import gc
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from peftkit.errors import InputError, PeftkitError, RunError, one_line
from peftkit.recipe import Recipe
from peftkit.runner.batches import Stream, extreme_batches
from peftkit.runner.counter import Counter
from peftkit.runner.forms import Form
from peftkit.runner.interpolation import Interpolation, Lengths
from peftkit.runner.memory import ran_out
from peftkit.runner.optimizers import make_optimizer

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
Learning = tuple[bool, ...]
"""Which of a model's parameters require a gradient."""
Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]
MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]

COUNTS = ("choices", "input_tokens")
UNABLE = (RuntimeError, TypeError, ValueError, AttributeError, IndexError)
"""What operations raise that cannot go without values."""


class Work(NamedTuple):
    """What one pass over a batch computes."""

    forward_macs: int
    backward_macs: int
    elementwise: int

    def plus(self, other: Work) -> Work:
        """Of both."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass
class Told:
    """What was told of a batch without counting it, and in how many passes that was made use of."""

    batch: dict[str, Tensor]
    """Its shapes: held for the whole run, it takes no memory of the device's."""
    work: Work
    passes: int = 0


@dataclass
class Pattern:
    """Batches that differ in their lengths alone."""

    lengths: Interpolation = field(default_factory=Interpolation)
    told: dict[Lengths, Told] = field(default_factory=dict)
    trusted: int = 4
    """Of so many it may be told before another one is counted."""

    def tell(self, lengths: Lengths) -> Work:
        """The work of a batch that was told of, in one more pass."""
        self.told[lengths].passes += 1
        return self.told[lengths].work


@dataclass(frozen=True)
class Copy:
    """A model to count on, and how a batch comes to it."""

    model: nn.Module
    mode: Any = field(default_factory=nullcontext)
    device: torch.device | None = None
    """None for the model itself."""

    def rows(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch as the copy takes it; what says how many of something there are keeps its values."""
        if self.device is None:
            where = next(self.model.parameters()).device
            return {k: torch.ones_like(v, device=where) if v.is_meta else v.to(where) for k, v in batch.items()}
        return _without_values(batch, self.device)


def _shapes(batch: dict[str, Tensor]) -> Shapes:
    return tuple(sorted((key, tuple(value.shape)) for key, value in batch.items()))


def _without_values(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch's shapes on the device, and the values of what says how many of something there are."""
    return {k: v if k in COUNTS else torch.empty_like(v, device=device) for k, v in batch.items()}


class Ledger:
    """Counts the work of a batch once for each shape, on a copy of the model that has no weights.

    Attention is counted as its matrix products are written down, whatever computes it: forward two of them, backward
    four. So a count is the same on every device, and for every implementation of attention.

    Args:
        model: the model as it is trained, before anything wraps it.
        loss: what is trained, of a model and a batch.
        optimizer: makes the optimizer over what a model trains; None where its steps are not counted.
        whole: whether the model will keep all its weights: then it can be counted on where its copies cannot.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, optimizer: MakeOptimizer | None = None, *, whole: bool = True
    ) -> None:
        self.model, self.loss, self.whole = model, loss, whole
        self.optimizer = self.optimizer_bytes = 0
        """Element-wise operations of one step of the optimizer, and what it keeps from step to step."""
        started = time.perf_counter()
        self._known: dict[tuple[Shapes, Learning], Work] = {}
        self._patterns: dict[tuple[Shapes, Learning], Pattern] = defaultdict(Pattern)
        self._places = _places(model)
        self._copies = _copies(model)
        self._copy = next(self._copies, None)  # before anything wraps the model
        self._indifferent = False
        if optimizer is not None:
            self.optimizer, self.optimizer_bytes = self._stepped(optimizer)
        self.seconds = time.perf_counter() - started
        """What counting has taken."""

    def work(self, batch: dict[str, Tensor]) -> Work:
        """The MACs of a pass forward and backward over the batch, which is one process's.

        Batches that differ in their lengths alone are counted until these follow a polynomial, which tells of those
        between them; each time that it has told of twice as many one more is counted. Should that come out otherwise,
        all of them are counted after all, and what is missing of their passes is added to this one's.

        Raises:
            RunError: they can be counted with weights only, and the model has not all of its own.
        """
        shapes = _shapes(batch)
        learning = tuple(getattr(held.get(key), "requires_grad", False) for held, key in self._places)
        if (known := self._known.get((shapes, learning))) is not None:
            return known
        lengths = tuple(shape[1] for _, shape in shapes if len(shape) == 2)
        pattern = self._patterns[tuple((key, shape[:1]) for key, shape in shapes), learning]
        if lengths in pattern.told:
            return pattern.tell(lengths)
        started = time.perf_counter()
        try:
            expected = pattern.lengths.at(lengths)
            if expected is not None and len(pattern.told) < pattern.trusted:
                pattern.told[lengths] = Told(_without_values(batch, torch.device("meta")), Work(*expected))
                return pattern.tell(lengths)
            if expected is not None:
                pattern.trusted *= 2
            found = self._known[shapes, learning] = self._counted(learning, batch)
            pattern.lengths.add(lengths, found)
            return found if pattern.lengths.regular else found.plus(self._missing(learning, pattern))
        finally:
            self.seconds += time.perf_counter() - started

    def _missing(self, learning: Learning, pattern: Pattern) -> Work:
        """What passes lack of which too little, or too much, was told; from now on their shapes are known."""
        missing = Work(0, 0, 0)
        for told in pattern.told.values():
            found = self._known[_shapes(told.batch), learning] = self._counted(learning, told.batch)
            missing = missing.plus(Work(*(told.passes * (a - b) for a, b in zip(found, told.work, strict=True))))
        pattern.told.clear()
        return missing

    def _counted(self, learning: Learning, batch: dict[str, Tensor]) -> Work:
        while self._copy is not None:
            for (held, key), learns in zip(_places(self._copy.model), learning, strict=True):
                held[key].requires_grad = learns  # type: ignore[union-attr]  # these places hold some
            try:
                found, guessed = self._passed(self._copy, batch)
                if not guessed or self._indifferent:
                    return found
                self._indifferent = self._passed(self._copy, batch, guess=True)[0][:2] == found[:2]
                if self._indifferent:
                    return found
            except UNABLE:
                pass
            self._copy = next(self._copies, None)  # its operations go by values, which the copy has not
        if not self.whole:
            raise RunError(
                "the multiply-accumulates of this method can only be counted with its weights, whole and of full "
                "precision; leave out train.deepspeed, train.fsdp and model.quantization"
            )
        return self._passed(Copy(self.model), batch)[0]

    def kept_bytes(self, batch: dict[str, Tensor]) -> int:
        """What a pass forward keeps for the one backward, beside the weights.

        Attention is as it will be computed on the model's device, as far as a copy of it can tell.
        """
        for copied in (*reversed([*_copies(self.model)]), Copy(self.model)):  # what is fake has the device's kernels
            with suppress(*UNABLE):
                return _kept(copied, self.loss, batch)
        raise RunError("what is kept for the pass backward cannot be told without weights")

    def _stepped(self, make: MakeOptimizer) -> tuple[int, int]:
        """What the optimizer's second step does, since the first begins its state, and what that takes in bytes."""
        try:
            with torch.device("meta"):
                return _steps(make, self.model)
        except UNABLE:
            return _steps(make, self.model)

    def _passed(self, copied: Copy, batch: dict[str, Tensor], *, guess: bool = False) -> tuple[Work, bool]:
        """The work on that copy, and whether it rests on a guess at values."""
        counter, model, device = Counter(guess), copied.model, next(self.model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), _written_down(model), _unsaid(), _uncollected(), copied.mode:
            rows = copied.rows(batch)
            try:
                with counter:
                    loss = self.loss(model, rows)
                    forward = counter.flops
                    loss.backward()  # type: ignore[no-untyped-call]
            finally:
                model.zero_grad(set_to_none=True)
                self.model.zero_grad(set_to_none=True)  # of which a hook in the copy may still know
        return Work(forward // 2, (counter.flops - forward) // 2, counter.rest), counter.guessed


def make_ledger(recipe: Recipe, form: Form, model: nn.Module, rows: Dataset | Stream) -> Ledger:
    """The ledger of a run of the recipe, which trains the model, or one with the same products, on those rows.

    The shortest and the longest batch are counted at once, since what lies between two counts need not be counted.

    Raises:
        InputError: the model fails with the method, which no step has shown before.
    """

    def loss(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
        found = form.loss(model, rows)
        own = recipe.method.penalty(model, rows)  # which may be of what the pass has left in the model
        return found if own is None else found + own

    whole = not (recipe.train.deepspeed.used or recipe.train.fsdp or recipe.model.quantization)
    ledger = Ledger(model, loss, partial(make_optimizer, recipe), whole=whole)
    for batch in extreme_batches(recipe, rows, form):
        try:
            ledger.work(batch)
        except PeftkitError:
            raise
        except Exception as error:  # the first pass through model and method together: libraries fail in any way
            if not ran_out(error):  # on the model itself; its steps will be of smaller passes, which are counted then
                raise InputError(
                    f"method.name: {recipe.method.name!r} fails in its first pass through "
                    f"{recipe.model.name!r}: {one_line(error)}; check its options, or use another method or model"
                ) from error
    return ledger


def _copies(model: nn.Module) -> Iterator[Copy]:
    """The copies that can be made of the model: what is on ``meta`` is quickest, what is fake has a device too.

    The second is made of the first, since the model may be wrapped or sharded when it is needed.
    """
    device = next(model.parameters()).device
    real = torch.device("cpu") if device.type == "meta" else device
    for mode, where in ((None, torch.device("meta")), (FakeTensorMode(allow_non_fake_inputs=True), real)):
        with suppress(*UNABLE):  # it holds what cannot be copied
            model = _weightless(model, where, mode).train()  # in training, or nothing would be computed once more
            yield Copy(model, mode or nullcontext(), where)


def _places(model: nn.Module) -> list[tuple[dict[str, nn.Parameter | None], str]]:
    """Where the model's modules hold their parameters, which what shards them replaces."""
    found = ((module._parameters, key) for module in model.modules() for key in module._parameters)
    return [(held, key) for held, key in found if held[key] is not None]


def _kept(copied: Copy, loss: Loss, batch: dict[str, Tensor]) -> int:
    model = copied.model
    # By their object: on meta no tensor has a place in memory.
    weights = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, tuple[Tensor, int]] = {}  # the tensors too, or storages that are freed would be reused

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = (tensor, storage.nbytes())
        return tensor

    with torch.random.fork_rng(devices=[]), copied.mode, saved_tensors_hooks(keep, lambda tensor: tensor):
        rows = copied.rows(batch)
        with Counter():  # which answers what such copies cannot
            loss(model, rows)
    return sum(size for _, size in kept.values())


def _steps(make: MakeOptimizer, model: nn.Module) -> tuple[int, int]:
    """Counts a step over tensors of zeros like those that the model trains."""
    like = nn.Module()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = nn.Parameter(torch.zeros(parameter.shape, dtype=parameter.dtype))
            own.grad = torch.zeros_like(own)
            like._parameters[key] = own  # names have dots here, as in the model
    optimizer, work, size = make(like), 0, 0
    for group in optimizer.param_groups:
        group |= {key: False for key in ("fused", "foreach") if key in group}  # kernels of which nothing is seen
        alike = groupby(sorted(group["params"], key=_kind), key=_kind)  # what a tensor takes goes by its shape alone
        for first, *others in (list(found) for _, found in alike):
            optimizer.param_groups = [group | {"params": [first]}]
            optimizer.step()
            with Counter() as counter:
                optimizer.step()
            work += counter.rest * (1 + len(others))
            kept = [value for value in optimizer.state[first].values() if isinstance(value, Tensor)]
            size += sum(value.numel() * value.element_size() for value in kept) * (1 + len(others))
    return work, size


def _kind(parameter: nn.Parameter) -> tuple[tuple[int, ...], str]:
    return tuple(parameter.shape), str(parameter.dtype)


def _weightless(model: nn.Module, device: torch.device, mode: FakeTensorMode | None) -> nn.Module:
    """A copy that takes no memory: its tensors have shapes, and no values."""
    memo: dict[int, Any] = {}
    with mode or nullcontext():
        for tensor in (*model.parameters(), *model.buffers()):
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
                for hook in (tensor._backward_hooks or {}).values():  # some methods make their own of a gradient
                    empty.register_hook(hook)  # type: ignore[no-untyped-call]
            memo[id(tensor)] = empty
    return copy.deepcopy(model, memo)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Within it Python does not look for garbage, which takes longer than a pass where many libraries are loaded."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def _unsaid() -> Iterator[None]:
    """Within it torch does not log which operation cannot do without values: the next copy is tried."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


@contextmanager
def _written_down(model: nn.Module) -> Iterator[None]:
    """Within it attention is made of matrix products, which are counted alike on every device."""
    # transformers 4 chooses the layers of some models when they are made, and masks for what the config says: of these
    # the config stays.
    chosen = any("SdpaAttention" in type(module).__name__ for module in model.modules())
    found = (None if chosen else getattr(module, "config", None) for module in model.modules())
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
