"""What must hold for every method on every architecture: a check raises where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from peftkit.components import Method
from peftkit.errors import InputError
from peftkit.head import head_tensors, train_head
from peftkit.model_names import check_names
from peftkit.runner.ledger import Ledger, Work
from peftkit.testing.tiny import STEPS, batch, context, head_parameters, kind_of, situation, tiny

Check = Callable[[Method, str, Path], None]
"""Takes a method with its options, the name of an architecture, and an empty folder."""


Reopen = Callable[[nn.Module, Path], nn.Module]


class RefusedError(Exception):
    """The method itself says that it cannot be used so; the text is its reason."""


def trains(method: Method, architecture: str, folder: Path) -> None:
    """Checks that the loss falls, that trained parameters get gradients, and that frozen tensors do not change.

    Args:
        method: The method with its options.
        architecture: The architecture, a key of a family in ``peftkit.testing.tiny.FAMILIES``.
        folder: Not used.

    Raises:
        RefusedError: The method does not support this.
        AssertionError: The check failed.
    """
    refused(method.refuses(situation(architecture)))
    model = applied(method, architecture)
    parameters = trained(model)
    assert sum(p.numel() for p in parameters.values()) > 0, "it trains nothing"
    still = {n: t.detach().clone() for n, t in tensors(model).items() if n not in parameters}
    losses, silent = learn(model, architecture, method=method)
    assert losses[-1] < losses[0], f"the loss went from {losses[0]:.4f} to {losses[-1]:.4f} in {STEPS} steps"
    undeclared = [name for name in silent if not method.may_be_silent(name)]
    assert not undeclared, f"no gradient by the second step: {undeclared}"
    now = tensors(model)
    moved = [n for n, before in still.items() if not torch.equal(before, now[n]) and not method.may_move(n)]
    assert not moved, f"frozen, and yet it moved: {moved}"
    assert set(trained(model)) == set(parameters), "other parameters learn after training than before"


def reloads(method: Method, architecture: str, folder: Path, reopen: Reopen | None = None) -> None:
    """Checks that a fresh model with the saved weights gives the same logits, and that only safetensors are saved.

    Args:
        method: The method with its options.
        architecture: The architecture, a key of a family in ``peftkit.testing.tiny.FAMILIES``.
        folder: An empty folder.
        reopen: Loads the folder onto a fresh model with the method's own library; unset, only ``load`` is checked.

    Raises:
        RefusedError: The method does not support this.
        AssertionError: The check failed.
    """
    refused(method.refuses(situation(architecture)))
    model = applied(method, architecture)
    learn(model, architecture, method=method)
    folder.mkdir(exist_ok=True)
    method.save(model, folder)
    weights = {f.suffix for f in folder.iterdir() if f.suffix not in (".json", ".md")}
    assert weights == {".safetensors"}, f"files of these kinds were saved: {sorted(weights)}"
    stored = [load_file(file) for file in folder.glob("*.safetensors")]
    written = sum(tensor.numel() * tensor.element_size() for tensors in stored for tensor in tensors.values())
    foretold = method.saved_bytes(model)
    assert foretold == written, f"saved_bytes says {foretold:,}, and save writes {written:,}"
    learnt = logits(model, architecture)
    fresh = applied(method, architecture)
    kept = trained(fresh)
    assert not torch.allclose(logits(fresh, architecture), learnt, atol=1e-4), "training has changed nothing"
    method.load(fresh, folder)
    torch.testing.assert_close(logits(fresh, architecture), learnt, atol=1e-6, rtol=1e-6)
    # An optimizer holds the parameters themselves, and a resumed run must go on as the first would have.
    assert all(kept[name] is parameter for name, parameter in trained(fresh).items()), "load made new parameters"
    if reopen is not None:
        opened = reopen(tiny(architecture), folder)
        torch.testing.assert_close(logits(opened, architecture), learnt, atol=1e-6, rtol=1e-6)


def new_head(method: Method, architecture: str, folder: Path, reopen: Reopen | None = None) -> None:
    """Checks that an encoder's new classification head is trained, saved, and loaded over another head.

    Args:
        method: The method with its options.
        architecture: The architecture, a key of a family in ``peftkit.testing.tiny.FAMILIES``.
        folder: An empty folder.
        reopen: Loads the folder onto a fresh model with the method's own library; unset, only ``load`` is checked.

    Raises:
        RefusedError: The method does not support this.
        AssertionError: The check failed.
    """
    refused(method.refuses(situation(architecture)))
    names = head_parameters(architecture)
    if not names:
        raise RefusedError("only an encoder has a new classification head")
    model = applied(method, architecture)
    head = {name: (p, p.detach().clone()) for name, p in head_tensors(model, names).items()}
    frozen = [name for name, (parameter, _) in head.items() if not parameter.requires_grad]
    assert not frozen, f"parameters of the new head are frozen: {frozen}"
    learn(model, architecture, method=method)
    still = [name for name, (parameter, before) in head.items() if torch.equal(parameter, before)]
    assert not still, f"parameters of the new head do not move: {still}"
    learnt = logits(model, architecture)
    folder.mkdir(exist_ok=True)
    method.save(model, folder)
    for seed in (1, 2):
        fresh = tiny(architecture, head_seed=seed)
        opened = method.open(fresh, folder, context(architecture)) if reopen is None else reopen(fresh, folder)
        torch.testing.assert_close(logits(opened, architecture), learnt, atol=1e-6, rtol=1e-6)


def generates(method: Method, architecture: str, folder: Path) -> None:
    """Checks that greedy search, with and without a cache, chooses the tokens with the highest logits.

    Args:
        method: The method with its options.
        architecture: The architecture, a key of a family in ``peftkit.testing.tiny.FAMILIES``.
        folder: Not used.

    Raises:
        RefusedError: The method does not support this.
        AssertionError: The check failed.
    """
    if kind_of(architecture) == "encoder":
        raise RefusedError("an encoder does not generate")
    refused(method.refuses(situation(architecture)))
    model = applied(method, architecture)
    learn(model, architecture, method=method, steps=2)
    for cached in (True, False):
        generates_what_it_scores(model, architecture, cached=cached)


def merges(method: Method, architecture: str, folder: Path) -> None:
    """Checks that the merged model gives the same logits within ``merge_tolerance`` and has the base model's tensors.

    Args:
        method: The method with its options.
        architecture: The architecture, a key of a family in ``peftkit.testing.tiny.FAMILIES``.
        folder: Not used.

    Raises:
        RefusedError: The method does not support this.
        AssertionError: The check failed.
    """
    refused(method.refuses(situation(architecture)))
    model = applied(method, architecture)
    learn(model, architecture, method=method)
    learnt = logits(model, architecture)
    try:
        merged = method.merge(model)
    except InputError as error:
        raise RefusedError(str(error)) from error
    own, base = set(merged.state_dict()), set(tiny(architecture).state_dict())
    assert own == base, f"not the weights of the base model alone: {sorted(own ^ base)[:5]}"
    difference = (logits(merged, architecture) - learnt).abs().max().item()
    assert difference <= method.merge_tolerance, f"logits differ by {difference:.1e}"


def checkpointing(method: Method, architecture: str, folder: Path) -> None:
    """Checks that gradient checkpointing gives the same loss and gradients.

    Args:
        method: The method with its options.
        architecture: The architecture, a key of a family in ``peftkit.testing.tiny.FAMILIES``.
        folder: Not used.

    Raises:
        RefusedError: The method does not support this.
        AssertionError: The check failed.
    """
    refused(method.refuses(situation(architecture, gradient_checkpointing=True)))
    losses, gradients = [], []
    for recomputed in (False, True):
        torch.manual_seed(7)
        base = tiny(architecture)
        if not base.supports_gradient_checkpointing:
            raise RefusedError(f"{type(base).__name__} does not support it in the installed transformers")
        if recomputed:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert any(getattr(m, "gradient_checkpointing", False) for m in base.modules())
        model = method.apply(base, context(architecture, gradient_checkpointing=recomputed)).train()
        for step in (1, 2):  # at the first, one side of a low-rank update is zero
            loss = loss_of(method, model, architecture, step)
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for parameter in trained(model).values() if step == 1 else ():
                    if parameter.grad is not None:
                        parameter.sub_(0.01 * parameter.grad)
                        parameter.grad = None
        losses.append(loss.item())
        gradients.append({name: p.grad for name, p in trained(model).items() if p.grad is not None})
    assert any(g.any() for g in gradients[0].values()), "there are no gradients to compare"
    assert gradients[0].keys() == gradients[1].keys(), "checkpointing loses gradients"
    torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=1e-6)
    largest = max(g.abs().max().item() for g in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4 * largest, rtol=1e-4)


def mixed_precision(method: Method, architecture: str, folder: Path) -> None:
    """Checks that the loss under bf16 autocast is within 5 % of the one in fp32, and that no gradient is lost.

    Args:
        method: The method with its options.
        architecture: The architecture, a key of a family in ``peftkit.testing.tiny.FAMILIES``.
        folder: Not used.

    Raises:
        RefusedError: The method does not support this.
        AssertionError: The check failed.
    """
    refused(method.refuses(situation(architecture, mixed_precision="bf16")))
    found = []
    for low in (False, True):
        model = applied(method, architecture)
        learn(model, architecture, method=method, steps=1)
        with torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
            loss = loss_of(method, model, architecture, 2)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {n: p.grad for n, p in trained(model).items() if p.grad is not None}
        assert all(g.isfinite().all() for g in gradients.values()), "gradients that are no numbers"
        found.append((loss.item(), {n for n, g in gradients.items() if g.any()}))
    assert abs(found[1][0] - found[0][0]) < 0.05 * abs(found[0][0]), f"loss {found[1][0]:.4f} for {found[0][0]:.4f}"
    lost = {name for name in found[0][1] - found[1][1] if not method.may_be_silent(name)}
    assert not lost, f"gradients are lost: {sorted(lost)}"


def counts(method: Method, architecture: str, folder: Path) -> None:
    """Checks that the counted MACs of a step equal those of torch's ``FlopCounterMode`` around the real step.

    Args:
        method: The method with its options.
        architecture: The architecture, a key of a family in ``peftkit.testing.tiny.FAMILIES``.
        folder: Not used.

    Raises:
        RefusedError: The method does not support this.
        AssertionError: The check failed.
    """
    refused(method.refuses(situation(architecture)))

    def counted() -> Work:
        made = applied(method, architecture)
        return Ledger(made, lambda model, rows: loss_of(method, model, architecture, 1, rows)).work(batch(architecture))

    work = counted()
    assert work == counted(), "another count of the same gives another number"
    real = applied(method, architecture, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter:
        loss = loss_of(method, real, architecture, 1)
        forward = counter.get_total_flops()
        loss.backward()  # type: ignore[no-untyped-call]
    found = (forward // 2, (counter.get_total_flops() - forward) // 2)
    assert work[:2] == found, f"{work[:2]} MACs forward and backward were counted, and {found} are computed"


def refused(reasons: list[str]) -> None:
    """Raises the reasons why a method cannot be used.

    Args:
        reasons: The reasons, as from ``Method.refuses``.

    Raises:
        RefusedError: There is a reason.
    """
    if reasons:
        raise RefusedError("; ".join(reasons))


def applied(method: Method, architecture: str, seed: int = 7, **changes: Any) -> nn.Module:
    """Applies a method to a tiny model.

    Args:
        method: The method with its options.
        architecture: The architecture, a key of a family in ``peftkit.testing.tiny.FAMILIES``.
        seed: Seed of the method's new weights.
        **changes: Changes to the model's config.

    Returns:
        The model to train.
    """
    torch.manual_seed(seed)
    base = tiny(architecture, **changes)
    check_names(method, base)
    model = method.apply(base, context(architecture, seed))
    train_head(model, head_parameters(architecture))
    return model


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the trainable parameters.

    Args:
        model: The model that a method was applied to.

    Returns:
        The parameters by name.
    """
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns all parameters and buffers.

    Args:
        model: Any model.

    Returns:
        The tensors by name.
    """
    return dict(model.named_parameters()) | dict(model.named_buffers())


def logits(model: nn.Module, architecture: str) -> Tensor:
    """Computes the logits of the tiny batch in evaluation mode.

    Args:
        model: The model.
        architecture: Its architecture.

    Returns:
        Logits of shape (batch, length, vocabulary), or (batch, labels) for an encoder.
    """
    with torch.no_grad():
        return _output(model.eval(), architecture, batch(architecture))


def loss_of(
    method: Method, model: nn.Module, architecture: str, step: int, rows: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Computes the loss of a batch as in training: the mean cross-entropy and the method's auxiliary loss.

    Args:
        method: The method.
        model: The model that it was applied to.
        architecture: The model's architecture.
        step: The number of the step, which seeds dropout.
        rows: The batch, with ``input_ids`` and ``attention_mask`` of shape (batch, length) and ``labels`` of
            shape (batch, target length), or (batch,) for an encoder; the tiny batch by default.

    Returns:
        A scalar.
    """
    rows = batch(architecture) if rows is None else rows
    torch.manual_seed(step)
    found, labels = _output(model, architecture, rows), rows["labels"]
    if kind_of(architecture) == "decoder":
        found, labels = found[:, :-1], labels[:, 1:]
    loss = cross_entropy(found.float().flatten(0, -2), labels.flatten())
    own = method.penalty(model, rows)
    return loss if own is None else loss + own


