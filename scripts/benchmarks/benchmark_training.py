"""Compares the speed of training with that of transformers' `Trainer` with batches grouped by length.

    python scripts/benchmarks/benchmark_training.py [--model NAME …] [--method NAME …] [--lengths NAME …] [--pairs N]
        [--set KEY=VALUE …] [--clock wall|cpu] [--memory] [--results FILE]
    python scripts/benchmarks/benchmark_training.py --render

Both train the same random model with the same method, optimizer and batch size on the same tokens, for one epoch and on
one thread. They take turns in one process, so that a ratio compares neighbours in time. The interval is a bootstrap
over pairs. Time runs from the first step to the last. `--set train.split_batches=true` compares with that key of the
recipe set. With `--results`, each pair is kept when it has been measured, and the same command continues where it was
interrupted. `--render` writes those in docs/training-speed.jsonl, or in `--results`, as a table into docs/costs.md.

The rows are those of batches that are evenly spaced among 40 batches sorted by length, and `Trainer` sorts as many
together as it does on a large data set. So grouping by length is worth as much to both as in an epoch of 40 steps or
more. Methods of plugins that are not installed are left out; parallel adapters need the environment with adapters.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from torch.profiler import ProfilerActivity, profile
from training_results import (
    Cell,
    Measurement,
    Results,
    describe_setting,
    geometric_means,
    row,
    table_header,
    write_table,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from peftkit.analysis.dry_run import apply_recipe_method, dry_run
from peftkit.components.types import IGNORE_INDEX
from peftkit.data.tokenized_split import tokenize_rows
from peftkit.errors import PeftkitError
from peftkit.models.load_base_model import init_random_base
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.plugins import Registry, load_registry
from peftkit.recipe import Recipe, load_recipe
from peftkit.recipe.model_names import model_path

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
"""By name, the smallest and largest number of words of a source, and the mean of a target. Most sources are short.
Where sources differ, targets do too."""
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"r": 8},
    "full": {},
    "prefix_tuning": {"num_virtual_tokens": 8},
    "parallel_adapters": {"reduction_factor": 8.0},
}
RESULTS = Path(__file__).parents[2] / "docs" / "training-speed.jsonl"
PAGE = RESULTS.with_name("costs.md")
EPOCH = 40
"""Batches that rows are chosen from."""
SORTED = 50
"""Batches that `Trainer` sorts together, of a large data set; peftkit does the same."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_cell_arguments(parser)
    parser.add_argument("--pairs", type=int, default=15, help="pairs of each cell, with those in --results")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of peftkit's recipe")
    parser.add_argument("--steps", type=int, default=10, help="steps of an epoch")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, for a busy machine")
    parser.add_argument("--memory", action="store_true", help="also measure the peaks, in one more epoch of both")
    parser.add_argument("--results", type=Path, help="a file that keeps each pair; what it has is not measured again")
    parser.add_argument("--render", action="store_true", help="only write the pairs in --results into docs/costs.md")
    arguments = parser.parse_args()
    if arguments.render:
        write_table(arguments.results or RESULTS, PAGE, "training speed")
        return
    torch.set_num_threads(1)
    quiet_libraries("error")
    results = Results(
        arguments.results, describe_setting(arguments.clock, BATCH, arguments.steps, sorted(arguments.set))
    )
    print(f"{results.setting}\n\n{table_header()}")
    registry = load_registry()
    for cell in (Cell(*names) for names in product(arguments.model, arguments.method, arguments.lengths)):
        if cell.method not in registry.all("method"):
            print(f"| {cell.model} | {cell.method} | {cell.lengths} | not installed |", flush=True)
            continue
        try:
            measure_cell(cell, results, arguments, registry)
        except PeftkitError as error:
            print(f"| {cell.model} | {cell.method} | {cell.lengths} | not possible: {error} |", flush=True)
            continue
        print(row(cell, results), flush=True)
    if results.measurements:
        print(f"\n{geometric_means(results)}")


def measure_cell(cell: Cell, results: Results, arguments: argparse.Namespace, registry: Registry) -> None:
    """Measure the pairs and peaks of a cell that are missing in the results."""
    missing = arguments.pairs - len(results.pairs(cell))
    measures_memory = arguments.memory and results.peaks(cell) is None
    if missing <= 0 and not measures_memory:
        return
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(cell, Path(folder), arguments.steps, registry, arguments.set)
        if missing > 0:
            comparison.run(CLOCKS[arguments.clock])  # does not count
        for _ in range(missing):
            pair = comparison.run(CLOCKS[arguments.clock])
            seconds = (pair[0] / arguments.steps, pair[1] / arguments.steps)
            results.add(Measurement(cell, results.setting, seconds=seconds))
        if measures_memory:
            results.add(Measurement(cell, results.setting, peaks=comparison.peaks()))


