"""Pre-trains a pocket model in resumable sessions.

    python scripts/pocket/pretrain.py pocket-t5 --work build/pocket-t5 --minutes 60        # may be repeated
    python scripts/pocket/pretrain.py pocket-t5 --work build/pocket-t5 --decay 3000        # the last session
    python scripts/pocket/pretrain.py pocket-t5 --work build/pocket-t5 --export peftkit/assets/pocket-t5

The learning rate is constant after a warm-up and decays only in the last session (Hu et al., 2024), so that the
length of training need not be known at the start. A GPU is used if there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import wordnet
from build_tasks import OUT
from pretext import Pair, corpus, pairs
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.optimization import Adafactor

WARM_UP, CLIP = 300, 1.0
BATCH_TOKENS = 3072  # padded source and target tokens per step
LONGEST = 64
MASK_RATE = 0.2
SPECIAL = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3}


def build(name: str) -> tuple[PreTrainedModel, str]:
    """Build the untrained model; returns it with the template of its tokenizer."""
    torch.manual_seed(42)
    if name == "pocket-t5":
        t5 = T5Config(
            vocab_size=8192,
            d_model=256,
            d_kv=64,
            d_ff=1024,
            num_heads=4,
            num_layers=3,
            num_decoder_layers=2,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
        return T5ForConditionalGeneration(t5), "ends"
    if name == "pocket-decoder":
        llama = LlamaConfig(
            vocab_size=8192,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            **SPECIAL,
        )
        return LlamaForCausalLM(llama), "bare"
    bert = BertConfig(
        vocab_size=8192,
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        type_vocab_size=2,
        **SPECIAL,
    )
    return BertForMaskedLM(bert), "pair"


def encode(kind: str, tokenizer: PreTrainedTokenizerBase, texts: list[Pair]) -> list[tuple[list[int], list[int]]]:
    """Tokenize (source, target) texts; decoders and encoders get one text and an empty target."""
    if kind == "pocket-t5":
        sources = tokenizer([s for s, _ in texts], truncation=True, max_length=LONGEST)["input_ids"]
        targets = tokenizer([t for _, t in texts], truncation=True, max_length=LONGEST)["input_ids"]
        return list(zip(sources, targets, strict=True))
    end = "</s>" if kind == "pocket-decoder" else ""
    joined = tokenizer([f"{s} {t}{end}" for s, t in texts], truncation=True, max_length=LONGEST)["input_ids"]
    return [(ids, []) for ids in joined]


def batches(encoded: list[tuple[list[int], list[int]]], rng: random.Random) -> Iterator[list[Any]]:
    """Yield batches of similar lengths and about BATCH_TOKENS padded tokens, in random order."""
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i][0]) + len(encoded[i][1]), rng.random()))
    grouped: list[list[Any]] = [[]]
    width = [0, 0]
    for i in order:
        source, target = encoded[i]
        wider = [max(width[0], len(source)), max(width[1], len(target))]
        if grouped[-1] and sum(wider) * (len(grouped[-1]) + 1) > BATCH_TOKENS:
            grouped.append([])
            wider = [len(source), len(target)]
        grouped[-1].append((source, target))
        width = wider
    rng.shuffle(grouped)
    yield from grouped


def pad(rows: list[list[int]], fill: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def loss_of(kind: str, model: PreTrainedModel, batch: list[Any], device: torch.device) -> torch.Tensor:
    """The mean cross-entropy of a batch."""
    ids = pad([s for s, _ in batch], 0).to(device)
    mask = (ids != 0).long()
    if kind == "pocket-t5":
        labels = pad([t for _, t in batch], -100).to(device)
    elif kind == "pocket-decoder":
        labels = ids.masked_fill(ids == 0, -100)
    else:
        chosen = (torch.rand(ids.shape, device=device) < MASK_RATE) & (ids > 4)
        labels = ids.masked_fill(~chosen, -100)
        ids = ids.masked_fill(chosen, 4)
    with torch.autocast(device.type, torch.bfloat16):
        return model(input_ids=ids, attention_mask=mask, labels=labels).loss


def make_optimizer(name: str, model: PreTrainedModel) -> torch.optim.Optimizer:
    """Create the optimizer with its peak learning rate.

    T5 initializes embeddings with a standard deviation of 1 and queries near 0.01, so steps must be relative to the
    weights: with AdamW at a common rate, attention logits would explode.
    """
    if name == "pocket-t5":
        return Adafactor(model.parameters(), lr=1e-2, scale_parameter=True, relative_step=False, warmup_init=False)
    return torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)


def save(work: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer, state: dict[str, int]) -> None:
    """Write the checkpoint atomically."""
    tensors = {f"model.{k}": v for k, v in model.named_parameters()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in values.items() if v is not None}
    temporary = work / "checkpoint.tmp"
    metadata = {k: str(v) for k, v in state.items()}
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata)
    os.replace(temporary, work / "checkpoint.safetensors")
    (work / "state.json").write_text(json.dumps(state))


def restore(work: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Load the last checkpoint, if there is one; returns the position in training."""
    if not (work / "state.json").exists():
        return {"step": 0, "epoch": 0, "batch": 0}
    tensors = load_file(work / "checkpoint.safetensors")
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{key}"])
    optimizer_state = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, field = key.split(".")
            optimizer_state["state"].setdefault(int(index), {})[field] = value
    optimizer.load_state_dict(optimizer_state)
    return json.loads((work / "state.json").read_text())  # type: ignore[no-any-return]


