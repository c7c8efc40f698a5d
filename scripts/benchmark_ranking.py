"""Examples per second of ranking candidates, against generate() and against scoring each candidate alone.

    python scripts/benchmark_ranking.py [--model NAME ...] [--batch-size N ...] [--clock cpu]

All ways get the same rows of the built-in tasks, in one process and in turn; the best of some rounds counts.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from peftkit.components import Example
from peftkit.plugins import load_registry
from peftkit.recipe.names import model_kind, model_path
from peftkit.runner.forms import FORMS, Form, Row
from peftkit.runner.forms.ranking import Continuing

MODELS = ("pocket-t5", "pocket-decoder")
SIZES = (1, 8, 32)
LONG = 12  # tokens of a candidate, the end of text among them
COLUMNS = (
    "model",
    "candidates",
    "batch",
    "generate",
    "alone",
    "shared",
    "/generate",
    "/alone",
    "at most",
    "difference",
)
NOTE = f"""\
generate   generate(), greedy, exactly as many tokens as the longest candidate has, the end of text among them
alone      a pass through the whole model for each candidate
shared     what an evaluation does, after its first batch
/generate  shared against generate(); at most: what a way would reach that reads the source and predicts one token
difference between the scores of shared and alone, the largest
long       five texts of {LONG} tokens, the end of text among them
labels     the ten fixed labels of wordnet_topic, of one or two tokens and the end of text"""


@dataclass(frozen=True)
class Loaded:
    """A model and its form."""

    name: str
    model: Any
    form: Continuing


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", nargs="+", default=MODELS, help="names, hub ids or folders")
    parser.add_argument("--batch-size", nargs="+", type=int, default=SIZES, help="rows in a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: seconds of this process, where a machine is busy with others; takes one thread",
    )
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.clock == "cpu":
        torch.set_num_threads(1)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    device = torch.device(options.device)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{torch.get_num_threads()} threads, {options.device}, float32\n"
        f"examples per second by the {options.clock} clock, best of {options.rounds}\n"
    )
    table = [COLUMNS]
    for name in options.model:
        loaded = load(name, device)
        for label, rows in (("long", long(loaded.form)), ("labels", labels(loaded.form))):
            table += [
                (name, label, str(size), *measured(loaded, batch(rows, size), device, options.rounds, clock))
                for size in options.batch_size
            ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = zip(line, widths, strict=True)
        print("  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(cells)))
    print(f"\n{NOTE}")


def load(name: str, device: torch.device) -> Loaded:
    path = model_path(name)
    config = transformers.AutoConfig.from_pretrained(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    kind = FORMS[model_kind(config.to_dict()) or "encoder"]
    form = kind(tokenizer, config, "multiple_choice", source_length=128, target_length=LONG)
    if not isinstance(form, Continuing):
        raise SystemExit(f"{name} has no candidates that generate() could be compared with")
    model = getattr(transformers, form.auto_class).from_pretrained(path, dtype=torch.float32)
    return Loaded(name, model.to(device).eval(), form)


def examples(task: str) -> list[Example]:
    component = load_registry().of("task")[task].component
    loaded = component()  # type: ignore[operator]
    return [loaded.encode(row) for row in loaded.load()["test"].select(range(160))]


def batch(rows: Sequence[Row], size: int) -> Sequence[Row]:
    """Rows of like lengths, as an evaluation takes them: those in the middle."""
    first = (len(rows) - size) // 2
    return sorted(rows, key=lambda row: len(row["source"]))[first : first + size]


def long(form: Form) -> list[Row]:
    """Definitions to choose from: of those that are long enough, each row's own and the next four."""
    found = examples("wordnet_mcq")
    texts = [e.source.partition(": ")[2] for e in found]
    whole = form.encode([Example(e.source, t) for e, t in zip(found, texts, strict=True)], ranked=False)
    texts = [t for t, row in zip(texts, whole, strict=True) if row["target_tokens"] >= LONG]
    choices = [tuple((texts * 2)[i : i + 5]) for i in range(len(texts))]
    return form.encode([Example(e.source, c[0], c) for e, c in zip(found, choices, strict=False)], ranked=True)


def labels(form: Form) -> list[Row]:
    return form.encode(examples("wordnet_topic"), ranked=True)


def measured(
    loaded: Loaded, rows: Sequence[Row], device: torch.device, rounds: int, clock: Callable[[], float]
) -> list[str]:
    """The cells of one line of the table."""
    form, model, end = loaded.form, loaded.model, loaded.form.tokenizer.eos_token_id
    longest = max(len(ids) for row in rows for ids in row["candidates"])
    least = [{**row, "candidates": [[end], [end]]} for row in rows]
    rank = form.ranker(model)
    ways: dict[str, Callable[[], Any]] = {
        "generate": lambda: form.generate(model, rows, device, max_new_tokens=longest, min_new_tokens=longest),
        "alone": lambda: form.score_alone(model, rows, device),
        "shared": lambda: rank(rows, device),
        "least": lambda: rank(least, device),
    }
    seconds = dict.fromkeys(ways, float("inf"))
    with torch.inference_mode():
        results = {name: way() for name, way in ways.items()}  # not timed: what is done once is done here
        for _ in range(rounds):
            for name, way in ways.items():
                before = clock()
                way()
                seconds[name] = min(seconds[name], clock() - before)
    apart = [
        abs(one - other)
        for pair in zip(results["alone"].sums, results["shared"].sums, strict=True)
        for one, other in zip(*pair, strict=True)
    ]
    rates = [f"{len(rows) / seconds[name]:.0f}" for name in ("generate", "alone", "shared")]
    ratios = [seconds[name] / seconds["shared"] for name in ("generate", "alone")]
    most = seconds["generate"] / seconds["least"]
    return [*rates, *(f"{ratio:.2f}" for ratio in (*ratios, most)), f"{max(apart):.1e}"]


if __name__ == "__main__":
    main()
