"""Compares losses, scores and texts of random runs with a slow, plain reference implementation.

    python scripts/fuzz_scores.py --minutes 2 --seed 1
    python scripts/fuzz_scores.py --case 1:17

Each case draws a tokenizer, a tiny architecture, a method, a task and a file format, and runs them as a recipe. The
reference reads the same rows, encodes them with the tokenizer only, and scores them one at a time, without padding, a
cache, or peftkit. Both must agree to 1e-9 in float64 and to 1e-5 in float32. A case that peftkit rejects with a reason
is counted; any other exception is a failure.
"""

from __future__ import annotations

import argparse
import gc
import io
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
from fuzzing.data import Rows, draw_rows
from fuzzing.models import ARCHITECTURES, draw_architecture, save_model
from fuzzing.reference import JoinedError, Reference
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AutoTokenizer

import peftkit.train.run as runner
from peftkit.components import ModelKind
from peftkit.errors import PeftkitError
from peftkit.models.load_base_model import LoadedBase, load_base
from peftkit.plugins import load_registry
from peftkit.recipe import Recipe, load_recipe
from peftkit.run_directory import RunDirectory
from peftkit.testing.tokenizers import TOKENIZER_BUILDERS
from peftkit.testing.tokenizers import tokenizer as make_tokenizer

EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe")
"""Models of experts."""
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
TEMPLATES: dict[ModelKind, tuple[str, ...]] = {
    "decoder": ("none", "bos", "eos", "bos+eos", "im_end"),
    "encoder-decoder": ("eos", "bos+eos", "lang+eos"),
    "encoder": ("cls+sep", "bos+eos", "none"),
}
"""The templates of special tokens that models of each kind use."""
CASTS = (torch.Tensor.to, torch.Tensor.type, torch.softmax, torch.nn.functional.softmax, torch.Tensor.softmax)
REGISTRY = load_registry()


@dataclass(frozen=True)
class Outcome:
    """How a case ended, what was drawn, and the message."""

    status: str
    """``agrees``, ``rejected``, ``skipped`` or ``failed``."""
    drawn: str
    text: str = ""