def _output(model: nn.Module, architecture: str, rows: Mapping[str, Tensor]) -> Tensor:
    """The logits, of the text's own positions, by the arguments that the runner gives."""
    inputs = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}
    kind, labels = kind_of(architecture), rows["labels"]
    if kind == "encoder-decoder":
        start = torch.full_like(labels[:, :1], cast(Any, model).config.decoder_start_token_id)
        inputs["decoder_input_ids"] = torch.cat([start, labels[:, :-1]], 1)
    found: Tensor = model(**inputs, **({} if kind == "encoder" else {"use_cache": False})).logits
    return found[:, -labels.shape[1] :] if kind == "decoder" else found


def learn(
    model: nn.Module, architecture: str, steps: int = STEPS, method: Method | None = None
) -> tuple[list[float], list[str]]:
    """Trains on the tiny batch with Adam.

    Args:
        model: The model.
        architecture: Its architecture.
        steps: The number of optimizer steps.
        method: The method that was applied to it, if any.

    Returns:
        The loss of each step, and the names of trained parameters without a gradient in the second step.
    """
    method = method or Method.model_construct(name="none")
    parameters = trained(model)
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-2)
    losses, silent = [], []
    model.train()
    for step in range(1, steps + 1):
        loss = loss_of(method, model, architecture, step)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        if step == 2:
            silent = [name for name, p in parameters.items() if p.grad is None or not p.grad.any()]
        method.after_backward(model, step)
        optimizer.step()
        method.after_step(model, step)
        optimizer.zero_grad()
    return losses, silent


