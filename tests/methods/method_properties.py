"""What must hold for every method on every kind of model, and the tiny models to see it on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn

from peftkit import Context, Method, Situation
from peftkit.components import ModelKind

VOCABULARY = 64
_SPECIAL = {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
_BERT = _SPECIAL | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 64,
    "num_labels": 3,
}
_LLAMA = _SPECIAL | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
_T5 = _SPECIAL | {
    "d_model": 32,
    "d_kv": 8,
    "num_heads": 4,
    "d_ff": 64,
    "num_layers": 2,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
_BART = _SPECIAL | {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "dropout": 0.0,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    "max_position_embeddings": 64,
}
_GPT2 = _SPECIAL | {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
_DISTILBERT = _SPECIAL | {
    "dim": 32,
    "hidden_dim": 64,
    "n_layers": 2,
    "n_heads": 4,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "seq_classif_dropout": 0.0,
    "max_position_embeddings": 64,
    "num_labels": 3,
}
FAMILIES: dict[ModelKind, dict[str, dict[str, Any]]] = {
    "encoder-decoder": {"t5": _T5, "mt5": _T5, "bart": _BART},
    "decoder": {"gpt2": _GPT2, **dict.fromkeys(("llama", "qwen2", "gemma2", "phi"), _LLAMA)},
    "encoder": {
        "distilbert": _DISTILBERT,
        **dict.fromkeys(("bert", "deberta", "deberta-v2", "electra", "ernie", "roberta", "xlm-roberta"), _BERT),
    },
}
_AUTO = {
    "encoder-decoder": tf.AutoModelForSeq2SeqLM,
    "decoder": tf.AutoModelForCausalLM,
    "encoder": tf.AutoModelForSequenceClassification,
}


def kind_of(architecture: str) -> ModelKind:
    return next(kind for kind, family in FAMILIES.items() if architecture in family)


def tiny(architecture: str, **changes: Any) -> tf.PreTrainedModel:
    """A random model, in training mode; two of the same description have the same weights."""
    kind = kind_of(architecture)
    config = tf.AutoConfig.for_model(architecture, **(FAMILIES[kind][architecture] | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _AUTO[kind].from_config(config).train()


def context(architecture: str, seed: int = 7) -> Context:
    return Context(model_kind=kind_of(architecture), task_kind="classification", seed=seed, steps=None)


def situation(architecture: str, gradient_checkpointing: bool = False) -> Situation:
    return Situation(
        model_kind=kind_of(architecture),
        task_kind="classification",
        gradient_checkpointing=gradient_checkpointing,
        mixed_precision="no",
        config=tiny(architecture).config.to_dict(),
    )


def batch(architecture: str) -> dict[str, Tensor]:
    """Four rows of different lengths, with labels: padded on the right, but for a decoder on the left."""
    generator = torch.Generator().manual_seed(1)
    kind = kind_of(architecture)
    ids = torch.randint(3, VOCABULARY, (4, 8), generator=generator)
    mask = torch.ones_like(ids)
    for row, pad in ((1, 3), (2, 1)):
        mask[row, slice(0, pad) if kind == "decoder" else slice(8 - pad, 8)] = 0
    ids = ids * mask
    found = {"input_ids": ids, "attention_mask": mask}
    if kind == "encoder":
        return found | {"labels": torch.tensor([0, 1, 2, 1])}
    if kind == "decoder":
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        return found | {"position_ids": positions, "labels": ids.masked_fill(mask == 0, -100)}
    return found | {"labels": torch.randint(3, VOCABULARY, (4, 5), generator=generator)}


def applied(method: Method, architecture: str, seed: int = 7, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    return method.apply(tiny(architecture, **changes), context(architecture, seed))


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def logits(model: nn.Module, architecture: str) -> Tensor:
    with torch.no_grad():
        return model.eval()(**batch(architecture)).logits


def learn(model: nn.Module, architecture: str, steps: int = 8) -> tuple[list[float], list[str]]:
    """Trains on one batch; returns the losses and the parameters that still have no gradient at the second step."""
    parameters = trained(model)
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-2)
    losses, silent = [], []
    model.train()
    for step in range(steps):
        loss = model(**batch(architecture)).loss
        loss.backward()
        losses.append(loss.item())
        if step == 1:  # at the first, one side of a low-rank update is zero, and so is the other's gradient
            silent = [name for name, p in parameters.items() if p.grad is None or not p.grad.any()]
        optimizer.step()
        optimizer.zero_grad()
    return losses, silent


def check_method(
    method: Method, architecture: str, folder: Path, reopen: Callable[[nn.Module, Path], nn.Module]
) -> None:
    """Trains what it should and nothing else, and what is saved is all that was learnt.

    Args:
        method: the method, with its options.
        architecture: the model it is applied to.
        folder: where to save.
        reopen: what the method's library itself does to put a saved folder onto a fresh model.
    """
    assert method.refuses(situation(architecture)) == []
    model = applied(method, architecture)
    parameters = trained(model)
    assert sum(p.numel() for p in parameters.values()) > 0
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    buffers = {n: b.clone() for n, b in model.named_buffers()}

    losses, silent = learn(model, architecture)
    assert losses[-1] < losses[0]
    assert silent == []
    now = dict(model.named_parameters()) | dict(model.named_buffers())
    assert [n for n, before in (frozen | buffers).items() if not torch.equal(before, now[n])] == []
    assert set(trained(model)) == set(parameters)

    folder.mkdir(exist_ok=True)
    method.save(model, folder)
    weights = [f.suffix for f in folder.iterdir() if f.suffix not in (".json", ".md")]
    assert weights
    assert set(weights) == {".safetensors"}

    learnt = logits(model, architecture)
    resumed = applied(method, architecture)
    kept = trained(resumed)
    assert not torch.allclose(logits(resumed, architecture), learnt, atol=1e-4)
    method.load(resumed, folder)
    torch.testing.assert_close(logits(resumed, architecture), learnt, atol=1e-6, rtol=0)
    # An optimizer holds the parameters themselves, and a resumed run must go on as the first would have.
    assert all(kept[name] is parameter for name, parameter in trained(resumed).items())
    assert all(torch.equal(parameter, parameters[name]) for name, parameter in kept.items())
    assert kept.keys() == parameters.keys()

    opened = reopen(tiny(architecture), folder)
    torch.testing.assert_close(logits(opened, architecture), learnt, atol=1e-6, rtol=0)


def check_checkpointing(method: Method, architecture: str) -> None:
    """Recomputed activations give the gradients that kept ones give."""
    assert method.refuses(situation(architecture, gradient_checkpointing=True)) == []
    gradients = []
    for checkpointing in (False, True):
        model = applied(method, architecture).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
        model(**batch(architecture)).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in trained(model).items()})
    assert any(g.any() for g in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)


def check_generation(model: nn.Module, architecture: str, tokens: int = 6) -> None:
    """Greedy search finds, token by token, what the model itself holds to be likeliest when it is fed the same."""
    model.eval()
    row = batch(architecture)
    source, mask = row["input_ids"], row["attention_mask"]
    with torch.no_grad(), _no_end(model):
        found = model.generate(
            input_ids=source,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        text = found.sequences
        if kind_of(architecture) == "decoder":
            mask = torch.cat([mask, torch.ones(len(mask), tokens, dtype=mask.dtype)], 1)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            scored = model(input_ids=text, attention_mask=mask, position_ids=positions).logits[:, -tokens - 1 : -1]
        else:
            scored = model(input_ids=source, attention_mask=mask, decoder_input_ids=text).logits[:, :-1]
    assert scored.shape[1] == tokens
    torch.testing.assert_close(torch.stack(found.logits, 1), scored, atol=1e-5, rtol=1e-5)
    assert torch.equal(text[:, -tokens:], scored.argmax(-1))


@contextmanager
def _no_end(model: nn.Module) -> Iterator[None]:
    """Lets every row generate to the end: after an end token a row is only padded."""
    settings = model.generation_config
    end, settings.eos_token_id = settings.eos_token_id, None
    try:
        yield
    finally:
        settings.eos_token_id = end
