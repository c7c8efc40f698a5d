"""Checks before training that a model takes what its family passes, and that padding is not read."""

from __future__ import annotations

import logging

import torch
import transformers
from torch import Tensor, nn

from peftkit.components import ModelKind
from peftkit.errors import ModelError, summarize_error
from peftkit.models.decoding.prefix_cache import accepts_argument
from peftkit.models.family import ModelFamily
from peftkit.models.lengths.length_limits import chunk_length, min_length
from peftkit.models.special_tokens import embedding_size
from peftkit.oom import is_oom

log = logging.getLogger(__name__)
IDS = (3, 4, 5, 6, 7, 8)
"""Token ids that have embeddings in every vocabulary."""


def check_forward(
    name: str, kind: ModelKind, model: nn.Module, family: ModelFamily, *, head: bool = False, generates: bool = False
) -> None:
    """Run a model once on what its family passes.

    Args:
        name: the model, as in the recipe.
        kind: its architecture.
        model: the loaded model.
        family: its model family.
        head: whether it has a head for whole texts, and predicts no tokens.
        generates: whether text is generated.

    Raises:
        ModelError: the model needs other arguments, reads padding, or cannot generate text.
    """
    model_class = type(model).__name__
    if generates and not callable(getattr(model, "generate", None)):
        raise ModelError(
            f"the model {name!r} cannot generate text: {model_class} has no generate() in transformers "
            f"{transformers.__version__}; use another version or another model"
        )
    weightless = any(parameter.is_meta or not parameter.numel() for parameter in model.parameters())
    limits = (embedding_size(family.config, "encoder"), family.max_encoder_length, family.max_decoder_length)
    text = _text(family)
    needed = len(text) + len(IDS)
    if weightless or any(limit is not None and limit < needed for limit in limits):
        return
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            first, second = _outputs_with_different_padding(kind, model, family, text, head=head).float()
            again, _ = _outputs_with_different_padding(kind, model, family, text, head=head).float()
            has_context = kind != "encoder" or reads_context(model, text)
    except Exception as error:  # a model's code may raise anything
        elsewhere = torch.cuda.is_available() and next(model.parameters()).device.type == "cpu"
        if is_oom(error) or (elsewhere and not isinstance(error, TypeError)):  # kernels for the GPU fail on a CPU
            log.info("whether %s runs was not checked: %s", name, error)
            return
        raise ModelError(
            f"the model {name!r} cannot be trained as {_article(kind)}: {model_class} fails on token ids and their "
            f"mask ({type(error).__name__}: {summarize_error(error).rstrip('.')}); correct its config.json, or use "
            "another model"
        ) from error
    finally:
        model.train(was_training)
    if not has_context:
        raise ModelError(
            f"the model {name!r} cannot be trained as an encoder: {model_class} reads each token without the others on "
            "this machine, as MRA does where its CUDA kernel cannot be built; use another machine or model"
        )
    rounding = max(1e-5, *(4 * torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point()))
    if (first - again).abs().max() > rounding * first.abs().max():
        raise ModelError(
            f"the model {name!r} cannot be evaluated: {model_class} uses random numbers in evaluation too, as Reformer "
            'does with LSH attention unless "hash_seed" is set in its config.json; use another model'
        )
    if kind != "encoder" and not head and (first - second).abs().max() > rounding * first.abs().max():
        raise ModelError(
            f"the model {name!r} cannot be trained as {_article(kind)}: {model_class} reads padding despite the mask, "
            "so that losses and scores would depend on the other rows of a batch; use another model"
        )


def _article(kind: ModelKind) -> str:
    return f"{'a' if kind == 'decoder' else 'an'} {kind}"


def _text(family: ModelFamily) -> list[int]:
    """Return a text as a source, with special tokens, of as many tokens as the model needs."""
    # Reformer's tokens may read those of the chunk before; farther ones are chosen by random hashes.
    ids = [*IDS] * -(-max(min_length(family.config), 4 * chunk_length(family.config)) // len(IDS))
    return [*family.special_tokens.wrap(ids)]


def reads_context(model: nn.Module, text: list[int]) -> bool:
    """Whether the state of an encoder's first or last token depends on the others; true if that cannot be found out.

    The first one does not where a model reads earlier tokens only. Heads are left out, as new weights may be zero, and
    so are dtypes that round small differences off.

    Args:
        model: the model with its head, in evaluation mode.
        text: token ids of a text.
    """
    encoder, first = getattr(model, "base_model", None), next(model.parameters())
    if not isinstance(encoder, nn.Module) or encoder is model or first.dtype not in (torch.float32, torch.float64):
        return True
    others = [IDS[-1]] * (len(text) - 1)
    ids = torch.tensor([text, [text[0], *others], [*others, text[-1]]], device=first.device)
    masked = accepts_argument(encoder, "attention_mask") or accepts_argument(encoder, "kwargs")
    states = encoder(input_ids=ids, **({"attention_mask": torch.ones_like(ids)} if masked else {}))[0]
    return not (torch.equal(states[0, 0], states[1, 0]) and torch.equal(states[0, -1], states[2, -1]))


def _outputs_with_different_padding(
    kind: ModelKind, model: nn.Module, family: ModelFamily, source: list[int], *, head: bool
) -> Tensor:
    """Return the outputs for a text that is padded with the padding token, and with another one.

    Heads of whole texts read no padding here, since for some models it is not masked; ``padding_check`` finds these.
    """
    whole = head or kind == "encoder"
    text = source if whole else [*IDS]
    padding = [[], []] if whole else [[family.pad_id] * 2, [IDS[0], IDS[-1]]]
    device = next(model.parameters()).device
    ids = torch.tensor([text + each for each in padding], device=device)
    mask = torch.ones_like(ids)
    mask[:, len(text) :] = 0
    inputs = {"input_ids": ids}
    if not whole or accepts_argument(model, "attention_mask") or accepts_argument(model, "kwargs"):
        inputs["attention_mask"] = mask
    if kind == "encoder-decoder" and not head:
        inputs["decoder_input_ids"] = torch.tensor([IDS, IDS], device=device)
    output = model(**inputs, **({} if whole else {"use_cache": False}))
    if whole:
        return next(value for key, value in output.items() if key.endswith("logits"))  # type: ignore[no-any-return]
    logits: Tensor = output.logits[:, : len(IDS)]
    return logits
