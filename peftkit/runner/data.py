"""A task's rows as encoded, cached, bucketed batches."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler

from peftkit import __version__
from peftkit.components import Example, Task
from peftkit.errors import RunError
from peftkit.recipe import Recipe
from peftkit.runner.forms import Form, Row

SPLITS = ("train", "dev", "test")
BUCKET = 50  # effective batches that are sorted by length together


@dataclass(frozen=True)
class EvaluationSplit:
    """The examples of one split that are evaluated, with their rows for the model; ``indices`` are of the data."""

    name: str
    indices: list[int]
    examples: list[Example]
    rows: list[Row]


@dataclass(frozen=True)
class Data:
    """Everything a run reads: encoded training rows, and the splits it is evaluated on."""

    train: Dataset
    evaluated: tuple[EvaluationSplit, ...]
    sizes: Mapping[str, int]
    cut: Mapping[str, int]
    """How many rows of each split lost tokens to the length limits."""


def cache_folder() -> Path:
    """Where encoded rows are kept: ``PEFTKIT_CACHE``, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "peftkit"
    return Path(os.environ.get("PEFTKIT_CACHE") or default)


def prepare(recipe: Recipe, form: Form, accelerator: Accelerator) -> Data:
    """Loads the task's splits and encodes them.

    Raises:
        RunError: a split is missing or empty, or has fewer rows than one optimizer step takes.
    """
    splits = recipe.task.load()
    for split in SPLITS:
        if split not in splits or not len(splits[split]):
            raise RunError(f"the task {recipe.task.name!r} has no rows in its split {split!r}")
    with accelerator.main_process_first():  # the others find the cache that the first one writes
        train = encoded(recipe.task, splits["train"], form)
    rows, step = len(train), effective_batch(recipe, accelerator.num_processes)
    if rows < step:
        raise RunError(
            f"one optimizer step takes {step} rows (batch_size × gradient_accumulation_steps × processes), "
            f"and the train split has {rows}; lower train.batch_size"
        )
    limits = {
        "train": recipe.evaluate.train_examples,
        "dev": recipe.evaluate.dev_examples,
        "test": recipe.evaluate.test_examples,
    }
    evaluated = [
        _evaluation_split(recipe.task, split, splits[split], form, limit, recipe.run.seed)
        for split, limit in limits.items()
        if limit != 0
    ]
    cut = {"train": sum(train["cut"])} | {e.name: sum(r["cut"] for r in e.rows) for e in evaluated if e.name != "train"}
    sizes = {split: len(splits[split]) for split in SPLITS}
    return Data(train.remove_columns("cut"), tuple(evaluated), sizes, cut)


def effective_batch(recipe: Recipe, processes: int) -> int:
    """Rows of one optimizer step, over all processes."""
    return recipe.train.batch_size * recipe.train.gradient_accumulation_steps * processes


def _evaluation_split(
    task: Task, name: str, split: Dataset, form: Form, limit: int | None, seed: int
) -> EvaluationSplit:
    indices = list(range(len(split)))
    if limit is not None and limit < len(indices):
        indices = sorted(random.Random(f"{seed}/{name}").sample(indices, limit))  # noqa: S311 - a sample, no secret
    examples = [task.encode(row) for row in split.select(indices)]
    return EvaluationSplit(name, indices, examples, form.encode(examples, ranked=task.kind != "generation"))


def encoded(task: Task, split: Dataset, form: Form) -> Dataset:
    """The split's rows as token ids with their ``length``, from the cache if the same were encoded before."""
    key = fingerprint(task, split, form)
    folder = cache_folder() / "encoded"
    folder.mkdir(parents=True, exist_ok=True)

    def encode(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        names = list(columns)
        examples = [
            task.encode(dict(zip(names, values, strict=True))) for values in zip(*columns.values(), strict=True)
        ]
        rows = form.encode(examples, ranked=False)
        made: dict[str, list[Any]] = {k: [row[k] for row in rows] for k in ("source", "candidates", "answer", "cut")}
        made["length"] = [len(r["source"]) + sum(map(len, r["candidates"])) for r in rows]
        return made

    return split.map(
        encode,
        batched=True,
        remove_columns=split.column_names,
        cache_file_name=str(folder / f"{key}.arrow"),
        new_fingerprint=key,
        desc=None,
    )


def fingerprint(task: Task, split: Dataset, form: Form) -> str:
    """A hash of all that the encoded rows depend on: the data, the task and its code, the tokenizer, the form."""
    digest = hashlib.sha256()
    described = {
        "peftkit": __version__,
        "task": task.model_dump(mode="json"),
        "code": _code(type(task)),
        "form": [type(form).__name__, _code(type(form))],
        "kind": form.task_kind,
        "lengths": [form.source_length, form.target_length],
        "tokenizer": _tokenizer_state(form),
    }
    digest.update(json.dumps(described, sort_keys=True, default=str).encode())
    for table in split.with_format("arrow").iter(batch_size=1000):
        sink = pa.BufferOutputStream()
        combined = table.combine_chunks().replace_schema_metadata(None)
        with pa.ipc.new_stream(sink, combined.schema) as writer:
            writer.write_table(combined)
        digest.update(sink.getvalue())
    return digest.hexdigest()[:32]


def _code(component: type) -> dict[str, str]:
    """The sources of the modules that the class and those above it lie in."""
    modules = {base.__module__: base for base in component.__mro__ if not base.__module__.startswith("pydantic")}
    return {name: inspect.getsource(sys.modules[name]) for name in modules if name not in ("builtins", "abc")}


def _tokenizer_state(form: Form) -> str:
    backend = getattr(form.tokenizer, "backend_tokenizer", None)
    state = backend.to_str() if backend is not None else json.dumps(form.tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(state.encode()).hexdigest()


class LengthBucketSampler(Sampler[int]):
    """Rows in a seeded order in which each effective batch holds rows of like length.

    The order depends on the seed, the epoch and the effective batch only, not on how many processes share it. The
    rows that do not fill the last effective batch are left out of that epoch; which ones, chance decides anew each
    epoch.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of that epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) // self.batch * self.batch

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self.seed}/{self.epoch}")  # noqa: S311 - an order, no secret
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        order = order[: len(self)]
        batches: list[list[int]] = []
        for start in range(0, len(order), self.batch * BUCKET):
            bucket = sorted(order[start : start + self.batch * BUCKET], key=self.lengths.__getitem__)
            batches += [bucket[i : i + self.batch] for i in range(0, len(bucket), self.batch)]
        rng.shuffle(batches)
        for batch in batches:
            yield from batch


def training_batches(recipe: Recipe, data: Data, form: Form, accelerator: Accelerator) -> DataLoader[Any]:
    """The training rows as this process's share of the batches; call ``set_epoch`` before each epoch."""
    batch = effective_batch(recipe, accelerator.num_processes)
    loader: DataLoader[Any] = DataLoader(
        data.train.remove_columns("length"),  # type: ignore[arg-type]
        batch_size=recipe.train.batch_size,
        sampler=LengthBucketSampler(data.train["length"][:], batch, recipe.run.seed),
        collate_fn=form.batch,
        num_workers=recipe.train.workers,
        drop_last=True,
    )
    prepared: DataLoader[Any] = accelerator.prepare_data_loader(loader)
    return prepared
