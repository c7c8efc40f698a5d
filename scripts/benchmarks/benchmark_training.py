"""Compares the speed of training with that of transformers' `Trainer` with batches grouped by length.

    python scripts/benchmarks/benchmark_training.py [--model NAME …] [--method NAME …] [--lengths NAME …] [--pairs N]

Both train the same random model with the same method, optimizer and batch size on the same tokens, for one epoch and on
one thread. They take turns in one process, so that a ratio compares neighbours in time. The interval is a bootstrap
over pairs.
"""

from __future__ import annotations

import argparse
import inspect
import json
import platform
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from peftkit.analysis.dry_run import apply_recipe_method, dry_run
from peftkit.components.inputs import IGNORE_INDEX
from peftkit.data.tokenize import tokenize_rows
from peftkit.models.load import init_random_base
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.plugins import Registry, load_registry
from peftkit.recipe import Recipe, load_recipe
from peftkit.recipe.resolve import model_path

BATCH = 8
LABELS = ("yes", "no", "maybe")
SPECIAL = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3}
LLAMA = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": (
        "pocket-t5",
        {
            "model_type": "t5",
            "d_model": 256,
            "d_ff": 1024,
            "d_kv": 64,
            "num_heads": 4,
            "num_layers": 4,
            "vocab_size": 32_000,
        },
    ),
    "bert": (
        "pocket-encoder",
        {"model_type": "bert", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6},
    ),
    "decoder-32k": ("pocket-decoder", {"model_type": "qwen3", "vocab_size": 32_000, **LLAMA}),
    "decoder-152k": ("pocket-decoder", {"model_type": "qwen3", "vocab_size": 151_936, **LLAMA}),
}
"""By name, the built-in model whose tokenizer is used, and the config."""
LENGTHS = {"short": (12, 12, 4), "even": (60, 60, 60), "long-tailed": (10, 200, 8)}
"""By name, the smallest and largest number of words of a source, and that of a target; most sources are short."""
METHODS = {"lora": {"r": 8}, "full": {}, "prefix_tuning": {"num_virtual_tokens": 8}}


@dataclass(frozen=True)
class Cell:
    """One comparison."""

    model: str
    method: str
    lengths: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_cell_arguments(parser)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=6, help="steps of an epoch")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries("error")
    versions = f"torch {torch.__version__}, transformers {tf.__version__}, {platform.processor() or platform.machine()}"
    print(f"{versions}, one thread, batches of {BATCH}, {arguments.pairs} pairs of {arguments.steps} steps\n")
    print("| model | method | lengths | peftkit s/step | Trainer s/step | Trainer / peftkit | 95 % interval |")
    print("|---|---|---|---|---|---|---|")
    ratios = []
    for cell in (Cell(*names) for names in product(arguments.model, arguments.method, arguments.lengths)):
        with tempfile.TemporaryDirectory() as folder:
            pairs = measure(cell, Path(folder), arguments.pairs, arguments.steps)
        peftkit_seconds, trainer_seconds = np.median(pairs, axis=0) / arguments.steps
        logs = np.log(pairs[:, 1] / pairs[:, 0])
        low, high = bootstrap(logs)
        ratios.append(float(np.median(logs)))
        columns = (
            *(cell.model, cell.method, cell.lengths, f"{peftkit_seconds:.3f}", f"{trainer_seconds:.3f}"),
            *(f"{np.exp(ratios[-1]):.2f}", f"{np.exp(low):.2f} to {np.exp(high):.2f}"),
        )
        print(f"| {' | '.join(columns)} |", flush=True)
    print(f"\ngeometric mean: {np.exp(np.mean(ratios)):.2f}")


