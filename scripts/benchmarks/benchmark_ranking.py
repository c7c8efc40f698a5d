"""Measures the throughput of ranking candidates, compared with generate() and with scoring each candidate alone.

    python scripts/benchmarks/benchmark_ranking.py [--model NAME ...] [--batch-size N ...] [--clock cpu]

All strategies get the same rows of the built-in tasks, in turn in one process; the best of several rounds counts.
"""

from __future__ import annotations

import argparse
import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import transformers

from peftkit.components import Example
from peftkit.models import FAMILIES, ModelFamily, TokenizedRow
from peftkit.models.candidate_scoring import CachedScorer
from peftkit.plugins import load_registry
from peftkit.recipe.model_names import model_kind, model_path

MODELS = ("pocket-t5", "pocket-decoder")
SIZES = (1, 8, 32)
LONG = 12  # tokens of a candidate, including the end of text
COLUMNS = (
    "model",
    "candidates",
    "batch",
    "generate",
    "alone",
    "shared",
    "/generate",
    "/alone",
    "/lm_eval",
    "at most",
    "of it",
    "difference",
)
NOTE = f"""\
generate   greedy generate() of as many tokens as the longest candidate has, including the end of text
alone      a forward pass per candidate
shared     a row's candidates are scored together, as in an evaluation
/generate  speed-up of shared over generate(); at most: if only one token were predicted after the source
of it      the speed of shared as a share of that
/lm_eval   speed-up of shared over loglikelihood requests of lm-evaluation-harness, if lm_eval is installed
difference the largest one between the scores of shared and alone
long       five texts of {LONG} tokens, including the end of text
labels     the ten labels of wordnet_topic, nine of one token and one of four, and the end of text"""


@dataclass(frozen=True)
class Loaded:
    """A model with its model family."""

    name: str
    model: Any
    family: CachedScorer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", nargs="+", default=MODELS, help="names, Hub ids or folders")
    parser.add_argument("--batch-size", nargs="+", type=int, default=SIZES, help="rows per batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: CPU seconds of this process on one thread, for a busy machine",
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
        for label, rows in (("long", long(loaded.family)), ("labels", labels(loaded.family))):
            table += [
                (name, label, str(size), *measure(loaded, batch(rows, size), device, options.rounds, clock))
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
    kind = FAMILIES[model_kind(config.to_dict()) or "encoder"]
    family = kind(tokenizer, config, max_source_length=128, max_target_length=LONG)
    if not isinstance(family, CachedScorer):
        raise SystemExit(f"{name} does not generate: choose a causal or seq2seq language model")
    model = getattr(transformers, family.auto_class).from_pretrained(path, dtype=torch.float32)
    return Loaded(name, model.to(device).eval(), family)


def examples(task: str) -> list[Example]:
    component = load_registry().all("task")[task].component
    loaded = component()  # type: ignore[operator]
    return [loaded.to_example(row) for row in loaded.load()["test"].select(range(160))]


def batch(rows: Sequence[TokenizedRow], size: int) -> Sequence[TokenizedRow]:
    """Select rows of similar lengths, as in an evaluation: those of medium length."""
    first = (len(rows) - size) // 2
    return sorted(rows, key=lambda row: len(row["source"]))[first : first + size]


def long(family: ModelFamily) -> list[TokenizedRow]:
    """Rows whose candidates are five long definitions: the row's own and the next four."""
    rows = examples("wordnet_mcq")
    texts = [e.source.partition(": ")[2] for e in rows]
    whole = family.tokenize_completions([Example(e.source, t) for e, t in zip(rows, texts, strict=True)], ranked=False)
    texts = [t for t, row in zip(texts, whole, strict=True) if row["target_tokens"] >= LONG]
    choices = [tuple((texts * 2)[i : i + 5]) for i in range(len(texts))]
    ranked = [Example(e.source, c[0], c) for e, c in zip(rows, choices, strict=False)]
    return family.tokenize_completions(ranked, ranked=True)


def labels(family: ModelFamily) -> list[TokenizedRow]:
    return family.tokenize_completions(examples("wordnet_topic"), ranked=True)


def measure(
    loaded: Loaded, rows: Sequence[TokenizedRow], device: torch.device, rounds: int, clock: Callable[[], float]
) -> list[str]:
    """Time each strategy; returns the cells of a row of the table."""
    family, model, end = loaded.family, loaded.model, loaded.family.tokenizer.eos_token_id
    longest = max(len(ids) for row in rows for ids in row["candidates"])
    least = [{**row, "candidates": [[end], [end]]} for row in rows]
    rank = family.candidate_scorer(model)
    strategies: dict[str, Callable[[], Any]] = {
        "generate": lambda: family.generate(model, rows, device, max_new_tokens=longest, min_new_tokens=longest),
        "alone": lambda: family.score_without_sharing(model, rows, device),
        "shared": lambda: rank(rows, device),
        "least": lambda: rank(least, device),
    }
    if find_spec("lm_eval") is not None:
        strategies["lm_eval"] = lm_eval_requests(loaded, rows, device)
    seconds = dict.fromkeys(strategies, float("inf"))
    with torch.inference_mode():
        results = {name: strategy() for name, strategy in strategies.items()}  # not timed: warm-up
        for _ in range(rounds):
            for name, strategy in strategies.items():
                before = clock()
                strategy()
                seconds[name] = min(seconds[name], clock() - before)
    differences = [
        abs(one - other)
        for pair in zip(results["alone"].loglikelihoods, results["shared"].loglikelihoods, strict=True)
        for one, other in zip(*pair, strict=True)
    ]
    rates = [f"{len(rows) / seconds[name]:.0f}" for name in ("generate", "alone", "shared")]
    ratios = [
        f"{seconds[name] / seconds['shared']:.2f}" if name in seconds else "-"
        for name in ("generate", "alone", "lm_eval")
    ]
    most, share = seconds["generate"] / seconds["least"], seconds["least"] / seconds["shared"]
    return [*rates, *ratios, f"{most:.2f}", f"{share:.0%}", f"{max(differences):.1e}"]


def lm_eval_requests(loaded: Loaded, rows: Sequence[TokenizedRow], device: torch.device) -> Callable[[], Any]:
    """Return a function that scores the same tokens with lm-evaluation-harness, a candidate per request."""
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = HFLM(
        pretrained=loaded.model,
        tokenizer=loaded.family.tokenizer,
        backend="causal" if loaded.family.auto_class == "AutoModelForCausalLM" else "seq2seq",
        batch_size=len(rows),
        max_length=512,
        device=str(device),
    )
    requests = [(("", ""), row["source"], ids) for row in rows for ids in row["candidates"]]
    return lambda: lm._loglikelihood_tokens(requests, disable_tqdm=True)


if __name__ == "__main__":
    main()
