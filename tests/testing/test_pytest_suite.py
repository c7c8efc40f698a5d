"""The conformance suite detects faulty methods and passes correct ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch

from peftkit import Incompatibility, Method, PublishedRate, Range
from peftkit.errors import PluginError
from peftkit.methods.selective import LayerNorm
from peftkit.testing import METHOD_CHECKS, NotSupportedError, check_published_rates, check_round_trip, conformance
from peftkit.testing.run_checks import RUN_CHECKS

TestRight = conformance(LayerNorm, architectures=("t5", "bert"))


class Wrong(Method):
    """Trains the layer norms; subclasses add one fault each."""

    name: Literal["wrong"] = "wrong"

    def apply(self, model: Any, context: Any) -> Any:
        return LayerNorm().apply(model, context)


class Forgets(Wrong):
    """Saves one tensor too few."""

    def save(self, model: Any, folder: Path) -> None:
        first = next(p for p in model.parameters() if p.requires_grad)
        first.requires_grad = False
        super().save(model, folder)

    def load(self, model: Any, folder: Path) -> None:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(folder / "trainable.safetensors"), strict=False)


class Moves(Wrong):
    """Changes a frozen parameter."""

    def after_step(self, model: Any, step: int) -> None:
        with torch.no_grad():
            next(p for p in model.parameters() if not p.requires_grad).add_(0.1)


class Unread(Wrong):
    """Trains a tensor that the forward pass does not use."""

    def apply(self, model: Any, context: Any) -> Any:
        model = super().apply(model, context)
        model.unread = torch.nn.Parameter(torch.zeros(2))
        return model


class New(Wrong):
    """Replaces parameters when loading."""

    def load(self, model: Any, folder: Path) -> None:
        super().load(model, folder)
        for module in model.modules():
            if type(module).__name__.endswith("Norm"):
                module.weight = torch.nn.Parameter(module.weight.detach().clone())


class Adds(Wrong):
    """Adds weights, and claims to be mergeable."""

    def apply(self, model: Any, context: Any) -> Any:
        model = super().apply(model, context)
        model.more = torch.nn.Parameter(torch.zeros(2))
        model.register_forward_hook(lambda m, a, out: setattr(out, "logits", out.logits + m.more.sum()) or out)
        return model


class MergesNothing(Adds):
    """Adds weights that its merge does not remove."""

    def merge(self, model: Any) -> Any:
        return model


class Scaled(torch.nn.Module):
    """A linear layer times a trained scalar."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer, self.scale = layer, torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self.scale * self.layer(inputs)
        return scaled


class ScaledWithWeight(Scaled):
    """Passes on the layer's weight, in another dtype if asked to."""

    dtype = torch.float32

    @property
    def weight(self) -> Any:
        return self.layer.weight.to(self.dtype)


class ScaledInHalf(ScaledWithWeight):
    """Has a weight of another dtype."""

    dtype = torch.bfloat16


class Wraps(Wrong):
    """Wraps the feed-forward's output layers."""

    wrapper: ClassVar[type[Scaled]] = Scaled

    def apply(self, model: Any, context: Any) -> Any:
        model.requires_grad_(False)
        for module in list(model.modules()):
            for name in ("wo", "down_proj"):
                if isinstance(getattr(module, name, None), torch.nn.Linear):
                    setattr(module, name, self.wrapper(getattr(module, name)))
        return model


class WrapsWithWeight(Wraps):
    """Passes on the weight."""

    wrapper = ScaledWithWeight


class WrapsInHalf(Wraps):
    """Passes on a weight of another dtype."""

    wrapper = ScaledInHalf


class WrapsDecoders(Wraps):
    """Is declared incompatible with T5."""

    incompatibilities: ClassVar[tuple[Incompatibility, ...]] = (
        Incompatibility(lambda s: s.model_type == "t5", "T5 reads the weights of its layers", "use another model"),
    )


class Pickles(Wrong):
    """Saves a pickle."""

    def save(self, model: Any, folder: Path) -> None:
        torch.save({}, folder / "weights.bin")


class Forgetful(Wrong):
    """Has state that is not in checkpoints."""

    _steps: int = 0

    def after_backward(self, model: Any, step: int) -> None:
        self._steps += 1
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad *= self._steps


class Silent(Wrong):
    """Is incompatible with everything."""

    incompatibilities: ClassVar[tuple[Incompatibility, ...]] = (
        Incompatibility(lambda s: True, "it is never compatible", "use another"),
    )


