"""Compiles the repeated layers of a model with `torch.compile`, for training steps only.

What surrounds the layers stays as it is: embeddings, prompts, the output layer and its hooks. Modules, weights and
their names are the same, and outside of training steps the model is not compiled. Lengths and numbers of rows are
symbols of the compiled code, so a new shape needs none of its own.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.errors import summarize_error
from peftkit.models.heads.token_losses import tolerance
from peftkit.oom import is_oom
from peftkit.recipe import Recipe

log = logging.getLogger(__name__)
BACKEND = "inductor"
MAX_VARIANTS = 32
"""How often the code of a layer is compiled at most; calls that fit none of the compiled variants run uncompiled."""
OTHER_RESULTS = "the compiled layers compute another loss or other gradients"
Gradients = list[Tensor | None]


class CompiledLayers:
    """The repeated layers of a model, and what is known of their compilation.

    Args:
        model: The model with the method applied, not wrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.layers = model, repeated_layers(model)
        self.seconds = 0.0
        """Seconds spent on compilation, and on comparing the first pass with that of the plain layers."""
        self.variants = 0
        """How often code was compiled, the backward passes apart."""
        self.why_not = "" if self.layers else "the model has no repeated layers"
        """Why the layers are not compiled; empty if they are."""
        self._checked = False
        self._checking = False
        self._calls: list[Any] = []
        self._compiling_since: float | None = None

    def record(self) -> dict[str, Any]:
        """Return what a run records."""
        layers = 0 if self.why_not else len(self.layers)
        return {"layers": layers, "variants": self.variants, "seconds": self.seconds, "why_not": self.why_not}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Run the compiled layers within this context, in the forward and the backward pass."""
        if self.why_not:
            yield
            return
        with ExitStack() as stack:
            stack.enter_context(_settings(suppress_errors=not self._checking))
            stack.enter_context(self._watch())
            stack.callback(self._restore)
            for layer, call in zip(self.layers, self._compiled(), strict=True):
                layer._compiled_call_impl = call
            yield

    def check(self, gradients: Callable[[], tuple[Tensor, Gradients]]) -> None:
        """Compare the compiled layers with the plain ones, once. If the results differ, the plain ones are used.

        Args:
            gradients: Computes the loss of a microbatch, a scalar, and its gradients, and leaves nothing behind. Masks
                of dropout must be the same each time.
        """
        if self._checked or self.why_not:
            return
        self._checked = self._checking = True
        started = time.perf_counter()
        expected = gradients()
        try:
            with self.active():
                computed = gradients()
            if not _agree(expected, computed, tolerance(self.model, expected[0].device)):
                self.why_not = OTHER_RESULTS
        except Exception as error:  # torch raises many kinds
            if is_oom(error):
                raise
            self.why_not = f"torch.compile fails: {summarize_error(error)}"
        self.seconds += time.perf_counter() - started
        self._checking = False
        if self.why_not:
            log.warning("train.compile has no effect: %s", self.why_not)

    def release(self) -> None:
        """Let torch forget the compiled code, so that the limits of the next run in this process are its own."""
        if self._calls:
            self._calls.clear()
            torch.compiler.reset()  # type: ignore[no-untyped-call]

    def _compiled(self) -> Sequence[Any]:
        if not self._calls:
            for layer in self.layers:
                layer.compile(dynamic=True, backend=BACKEND)
                self._calls.append(layer._compiled_call_impl)
        return self._calls

    def _restore(self) -> None:
        for layer in self.layers:
            layer._compiled_call_impl = None

    @contextmanager
    def _watch(self) -> Iterator[None]:
        """Measure compilation, also that of later shapes and of backward passes."""
        from torch._dynamo.callback import callback_handler

        def start(*arguments: Any) -> None:
            self._compiling_since = time.perf_counter()
            self.variants += "BACKWARD" not in str(getattr(arguments[0], "callback_trigger", "")) if arguments else 1

        def end(*_: Any) -> None:
            if self._compiling_since is not None and not self._checking:
                self.seconds += time.perf_counter() - self._compiling_since
            self._compiling_since = None

        callback_handler.register_start_callback(start)
        callback_handler.register_end_callback(end)
        try:
            yield
        finally:
            callback_handler.remove_start_callback(start)
            callback_handler.remove_end_callback(end)


def make_compiled_layers(recipe: Recipe, model: nn.Module, processes: int) -> CompiledLayers | None:
    """Return the compiled layers of a run; None if the recipe does not ask for them.

    Args:
        recipe: The recipe.
        model: The model with the method applied, not wrapped.
        processes: The number of processes; several would wait for each other's compilation.
    """
    if not recipe.train.compile:
        return None
    layers = CompiledLayers(model)
    if processes > 1:
        layers.why_not = "there are several processes"
        log.warning("train.compile has no effect: %s", layers.why_not)
    return layers


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers that a model keeps in lists, the outermost ones only.

    Args:
        model: The model; it may be wrapped by a method.
    """
    outermost: list[nn.Module] = []
    within: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and module not in within:
            layers = [layer for layer in module if any(True for _ in layer.children()) and layer not in within]
            outermost += layers
            within.update(each for layer in layers for each in layer.modules())
    return outermost


def _agree(one: tuple[Tensor, Gradients], other: tuple[Tensor, Gradients], tolerance: float) -> bool:
    """Whether losses and gradients are equal; gradients that vanish but for rounding are compared with all of them."""
    (loss, gradients), (other_loss, other_gradients) = one, other
    if not torch.allclose(loss, other_loss, rtol=tolerance, atol=tolerance, equal_nan=True):
        return False
    if [each is None for each in gradients] != [each is None for each in other_gradients]:
        return False
    pairs = [(a, b) for a, b in zip(gradients, other_gradients, strict=True) if a is not None and b is not None]
    total = sum(float(a.norm()) ** 2 for a, _ in pairs) ** 0.5
    if not math.isfinite(total):  # nothing can be compared
        return True
    return all(float((a - b).norm()) <= 10 * tolerance * max(float(a.norm()), total / 100) for a, b in pairs)


@contextmanager
def _settings(*, suppress_errors: bool) -> Iterator[None]:
    """Set what torch compiles, and whether layers run uncompiled where that fails."""
    import torch._dynamo.config
    import torch._inductor.config

    options = {
        "recompile_limit": MAX_VARIANTS,
        "skip_nnmodule_hook_guards": False,  # hooks that a method changes are noticed
        "specialize_float": True,  # probabilities of dropout are no symbols
        "suppress_errors": suppress_errors,
    }
    with (
        torch._dynamo.config.patch(options),  # type: ignore[attr-defined]
        # Masks of dropout are those of the plain layers.
        torch._inductor.config.patch(fallback_random=True),  # type: ignore[attr-defined]
    ):
        yield