def run_case(seed: int, number: int, folder: Path) -> Outcome:
    """Draw a case, run it, and compare it with the reference."""
    rng = random.Random(f"{seed}:{number}")
    architecture = draw_architecture(rng)
    kind = ARCHITECTURES[architecture].kind
    rows = draw_rows(rng, folder, generates=kind != "encoder")
    make, template = rng.choice(list(TOKENIZER_BUILDERS)), rng.choice(TEMPLATES[kind])
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]"} if template == "cls+sep" else {}
    if kind == "decoder" and rng.random() < 0.3:
        named["pad_token"] = None
    tokenizer = make_tokenizer(make, template, **named)
    method = _draw_method(rng)
    # The adapters library computes a part of T5 in float32, regardless of the dtype, and torch groups of experts.
    of_adapters = REGISTRY.find("method", method["name"]).distribution == "peftkit-adapters"
    dtype = "float32" if of_adapters or architecture in EXPERTS else rng.choice(sorted(TOLERANCE))
    drawn = f"{architecture} × {make} ({template}) × {method['name']} × {rows.task['name']} × {rows.form} × {dtype}"
    try:
        save_model(architecture, tokenizer, folder / "model", rng)
        tables = _draw_recipe(rng, folder, kind, rows, method, dtype)
        (folder / "recipe.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
        recipe = load_recipe(folder / "recipe.toml", REGISTRY)
        captured: list[nn.Module] = []
        with KeepFloat64(), _capture(captured), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            path = runner.run(recipe, REGISTRY)
        assert path is not None
    except PeftkitError as error:
        return Outcome("rejected", drawn, str(error).splitlines()[0])
    except Exception:
        return Outcome("failed", drawn, traceback.format_exc())
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")  # may be of another class than the saved one
    reference = Reference(*captured, tokenizer, kind, recipe, rows)
    try:
        with KeepFloat64():
            problems = reference.compare(RunDirectory(path), TOLERANCE[dtype])
    except JoinedError as error:
        return Outcome("skipped", drawn, str(error))
    return Outcome("failed" if problems else "agrees", drawn, "\n".join(problems))


class KeepFloat64(TorchFunctionMode):
    """Keep float64 where models compute in float32 internally, such as in norms."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = dict(options or {})
        first = arguments[0] if arguments else None
        if isinstance(first, torch.Tensor) and first.dtype == torch.float64:
            if function is torch.Tensor.float:
                return first
            if function in CASTS:
                arguments = tuple(torch.float64 if a is torch.float32 else a for a in arguments)
                options = {k: torch.float64 if v is torch.float32 else v for k, v in options.items()}
        elif function is torch.Tensor.__setitem__ and first is not None and isinstance(arguments[-1], torch.Tensor):
            # A method that fills a float32 tensor computes in float32, here as in the reference.
            arguments = (*arguments[:-1], arguments[-1].to(first.dtype))
        return function(*arguments, **options)


@contextmanager
def _capture(models: list[nn.Module]) -> Iterator[None]:
    """Build two more models with the seeds of the run, since copies would lose the hooks of methods."""
    original = runner.apply_method

    def apply(recipe: Recipe, base: LoadedBase, *arguments: Any) -> nn.Module:
        models.extend(original(recipe, load_base(recipe), *arguments) for _ in range(2))
        return original(recipe, base, *arguments)

    runner.apply_method = apply
    try:
        yield
    finally:
        runner.apply_method = original


def _draw_method(rng: random.Random) -> dict[str, Any]:
    name = rng.choice(["full", "lora", "prefix_tuning", *REGISTRY.all("method")])
    component: Any = REGISTRY.find("method", name).component
    linear = {"target_modules": "all-linear"} if "target_modules" in component.model_fields else {}
    return {"name": name, **(linear if rng.random() < 0.7 else {}), **component.tiny_options}


def _draw_recipe(
    rng: random.Random, folder: Path, kind: ModelKind, rows: Rows, method: dict[str, Any], dtype: str
) -> dict[str, Any]:
    batch, parts = len(rows.train), rng.choice([1, 2])
    ranks = kind != "encoder" and rows.task["name"] != "text_generation"
    return {
        "run": {"name": "fuzz", "output": (folder / "runs").as_posix(), "seed": rng.randint(1, 99)},
        "model": {"name": (folder / "model").as_posix(), "dtype": dtype},
        "task": rows.task,
        "method": method,
        "train": {
            # Each step has all rows, so that their order does not matter.
            "batch_size": batch // parts,
            "gradient_accumulation_steps": parts,
            "optimizer": "SGD",
            "learning_rate": 0.002,
            **({"head_learning_rate": 0.002} if kind == "encoder" else {}),
            "max_grad_norm": 0.0,
            "budget": {"steps": 2},
            "checkpoint": {"every": "off"},
            # Recomputation would not keep float64.
            "gradient_checkpointing": rng.random() < 0.15 and dtype == "float32",
        },
        "evaluate": {
            "every": "100%",
            "batch_size": rng.choice([1, 2, 3, 16]),
            "selection_metric": "loss",
            "scoring": rng.choice(["sum", "norm"]) if ranks else "sum",
            "max_new_tokens": rng.choice([1, 6]),
        },
        "track": {"to": []},
    }


def main() -> int:
    """Run cases until the time is over; returns 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long to run cases (default: 2)")
    parser.add_argument("--most", type=int, help="maximum number of cases")
    parser.add_argument("--seed", type=int, default=1, help="random seed (default: 1)")
    parser.add_argument("--rejections", action="store_true", help="print rejected cases too")
    parser.add_argument("--case", help="run one case, as SEED:NUMBER")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seed, first = map(int, options.case.split(":")) if options.case else (options.seed, 0)
    counts: Counter[str] = Counter()
    end, number = time.monotonic() + 60 * options.minutes, first
    while True:
        folder = Path(tempfile.mkdtemp(prefix="peftkit-fuzz-"))
        try:
            outcome = run_case(seed, number, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if not counts:  # all libraries are imported
            gc.collect()
            gc.freeze()  # each run collects garbage, and need not look through the libraries
        counts[outcome.status] += 1
        if outcome.status == "failed" or options.case or (options.rejections and outcome.status == "rejected"):
            print(f"case {seed}:{number} {outcome.status}: {outcome.drawn}\n{outcome.text}", flush=True)
        number += 1
        if options.case or time.monotonic() > end or number - first == options.most:
            break
    print(
        f"{number - first} cases of seed {seed}: "
        + ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    )
    if not options.case and counts["agrees"] < (number - first) // 4:
        print("fewer than a quarter of the cases were compared: adapt what is drawn")
        return 1
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
