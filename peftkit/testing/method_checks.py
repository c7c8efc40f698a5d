"""Checks of methods, which raise ``AssertionError`` if they fail and ``NotSupportedError`` if they do not apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from peftkit.components import Method
from peftkit.components.model_parts.head_parameters import find_head_parameters
from peftkit.errors import InputError, PluginError
from peftkit.macs.interpolated_counts import StepMacs
from peftkit.macs.mac_counter import MacCounter
from peftkit.models.method_errors import check_weights, merge_problem, weighted_layers
from peftkit.testing.generation_check import check_generation_matches_scores
from peftkit.testing.tiny_models import STEPS, architecture_kind, batch, context, head_parameters, run_spec, tiny_model
from peftkit.testing.tiny_training import (
    apply_method,
    forget_trained,
    logits,
    loss_of,
    tensors,
    train_method,
    train_on_batch,
    trained_tensors,
)

Check = Callable[[Method, str, Path], None]
"""Takes a method with its options, the name of an architecture, and an empty folder."""


Reopen = Callable[[nn.Module, Path], nn.Module]
"""Loads saved files onto a base model."""


class NotSupportedError(Exception):
    """The method does not support a check; the message is its reason."""


def check_trains(method: Method, architecture: str, folder: Path) -> None:
    """Check that the loss falls, that trained parameters get gradients, and that frozen tensors do not change.

    If the method can disable its adapter, the trained model then computes what the base model does.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.
        folder: Not used.

    Raises:
        NotSupportedError: The method does not support this check.
        AssertionError: The check failed.
    """
    raise_if_unsupported(method.incompatible_with(run_spec(architecture)))
    trained = train_method(method, architecture)
    after, losses = tensors(trained.model), trained.losses
    assert sum(after[name].numel() for name in trained.trainable) > 0, "the method trains no parameters"
    assert losses[-1] < losses[0], f"the loss went from {losses[0]:.4f} to {losses[-1]:.4f} in {STEPS} steps"
    undeclared = [name for name in trained.without_gradient if not method.may_lack_gradient(name)]
    assert not undeclared, f"no gradient in the second step: {undeclared}"
    frozen = trained.before.keys() - trained.trainable
    changed = [n for n in frozen if not torch.equal(trained.before[n], after[n]) and not method.may_change(n)]
    assert not changed, f"frozen tensors changed: {sorted(changed)}"
    if method.can_disable_adapter and architecture_kind(architecture) != "encoder":  # whose head is trained too
        with method.disable_adapter(trained.model):
            difference = (logits(trained.model, architecture) - logits(tiny_model(architecture), architecture)).abs()
        if architecture_kind(architecture) == "decoder":  # what attention gives at padding is its implementation's
            difference = difference[batch(architecture)["attention_mask"].bool()]
        assert difference.max() <= 1e-4, f"without its adapter, logits differ from the base model by {difference.max()}"
    assert trained_tensors(trained.model).keys() == trained.trainable, "training changed which parameters are trainable"


def check_reloads(method: Method, architecture: str, folder: Path, reopen: Reopen | None = None) -> None:
    """Check that a fresh model with the saved weights gives the same logits, and that only safetensors are saved.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.
        folder: An empty folder.
        reopen: Loads the folder onto a fresh model with the library of ``loaded_by``; by default only ``load`` is
            checked.

    Raises:
        NotSupportedError: The method does not support this check.
        AssertionError: The check failed.
    """
    raise_if_unsupported(method.incompatible_with(run_spec(architecture)))
    trained = train_method(method, architecture)
    method, model = trained.method, trained.model
    folder.mkdir(exist_ok=True)
    method.save(model, folder)
    suffixes = {f.suffix for f in folder.iterdir() if f.suffix not in (".json", ".md")}
    assert suffixes == {".safetensors"}, f"files with these suffixes were saved: {sorted(suffixes)}"
    stored = [load_file(file) for file in folder.glob("*.safetensors")]
    written = sum(tensor.numel() * tensor.element_size() for tensors in stored for tensor in tensors.values())
    expected = method.checkpoint_bytes(model)
    assert expected == written, f"checkpoint_bytes returns {expected:,}, but save writes {written:,}"
    trained_logits = logits(model, architecture)
    fresh = apply_method(method, architecture)
    parameters = trained_tensors(fresh)
    assert not torch.allclose(logits(fresh, architecture), trained_logits, atol=1e-4), (
        "training did not change the logits"
    )
    method.load(fresh, folder)
    torch.testing.assert_close(logits(fresh, architecture), trained_logits, atol=1e-6, rtol=1e-6)
    # The optimizer of a resumed run holds the parameters, so load must not replace them.
    assert all(parameters[name] is parameter for name, parameter in trained_tensors(fresh).items()), (
        "load replaced parameters"
    )
    if reopen is not None:
        reopened = reopen(tiny_model(architecture), folder)
        torch.testing.assert_close(logits(reopened, architecture), trained_logits, atol=1e-6, rtol=1e-6)


def check_new_head(method: Method, architecture: str, folder: Path, reopen: Reopen | None = None) -> None:
    """Check that an encoder's new classification head is trained, saved, and loaded over another head.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.
        folder: An empty folder.
        reopen: Loads the folder onto a fresh model with the library of ``loaded_by``; by default only ``load`` is
            checked.

    Raises:
        NotSupportedError: The method does not support this check.
        AssertionError: The check failed.
    """
    raise_if_unsupported(method.incompatible_with(run_spec(architecture)))
    names = head_parameters(architecture)
    if not names:
        raise NotSupportedError("only encoders have a new classification head")
    trained = train_method(method, architecture)
    method, model = trained.method, trained.model
    head = find_head_parameters(model, names)
    frozen = [name for name, parameter in head.items() if not parameter.requires_grad]
    assert not frozen, f"parameters of the new head are frozen: {frozen}"
    before = {id(parameter): trained.before[name] for name, parameter in model.named_parameters()}
    unchanged = [name for name, parameter in head.items() if torch.equal(parameter, before[id(parameter)])]
    assert not unchanged, f"parameters of the new head do not change: {unchanged}"
    trained_logits = logits(model, architecture)
    folder.mkdir(exist_ok=True)
    method.save(model, folder)
    fresh = tiny_model(architecture, head_seed=1)
    loaded = method.load_into(fresh, folder, context(architecture)) if reopen is None else reopen(fresh, folder)
    torch.testing.assert_close(logits(loaded, architecture), trained_logits, atol=1e-6, rtol=1e-6)


def check_generates(method: Method, architecture: str, folder: Path) -> None:
    """Check that greedy search, with and without a KV cache, chooses the tokens with the highest logits.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.
        folder: Not used.

    Raises:
        NotSupportedError: The method does not support this check.
        AssertionError: The check failed.
    """
    if architecture_kind(architecture) == "encoder":
        raise NotSupportedError("encoders with a classification head do not generate text")
    raise_if_unsupported(method.incompatible_with(run_spec(architecture)))
    model = train_method(method, architecture).model
    for cached in (True, False):
        check_generation_matches_scores(model, architecture, cached=cached)


def check_merges(method: Method, architecture: str, folder: Path) -> None:
    """Check that the merged model gives the same logits within ``merge_tolerance`` and has the base model's tensors.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.
        folder: Not used.

    Raises:
        NotSupportedError: The method does not support this check.
        AssertionError: The check failed.
    """
    raise_if_unsupported(method.incompatible_with(run_spec(architecture)))
    trained = train_method(method, architecture)
    method, model = trained.method, trained.model
    trained_logits = logits(model, architecture)
    try:
        merged = method.merge(model)
    except InputError as error:
        raise NotSupportedError(str(error)) from error
    finally:
        forget_trained()  # merging changes it
    problem = merge_problem(method, merged.state_dict(), tiny_model(architecture).state_dict())
    assert not problem, problem
    difference = (logits(merged, architecture) - trained_logits).abs().max().item()
    assert difference <= method.merge_tolerance, f"logits differ by {difference:.1e}"


def check_layer_weights(method: Method, architecture: str, folder: Path) -> None:
    """Check that modules in place of layers have the weight of the layer, which T5 reads.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.
        folder: Not used.

    Raises:
        NotSupportedError: The method does not support the architecture, or T5.
        AssertionError: The check failed.
    """
    for name in (architecture, "t5"):
        raise_if_unsupported(method.incompatible_with(run_spec(name)))
    base = tiny_model(architecture)
    layers = weighted_layers(base)
    method.apply(base, context(architecture))
    try:
        check_weights(method, layers, reader="T5")
    except PluginError as error:
        raise AssertionError(str(error)) from error


def check_gradient_checkpointing(method: Method, architecture: str, folder: Path) -> None:
    """Check that gradient checkpointing gives the same loss and gradients.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.
        folder: Not used.

    Raises:
        NotSupportedError: The method does not support this check.
        AssertionError: The check failed.
    """
    raise_if_unsupported(method.incompatible_with(run_spec(architecture, gradient_checkpointing=True)))
    losses, gradients = [], []
    for checkpointing in (False, True):
        torch.manual_seed(7)
        base = tiny_model(architecture)
        if not base.supports_gradient_checkpointing:
            raise NotSupportedError(
                f"{type(base).__name__} does not support gradient checkpointing in the installed transformers"
            )
        if checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert any(getattr(m, "gradient_checkpointing", False) for m in base.modules())
        model = method.apply(base, context(architecture, gradient_checkpointing=checkpointing)).train()
        for step in (1, 2):  # in the first step, one matrix of a low-rank update is zero
            loss = loss_of(method, model, architecture, step)
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for parameter in trained_tensors(model).values() if step == 1 else ():
                    if parameter.grad is not None:
                        parameter.sub_(0.01 * parameter.grad)
                        parameter.grad = None
        losses.append(loss.item())
        gradients.append({name: p.grad for name, p in trained_tensors(model).items() if p.grad is not None})
    assert any(g.any() for g in gradients[0].values()), "there are no gradients to compare"
    assert gradients[0].keys() == gradients[1].keys(), "checkpointing loses gradients"
    torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=1e-6)
    largest = max(g.abs().max().item() for g in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4 * largest, rtol=1e-4)


def check_mixed_precision(method: Method, architecture: str, folder: Path) -> None:
    """Check that the loss under bf16 autocast is within 5 % of the one in fp32, and that no gradient is lost.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.
        folder: Not used.

    Raises:
        NotSupportedError: The method does not support this check.
        AssertionError: The check failed.
    """
    raise_if_unsupported(method.incompatible_with(run_spec(architecture, mixed_precision="bf16")))
    results = []
    for low in (False, True):
        model = apply_method(method, architecture)
        train_on_batch(model, architecture, method=method, steps=1)
        with torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
            loss = loss_of(method, model, architecture, 2)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {n: p.grad for n, p in trained_tensors(model).items() if p.grad is not None}
        assert all(g.isfinite().all() for g in gradients.values()), "gradients that are not finite"
        results.append((loss.item(), {n for n, g in gradients.items() if g.any()}))
    assert abs(results[1][0] - results[0][0]) < 0.05 * abs(results[0][0]), (
        f"the loss is {results[1][0]:.4f} in bf16, and {results[0][0]:.4f} in fp32"
    )
    lost = {name for name in results[0][1] - results[1][1] if not method.may_lack_gradient(name)}
    assert not lost, f"no gradients in bf16: {sorted(lost)}"


def check_mac_counts(method: Method, architecture: str, folder: Path) -> None:
    """Check that the counted MACs of a step equal those of torch's ``FlopCounterMode`` around the real step.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.
        folder: Not used.

    Raises:
        NotSupportedError: The method does not support this check.
        AssertionError: The check failed.
    """
    raise_if_unsupported(method.incompatible_with(run_spec(architecture)))

    wrapped = apply_method(method, architecture)

    def count() -> StepMacs:
        return MacCounter(wrapped, lambda model, rows: loss_of(method, model, architecture, 1, rows)).count(
            batch(architecture)
        )

    macs = count()
    assert macs == count(), "counting twice gives different numbers"
    model = apply_method(method, architecture, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter:
        loss = loss_of(method, model, architecture, 1)
        forward = counter.get_total_flops()
        loss.backward()  # type: ignore[no-untyped-call]
    expected = (forward // 2, (counter.get_total_flops() - forward) // 2)
    assert macs[:2] == expected, f"counted {macs[:2]} MACs forward and backward, but torch counts {expected}"


def raise_if_unsupported(reasons: list[str]) -> None:
    """Raise an error if there are reasons why a method cannot be used.

    Args:
        reasons: The reasons, as from ``Method.incompatible_with``.

    Raises:
        NotSupportedError: There are reasons.
    """
    if reasons:
        raise NotSupportedError("; ".join(reasons))


def check_method(method: Method, architecture: str, folder: Path, reopen: Reopen | None = None) -> None:
    """Check the essentials of a method: it is supported, it trains, and it reloads.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.
        folder: An empty folder.
        reopen: Loads the folder onto a fresh model with the library of ``loaded_by``; by default only ``load`` is
            checked.

    Raises:
        AssertionError: A check failed.
    """
    assert method.incompatible_with(run_spec(architecture)) == []
    check_trains(method, architecture, folder)
    check_reloads(method, architecture, folder, reopen)


METHOD_CHECKS: Mapping[str, Check] = {
    "trains": check_trains,
    "reloads": check_reloads,
    "new_head": check_new_head,
    "generates": check_generates,
    "merges": check_merges,
    "layer_weights": check_layer_weights,
    "checkpointing": check_gradient_checkpointing,
    "mixed_precision": check_mixed_precision,
    "counts": check_mac_counts,
}
"""The checks that run in one process, by name."""