def add_cell_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose cells."""
    for name, choices in (("model", MODELS), ("method", METHODS), ("lengths", LENGTHS)):
        parser.add_argument(f"--{name}", nargs="+", choices=choices, default=list(choices))


class Comparison:
    """Trains with both on the rows of one cell."""

    def __init__(self, cell: Cell, folder: Path, steps: int, registry: Registry, overrides: Sequence[str] = ()) -> None:
        self.folder, self.steps, self.registry = folder, steps, registry
        self.recipe = make_recipe(cell, folder, steps, registry)
        self.changed = load_recipe(folder / "recipe.toml", registry, overrides)
        base = init_random_base(self.recipe, "cpu")
        rows = self.recipe.task.load()["train"]
        tokenized = tokenize_rows(base.objective, "train", rows, range(len(rows)), training=True).rows
        self.features = [feature(base.kind, row) for row in tokenized]

    def run(self, clock: Callable[[], float]) -> tuple[float, float]:
        """Return the seconds of an epoch of both."""
        with dry_run(self.changed, self.registry, self.steps, ()) as trainer:
            started = clock()
            trainer.train()
            seconds = clock() - started
        trainer = make_trainer(self.recipe, self.features, self.steps, self.folder)
        timer = StartOfTraining(clock)
        trainer.add_callback(timer)
        trainer.train()
        return seconds, clock() - timer.started

    def peaks(self) -> tuple[int, int]:
        """Return the bytes that both hold at most, during an epoch of each."""
        with dry_run(self.changed, self.registry, self.steps, ()) as trainer:
            peaks = [measure_peak(trainer.train, trainer.module)]
        other = make_trainer(self.recipe, self.features, self.steps, self.folder)
        return peaks[0], measure_peak(other.train, other.model)


class StartOfTraining(tf.TrainerCallback):
    """Reads a clock when `Trainer` has made its optimizer and begins with the first epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.started = clock, 0.0

    def on_train_begin(self, *arguments: Any, **options: Any) -> None:
        """Read it."""
        self.started = self.clock()


def measure_peak(train: Callable[[], Any], model: Any) -> int:
    """Return the bytes of the model, and the most that are allocated beside it while it is trained."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*model.parameters(),)}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        train()
    return sum(storages.values()) + most_allocated(profiled)


def most_allocated(profiled: profile) -> int:
    """Return the most bytes that were allocated at a time, beyond those at the start."""
    events = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(change for _, change in changes))


def make_recipe(cell: Cell, folder: Path, steps: int, registry: Registry, batch: int = BATCH) -> Recipe:
    """Write a model without weights and rows of random words, and return the recipe that trains on them."""
    built_in, config = MODELS[cell.model]
    if cell.method == "parallel_adapters" and config["model_type"] == "qwen3":  # adapters has no Qwen3
        config = {**config, "model_type": "llama"}
    tokenizer = tf.AutoTokenizer.from_pretrained(model_path(built_in))
    original = json.loads((Path(model_path(built_in)) / "config.json").read_text(encoding="utf-8"))
    extra = {"vocab_size": len(tokenizer), "decoder_start_token_id": 0} if cell.model == "t5" else {}
    built: Any = tf.AutoConfig.for_model(**{"vocab_size": len(tokenizer), **SPECIAL, **extra, **config})
    decoder = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
    architecture = decoder.get(config["model_type"], original["architectures"][0])
    getattr(tf, architecture)(built).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    words = [word for word in tokenizer.get_vocab() if word.strip("▁Ġ").isalpha() and len(word) > 3][:1_000]
    rng = random.Random(0)
    shortest, longest, target = LENGTHS[cell.lengths]

    def text(number: int) -> str:
        return " ".join(rng.choice(words).strip("▁Ġ") for _ in range(number))

    epoch = max(EPOCH, steps)
    scale = 3 / max(1, longest - shortest)
    numbers = sorted(min(longest, shortest + int(rng.expovariate(scale))) for _ in range(epoch * batch))
    chosen = [int((step + 0.5) * epoch / steps) * batch for step in range(steps)]
    lines = []
    for number in (number for start in chosen for number in numbers[start : start + batch]):
        answer = text(rng.randint(1, 2 * target - 1) if longest > shortest else target)
        if cell.model == "bert":
            answer = rng.choice(LABELS)
        lines.append(json.dumps({"source": text(number), "target": answer}))
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
        batch_size = {batch}
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


def make_trainer(recipe: Recipe, features: Sequence[dict[str, Any]], steps: int, folder: Path) -> tf.Trainer:
    """Return a `Trainer` that trains for an epoch."""
    base = init_random_base(recipe, "cpu")
    model = apply_recipe_method(recipe, base, NO_DATA, BATCH)
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
    )
    trainer = GroupedTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(list(features)), data_collator=collate
    )
    trainer.lengths = [len(each["input_ids"]) for each in features]
    trainer.remove_callback(tf.PrinterCallback)
    return trainer


class GroupedTrainer(tf.Trainer):
    """Groups by length as `Trainer` does with a large data set; with a small one it would sort fewer batches."""

    lengths: list[int]

    def _get_train_sampler(self, *arguments: Any) -> Any:
        return get_length_grouped_indices(self.lengths, BATCH, SORTED)


class _NoData:
    """Stands in for the data of methods that need none."""

    train = None

    def steps_per_epoch(self, batch: int, tokens: int | None) -> None:
        """Unknown."""


NO_DATA: Any = _NoData()

if __name__ == "__main__":
    main()