def generates_what_it_scores(model: Any, architecture: str, tokens: int = 6, *, cached: bool = True) -> None:
    """Checks that the logits of greedy search equal those of one forward pass over the finished text.

    Args:
        model: A model that generates.
        architecture: Its architecture.
        tokens: The number of tokens to generate.
        cached: Whether to generate with a key-value cache.

    Raises:
        AssertionError: They differ.
    """
    model.eval()
    rows = batch(architecture)
    source, mask = rows["input_ids"], rows["attention_mask"]
    with torch.no_grad(), _no_end(model):
        settings = {} if cached else {"use_cache": False}
        found = model.generate(
            input_ids=source,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **settings,
        )
        text = found.sequences
        if kind_of(architecture) == "decoder":
            mask = torch.cat([mask, torch.ones(len(mask), tokens, dtype=mask.dtype)], 1)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            inputs = {"input_ids": text, "attention_mask": mask, "position_ids": positions}
            scored = model(**inputs, use_cache=False).logits[:, -tokens - 1 : -1]
        else:
            scored = model(input_ids=source, attention_mask=mask, decoder_input_ids=text, use_cache=False).logits
            scored = scored[:, :-1]
    assert scored.shape[1] == tokens
    torch.testing.assert_close(torch.stack(found.logits, 1), scored, atol=1e-5, rtol=1e-5)
    assert torch.equal(text[:, -tokens:], scored.argmax(-1)), "generation chooses other tokens than scoring"


@contextmanager
def _no_end(model: Any) -> Iterator[None]:
    """Lets every row generate to the end: after an end token a row is only padded."""
    settings = model.generation_config
    end, settings.eos_token_id = settings.eos_token_id, None
    try:
        yield
    finally:
        settings.eos_token_id = end


def check_method(method: Method, architecture: str, folder: Path, reopen: Reopen | None = None) -> None:
    """Checks the essentials of a method: it is not refused, it trains, and it reloads.

    Args:
        method: The method with its options.
        architecture: The architecture, a key of a family in ``peftkit.testing.tiny.FAMILIES``.
        folder: An empty folder.
        reopen: Loads the folder onto a fresh model with the method's own library; unset, only ``load`` is checked.

    Raises:
        AssertionError: A check failed.
    """
    assert method.refuses(situation(architecture)) == []
    trains(method, architecture, folder)
    reloads(method, architecture, folder, reopen)


CHECKS: Mapping[str, Check] = {
    check.__name__: check
    for check in (trains, reloads, new_head, generates, merges, checkpointing, mixed_precision, counts)
}
"""The checks of one process, by name."""
