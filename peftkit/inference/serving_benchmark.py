"""Measures what serving a finished run takes: the time to the first token, tokens per second, and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peftkit.errors import InputError, RunError
from peftkit.inference.finished_run import FinishedRun, evaluation_context
from peftkit.inference.save_merged import merge_model
from peftkit.models.decoding.kv_cache_check import generate
from peftkit.monitor.collect_env import collect_environment
from peftkit.oom import is_oom
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory

FILE = "serving.json"
WARMUP = 2
"""Requests that are not timed."""
CONFIDENCE = 0.95
MEMORY_METER = "peak_memory"


@dataclass(frozen=True)
class ServingRequest:
    """What is requested of a served model.

    Attributes:
        prompt_tokens: Tokens of a prompt.
        new_tokens: Generated tokens; an encoder generates none.
        batch_sizes: Numbers of prompts that are sent at once.
        rounds: Timed requests of each size.
    """

    prompt_tokens: int = 128
    new_tokens: int = 32
    batch_sizes: tuple[int, ...] = (1, 8)
    rounds: int = 10

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: One of them is too small, or there is no batch size.
        """
        if not self.batch_sizes:
            raise InputError("batch_sizes: there must be at least one")
        smallest = {"prompt_tokens": 1, "new_tokens": 2, "rounds": 1}
        values = {name: getattr(self, name) for name in smallest} | {"batch_sizes": min(self.batch_sizes)}
        for name, value in values.items():
            if value < smallest.get(name, 1):
                raise InputError(f"{name}: must be at least {smallest.get(name, 1)}, not {value}")


def benchmark_serving(run: FinishedRun, registry: Registry, request: ServingRequest) -> dict[str, Any]:
    """Time requests to the model of a run, as it was trained and merged, and store the result in its directory.

    Prompts are random tokens. Every request generates the same number of tokens, greedily.

    Args:
        run: The run; its model is merged in place at the end.
        registry: The installed components.
        request: What is requested.

    Returns:
        What was stored: the request, the machine, and a measurement for each batch size, merged and not.

    Raises:
        InputError: The request is longer than the model's positions.
        RunError: The file cannot be written, or memory runs out.
    """
    generates = run.objective.auto_class in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
    longest = run.family.max_decoder_length if generates else None
    is_decoder = run.objective.auto_class == "AutoModelForCausalLM"
    if longest is not None and request.prompt_tokens * is_decoder + request.new_tokens > longest:
        raise InputError(f"the model has positions for {longest} tokens; request fewer prompt or new tokens")
    reason = ""
    with evaluation_context(run) as accelerator, torch.inference_mode():
        environment = collect_environment(registry, accelerator)
        measured = [*_measure(run, run.model, registry, request, generates, merged=False)]
    try:
        merged, _ = merge_model(run)
    except (InputError, RunError) as error:
        reason = str(error)
    else:
        with torch.inference_mode():
            measured += _measure(run, merged.eval(), registry, request, generates, merged=True)
    result = {
        "prompt_tokens": request.prompt_tokens,
        "new_tokens": request.new_tokens if generates else 0,
        "rounds": request.rounds,
        "warmup": WARMUP,
        "why_not_merged": reason,
        "measurements": measured,
        **{key: environment[key] for key in ("python", "packages", "hardware")},
    }
    RunDirectory(run.path).write_json(FILE, result)
    return result


def _measure(
    run: FinishedRun, model: nn.Module, registry: Registry, request: ServingRequest, generates: bool, *, merged: bool
) -> Iterator[dict[str, Any]]:
    """Yield the measurement of each batch size."""
    for size in request.batch_sizes:
        ids = _prompts(run, size, request.prompt_tokens)
        memory: Any = registry.all("meter")[MEMORY_METER].component()  # type: ignore[call-arg]
        memory.on_step_start()
        try:
            first = _time(run, partial(_request, run, model, ids, 1 if generates else 0), request.rounds)
            whole = first
            if generates:
                whole = _time(run, partial(_request, run, model, ids, request.new_tokens), request.rounds)
        except RuntimeError as error:
            if not is_oom(error):
                raise
            raise RunError(f"a batch of {size} prompts does not fit into memory; choose smaller ones") from error
        memory.on_step_end()
        peaks = memory.totals()
        rates = [size * (request.new_tokens if generates else 1) / seconds for seconds in whole]
        yield {
            "merged": merged,
            "batch_size": size,
            "first_token_seconds" if generates else "seconds": asdict(median_interval(first)),
            "tokens_per_second" if generates else "texts_per_second": asdict(median_interval(rates)),
            "peak_device_bytes": peaks.get("peak_device_bytes"),
            "peak_host_bytes": peaks["peak_host_bytes"],
        }


def _prompts(run: FinishedRun, size: int, length: int) -> Tensor:
    """Draw prompts of shape (size, length) from the vocabulary, without special tokens."""
    special = {*run.family.tokenizer.all_special_ids}
    known = [i for i in range(len(run.family.tokenizer)) if i not in special]
    generator = torch.Generator().manual_seed(0)
    return torch.tensor(known)[torch.randint(len(known), (size, length), generator=generator)].to(run.device)


def _request(run: FinishedRun, model: nn.Module, ids: Tensor, new_tokens: int) -> None:
    """Send a request with prompts of shape (rows, length)."""
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if not new_tokens:
        model(**inputs)
        return
    continued: Any = "input_ids" if run.objective.auto_class == "AutoModelForCausalLM" else "decoder_input_ids"
    options = {"do_sample": False, "num_beams": 1, "pad_token_id": run.family.pad_id, "eos_token_id": None}
    generate(model, continued, **inputs, **options, max_new_tokens=new_tokens, min_new_tokens=new_tokens)


def _time(run: FinishedRun, send: Callable[[], None], rounds: int) -> list[float]:
    """Return the seconds of each request after the warm-up."""
    seconds = []
    for number in range(WARMUP + rounds):
        _synchronize(run.device)
        started = time.perf_counter()
        send()
        _synchronize(run.device)
        if number >= WARMUP:
            seconds.append(time.perf_counter() - started)
    return seconds


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class MedianInterval:
    """A median and the ends of its 95 % interval.

    Attributes:
        median: The median.
        low: The lower end; the smallest value where there are fewer than six.
        high: The upper end; the largest value where there are fewer than six.
    """

    median: float
    low: float
    high: float


def median_interval(values: Sequence[float]) -> MedianInterval:
    """Compute the median, and its interval from order statistics, which assumes no distribution.

    Args:
        values: The values, at least one.
    """
    from scipy.stats import binom

    ordered = np.sort(values)
    rank = int(binom.ppf((1 - CONFIDENCE) / 2, len(ordered), 0.5))
    rank = max(0, rank - 1)
    return MedianInterval(float(np.median(ordered)), float(ordered[rank]), float(ordered[len(ordered) - 1 - rank]))