def add_cell_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose cells."""
    for name, choices in (("model", MODELS), ("method", METHODS), ("lengths", LENGTHS)):
        parser.add_argument(f"--{name}", nargs="+", choices=choices, default=list(choices))


def bootstrap(values: np.ndarray, draws: int = 2_000) -> tuple[float, float]:
    """The 95 % interval of the median."""
    medians = np.median(np.random.default_rng(0).choice(values, (draws, len(values))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def measure(cell: Cell, folder: Path, pairs: int, steps: int) -> np.ndarray:
    """Return the seconds of both in each pair, of shape (pairs, 2), after one that does not count."""
    registry = load_registry()
    recipe = make_recipe(cell, folder, steps, registry)
    base = init_random_base(recipe, "cpu")
    rows = recipe.task.load()["train"]
    tokenized = tokenize_rows(base.objective, "train", rows, range(len(rows)), training=True).rows
    features = [feature(base.kind, row) for row in tokenized]
    seconds = [
        (train_with_peftkit(recipe, registry, steps), train_with_trainer(recipe, features, steps, folder))
        for _ in range(pairs + 1)
    ]
    return np.array(seconds[1:])


def make_recipe(cell: Cell, folder: Path, steps: int, registry: Registry) -> Recipe:
    """Write a model without weights and rows of random words, and return the recipe that trains on them."""
    built_in, config = MODELS[cell.model]
    tokenizer = tf.AutoTokenizer.from_pretrained(model_path(built_in))
    original = json.loads((Path(model_path(built_in)) / "config.json").read_text(encoding="utf-8"))
    extra = {"vocab_size": len(tokenizer), "decoder_start_token_id": 0} if cell.model == "t5" else {}
    built: Any = tf.AutoConfig.for_model(**{"vocab_size": len(tokenizer), **SPECIAL, **extra, **config})
    architecture = original["architectures"][0] if cell.model in ("t5", "bert") else "Qwen3ForCausalLM"
    getattr(tf, architecture)(built).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    words = [word for word in tokenizer.get_vocab() if word.strip("▁Ġ").isalpha() and len(word) > 3][:1_000]
    rng = random.Random(0)
    shortest, longest, target = LENGTHS[cell.lengths]

    def text(number: int) -> str:
        return " ".join(rng.choice(words).strip("▁Ġ") for _ in range(number))

    lines = []
    for _ in range(steps * BATCH):
        source = text(min(longest, shortest + int(rng.expovariate(3 / max(1, longest - shortest)))))
        answer = rng.choice(LABELS) if cell.model == "bert" else text(target)
        lines.append(json.dumps({"source": source, "target": answer}))
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    task = 'name = "text_generation"\nprompt = "{source}"'
    if cell.model == "bert":
        task = 'name = "text_classification"\ntext_column = "source"\nlabel_column = "target"\nprompt = "{text}"'
    path, recipe = (folder / "rows.jsonl").as_posix(), folder / "recipe.toml"
    recipe.write_text(
        f"""
        [model]
        name = "{(folder / "model").as_posix()}"
        [task]
        {task}
        path = {{ train = "{path}", dev = "{path}", test = "{path}" }}
        [method]
        name = "{cell.method}"
        {chr(10).join(f"{key} = {value}" for key, value in METHODS[cell.method].items())}
        [train]
        batch_size = {BATCH}
        optimizer = "AdamW"
        [train.budget]
        steps = {steps}
        """,
        encoding="utf-8",
    )
    return load_recipe(recipe, registry)


def feature(kind: str, row: Any) -> dict[str, Any]:
    """A row as `Trainer` takes it."""
    if kind == "encoder":
        return {"input_ids": row["source"], "labels": row["answer"]}
    target = row["candidates"][row["answer"]]
    if kind == "decoder":
        ids = row["source"] + target
        return {"input_ids": ids, "labels": [IGNORE_INDEX] * len(row["source"]) + target}
    return {"input_ids": row["source"], "labels": target}


def collate(features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad features to the longest of each key."""

    def padded(key: str, value: int) -> torch.Tensor:
        return pad_sequence([torch.tensor(f[key]) for f in features], batch_first=True, padding_value=value)

    ids = padded("input_ids", 0)
    mask = pad_sequence([torch.ones(len(f["input_ids"]), dtype=torch.long) for f in features], batch_first=True)
    is_class = isinstance(features[0]["labels"], int)
    labels = torch.tensor([f["labels"] for f in features]) if is_class else padded("labels", IGNORE_INDEX)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def train_with_peftkit(recipe: Recipe, registry: Registry, steps: int) -> float:
    """Train for an epoch; return the seconds."""
    with dry_run(recipe, registry, steps, ()) as trainer:
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started


def train_with_trainer(recipe: Recipe, features: Sequence[dict[str, Any]], steps: int, folder: Path) -> float:
    """Train for an epoch with `Trainer`; return the seconds."""
    base = init_random_base(recipe, "cpu")
    model = apply_recipe_method(recipe, base, NO_DATA, BATCH)
    grouped = {"train_sampling_strategy": "group_by_length"}
    if "group_by_length" in inspect.signature(tf.TrainingArguments).parameters:
        grouped = {"group_by_length": True}
    arguments = tf.TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=BATCH,
        max_steps=steps,
        learning_rate=recipe.train.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=recipe.train.max_grad_norm or 0.0,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **grouped,
    )
    rows = Dataset.from_list([{**f, "length": len(f["input_ids"])} for f in features])
    trainer = tf.Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)
    trainer.remove_callback(tf.PrinterCallback)
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started


class _NoData:
    """Stands in for the data of methods that need none."""

    train = None

    def steps_per_epoch(self, batch: int) -> None:
        """Unknown."""


NO_DATA: Any = _NoData()

if __name__ == "__main__":
    main()
