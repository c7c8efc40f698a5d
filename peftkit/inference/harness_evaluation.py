"""Evaluates a finished run with lm-evaluation-harness (Gao et al., 2024), by its prompts, its scores and its rules.

The library scores a candidate without the end of text, and generates by its own settings of each task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from peftkit.argument_names import format_argument
from peftkit.errors import InputError, RunError, comma_separated, summarize_error
from peftkit.harness.load_tasks import harness_version, load_harness_tasks, quiet_harness
from peftkit.harness.score_names import numbers_among, value_name
from peftkit.inference.finished_run import FinishedRun, evaluation_context
from peftkit.json_files import to_json
from peftkit.recipe.evaluation_tasks import RESERVED_NAMES
from peftkit.run_directory import RunDirectory
from peftkit.run_directory.harness_results import write_harness_result

LANGUAGE_MODELS = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
"""The classes of models that the library evaluates."""


@dataclass(frozen=True)
class HarnessSettings:
    """How tasks are evaluated.

    Attributes:
        include_path: A folder of YAML files with further tasks.
        num_fewshot: Examples in the prompt; None for the number of each task.
        limit: The first documents of each task; None for all.
        batch_size: Requests in a batch; None for the batch of the run's evaluations.
    """

    include_path: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: One of them is too small.
        """
        for name, smallest in (("num-fewshot", 0), ("limit", 1), ("batch-size", 1)):
            value = getattr(self, name.replace("-", "_"))
            if value is not None and value < smallest:
                raise InputError(f"{format_argument(name)}: must be at least {smallest}, not {value}")


def evaluate_with_harness(
    run: FinishedRun, names: Sequence[str], settings: HarnessSettings
) -> dict[str, dict[str, Any]]:
    """Evaluate a run on tasks of lm-evaluation-harness, and store the results in its directory.

    Args:
        run: The run.
        names: Names of tasks, groups or tags, or paths of YAML files.
        settings: How they are evaluated.

    Returns:
        What was stored for each task: ``values``, and how it was evaluated.

    Raises:
        InputError: The library is not installed, it has no such task, or it does not evaluate such a model.
        RunError: A task failed, or a file cannot be written.
    """
    if run.objective.auto_class not in LANGUAGE_MODELS:
        raise InputError(
            f"lm-evaluation-harness evaluates decoders and encoder-decoders, and {str(run.path)!r} trained "
            f"{run.objective.auto_class.removeprefix('Auto')}"
        )
    if not names:
        raise InputError("name at least one task of lm-evaluation-harness")
    tasks = load_harness_tasks(names, settings.include_path)
    taken = [name for name in tasks if name in {*RESERVED_NAMES, *(each.name for each in run.recipe.evaluate.set)}]
    if taken:
        raise InputError(f"the run has another evaluation set called {taken[0]!r}; give the harness task another name")
    output = _evaluate(run, [*tasks.values()], settings)
    directory, results = RunDirectory(run.path), {}
    digests = directory.file_digests()
    for name in tasks:
        result, rows = _result(output, name, settings)
        results[name] = result | {"file_digests": digests}
        write_harness_result(directory, name, results[name], rows)
    return results


def _evaluate(run: FinishedRun, tasks: Sequence[Any], settings: HarnessSettings) -> Mapping[str, Any]:
    """Run the library, and return its results."""
    with quiet_harness(), evaluation_context(run):
        import lm_eval

        from peftkit.inference.harness_model import HarnessModel

        model = HarnessModel(run, settings.batch_size or run.recipe.evaluate.batch_size)
        try:
            output: Mapping[str, Any] = lm_eval.simple_evaluate(
                model,
                tasks=[*tasks],
                num_fewshot=settings.num_fewshot,
                limit=settings.limit,
                bootstrap_iters=0,
            )
        except Exception as error:  # of a task's own code, or of a metric's
            raise RunError(f"lm-evaluation-harness failed: {summarize_error(error)}") from error
    return output


def _result(
    output: Mapping[str, Any], name: str, settings: HarnessSettings
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what is stored of a task: its values and settings, and a row for each example."""
    values = {
        value_name(*key.rsplit(",", 1)): float(value)
        for key, value in output["results"][name].items()
        if "," in key and "_stderr," not in key and isinstance(value, int | float)
    }
    if not values:
        raise RunError(f"the harness task {name!r} has no values: {comma_separated(sorted(output['results'][name]))}")
    rows = _rows(output["samples"][name], values)
    higher = output["higher_is_better"].get(name, {})
    lower = sorted(value for value in values if higher.get(value.partition(".")[0]) is False)
    config = output["configs"][name]
    described = {key: value for key, value in config.items() if key not in ("metadata", "dataset_kwargs")}
    return {
        "task": name,
        "values": values,
        "lower_is_better": lower,
        "num_examples": len(rows),
        "settings": {
            "lm_eval": harness_version(),
            "version": output["versions"].get(name),
            "num_fewshot": output["n-shot"].get(name),
            "limit": settings.limit,
            "config_digest": sha256(to_json(_without_addresses(described)).encode()).hexdigest(),
        },
        "rows_digest": _digest(output["samples"][name]),
    }, rows


def _rows(samples: Sequence[Mapping[str, Any]], values: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return a row for each example, with its score by every metric that is a mean over examples."""
    rows: dict[int, dict[str, Any]] = {}
    for sample in samples:
        row = rows.setdefault(
            sample["doc_id"], {"index": sample["doc_id"], "target": str(sample["target"]), "scores": {}}
        )
        scores = {metric: sample[metric] for metric in sample["metrics"]}
        row["scores"] |= {value_name(metric, sample["filter"]): each for metric, each in numbers_among(scores)}
    ordered = [rows[index] for index in sorted(rows)]
    for name, value in values.items():
        of_rows = [row["scores"].get(name, math.nan) for row in ordered]
        if not math.isclose(sum(of_rows) / len(of_rows), value, rel_tol=1e-6, abs_tol=1e-9):
            for row in ordered:
                row["scores"].pop(name, None)
    return ordered


def _digest(samples: Sequence[Mapping[str, Any]]) -> str:
    """Hash the documents and the prompts."""
    hashes = sorted({(each["doc_id"], each["doc_hash"], each["prompt_hash"], each["target_hash"]) for each in samples})
    return sha256(to_json({"samples": hashes}).encode()).hexdigest()


def _without_addresses(value: Any) -> Any:
    """Return settings as JSON: functions are described by their names, not by where they are in memory."""
    if isinstance(value, Mapping):
        return {str(key): _without_addresses(inner) for key, inner in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_without_addresses(inner) for inner in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)