@pytest.mark.parametrize(
    ("method", "check", "words"),
    [
        (Forgets, "reloads", "Tensor-likes are not close"),
        (Moves, "trains", "frozen tensors changed"),
        (Unread, "trains", r"no gradient in the second step: \['unread'\]"),
        (New, "reloads", "load replaced parameters"),
        (
            Adds,
            "merges",
            "since Adds does not override merge: return the base .*, such as more, or raise",
        ),
        (MergesNothing, "merges", "'wrong' cannot be merged: 1 weights are extra or missing, such as more"),
        (
            Wraps,
            "layer_weights",
            r"down_proj by a Scaled without the attribute weight, which T5 reads; ",
        ),
        (
            WrapsInHalf,
            "layer_weights",
            r"whose weight is torch.bfloat16 instead of torch.float32, which T5 reads",
        ),
        (Pickles, "reloads", "files with these suffixes were saved"),
        (Forgetful, "resume", "results differ after resuming"),
    ],
)
def test_faulty_methods_fail_their_check(method: type[Method], check: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=words):
        {**METHOD_CHECKS, **RUN_CHECKS}[check](method(), "llama", tmp_path / "own")


@pytest.mark.parametrize("check", METHOD_CHECKS)
def test_a_wrapper_without_weight_is_one_sentence_on_t5(check: str, tmp_path: Path) -> None:
    if check in ("checkpointing", "new_head"):
        return
    with pytest.raises((PluginError, AssertionError)) as caught:
        METHOD_CHECKS[check](Wraps(), "t5", tmp_path / "own")
    reader = "T5" if check == "layer_weights" else r"T5Dense\w+"
    assert re.fullmatch(
        r"method.name: 'wrong' replaces encoder\.block\.0\.layer\.1\.DenseReluDense\.wo by a Scaled without the "
        rf"attribute weight, which {reader} reads; return the weight of the wrapped layer from a property",
        str(caught.value),
    )


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_a_wrapper_with_the_weight_passes(architecture: str, tmp_path: Path) -> None:
    for check in ("trains", "layer_weights", "reloads"):
        METHOD_CHECKS[check](WrapsWithWeight(), architecture, tmp_path / check)


def test_a_wrapper_for_decoders_need_not_have_a_weight(tmp_path: Path) -> None:
    METHOD_CHECKS["trains"](WrapsDecoders(), "llama", tmp_path / "own")
    with pytest.raises(NotSupportedError, match="T5 reads the weights"):
        METHOD_CHECKS["layer_weights"](WrapsDecoders(), "llama", tmp_path / "own")


@pytest.mark.parametrize("check", [*METHOD_CHECKS, *RUN_CHECKS])
def test_incompatible_methods_raise_not_supported(check: str, tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match="it is never compatible; use another"):
        {**METHOD_CHECKS, **RUN_CHECKS}[check](Silent(), "llama", tmp_path / "own")


def test_an_option_without_a_description_fails() -> None:
    class Bare(Wrong):
        option: int = 1

    with pytest.raises(AssertionError, match=r"options without a description: \['option'\]"):
        check_round_trip(Bare())


@pytest.mark.parametrize(
    ("search", "rate", "words"),
    [
        ({"train.learning_rate": Range(1e-4, 1e-2, log=True)}, 3e-2, "0.03.*outside 0.0001 to 0.01"),
        ({"train.learning_rate": Range(1e-4, 1e-2, log=True)}, 1e-5, "1e-05.*outside 0.0001 to 0.01"),
        ({"train.learning_rate": Range(1e-4, 1e-2, log=True)}, 6e-3, "less than a factor of 2 from an end"),
        ({"train.learning_rate": [1e-4, 1e-3]}, 1e-4, "no range for train.learning_rate"),
        ({}, 1e-4, "no range for train.learning_rate"),
        ({"train.learning_rate": Range(1e-4, 1e-2, log=True)}, 5e-3, None),
    ],
)
def test_a_range_without_the_published_rate_fails(search: Any, rate: float, words: str | None) -> None:
    class Published(Wrong):
        published_rates = (PublishedRate((rate,), "Somebody (2020): table 1"),)

    Published.search_space = search
    if words is None:
        check_published_rates(Published())
        return
    with pytest.raises(AssertionError, match=words):
        check_published_rates(Published())
    with pytest.raises(AssertionError, match=words):
        conformance(Published, runs=False)().test_options(Published())  # type: ignore[attr-defined]


def test_a_method_without_published_rates_passes() -> None:
    check_published_rates(Wrong())