def train(options: argparse.Namespace, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Train for ``--minutes``, or for the ``--decay`` steps of the last session."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    optimizer = make_optimizer(options.model, model)
    peak = optimizer.param_groups[0]["lr"]
    state = restore(options.work, model, optimizer)
    synsets = corpus(options.wordnet, options.tasks)
    known = wordnet.read(options.wordnet)
    first, started, saved, running, seen = state["step"], time.monotonic(), time.monotonic(), 0.0, 0
    while True:
        rng = random.Random(state["epoch"])
        encoded = encode(options.model, tokenizer, pairs(synsets, known, rng))
        for number, batch in enumerate(batches(encoded, rng)):
            if number < state["batch"]:
                continue
            rate = peak * min(1.0, (state["step"] + 1) / WARM_UP)
            if options.decay:
                rate *= max(0.0, 1 - (state["step"] - first) / options.decay)
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(state["step"])
            loss = loss_of(options.model, model, batch, device)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
            state["step"] += 1
            state["batch"] = number + 1
            running, seen = running + loss.item(), seen + 1
            over = time.monotonic() - started > options.minutes * 60
            done = state["step"] - first >= options.decay if options.decay else over
            if state["step"] % 200 == 0:
                print(
                    f"{state} loss {running / seen:.4f} rate {rate:.2e} {time.monotonic() - started:.0f}s", flush=True
                )
                running, seen = 0.0, 0
            if done or time.monotonic() - saved > 120:
                save(options.work, model, optimizer, state)
                saved = time.monotonic()
            if done:
                return
        state["epoch"], state["batch"] = state["epoch"] + 1, 0


def export(options: argparse.Namespace, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save the model for transformers, in float16."""
    restore(options.work, model, make_optimizer(options.model, model))
    model.half().save_pretrained(options.export)
    tokenizer.save_pretrained(options.export)
    # Keys that transformers 4 and 5 both read; tokenizer.json already marks the sentinels as special.
    path = options.export / "tokenizer_config.json"
    config = json.loads(path.read_text())
    kept = {k: v for k, v in config.items() if k.endswith("_token") or k in ("model_max_length", "model_input_names")}
    kept |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
    for file in options.export.iterdir():
        file.chmod(0o644)


def main() -> None:
    """Run one session of training, or the export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["pocket-t5", "pocket-decoder", "pocket-encoder"])
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--tokenizer", type=Path, default=Path("build/tokenizer"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--decay", type=int, default=0, help="steps over which the learning rate decays to zero")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--export", type=Path)
    parser.add_argument("--wordnet", type=Path, default=wordnet.DEFAULT_FOLDER)
    parser.add_argument("--tasks", type=Path, default=OUT)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    model, form = build(options.model)
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer / form)
    if options.export:
        export(options, model, tokenizer)
    else:
        print(f"{options.model}: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
        train(options, model, tokenizer)


if __name__ == "__main__":
    main()
