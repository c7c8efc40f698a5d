"""Measures the base model on the probes of a run, before the method changes it.

A measurement is kept on disk by everything that it depends on: the files of the model, its precision, the tokens of the
rows, the settings of the evaluation, the code that computes it, and the machine. Runs with the same base model and
probes, such as those of a sweep, have the same measurement to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from peftkit.atomic_files import write_file
from peftkit.cache_folder import cache_folder
from peftkit.components import Prediction
from peftkit.data.input_digests import model_digests
from peftkit.data.pipeline import PreparedData
from peftkit.data.probes.prepared_probe import PreparedProbe
from peftkit.data.token_cache import source_code
from peftkit.distributed.accelerator import run_on_main
from peftkit.errors import InputError, PeftkitError
from peftkit.evaluate.evaluator import SplitResult, compute_values, evaluate
from peftkit.evaluate.random_states import random_states, restore_random_states
from peftkit.models.load_base_model import LoadedBase
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory

PROBES_FILE = "probes.json"
"""The file of a run directory with the values of the base model on the probes."""
LIBRARIES = ("peftkit", "torch", "transformers", "accelerate", "numpy")
"""Libraries whose versions a measurement depends on."""
WITHOUT_EFFECT = ("every", "at_start", "train_examples", "dev_examples", "test_examples", "full_splits", "set")
"""Keys of ``[evaluate]`` that a measurement does not depend on."""
OF_TRAINING = ("mixed_precision", "pad_to_multiple_of", "all_logits")
"""Keys of ``[train]`` that it depends on, beside those that change the tokens of the rows."""


@dataclass(frozen=True)
class BaseResult:
    """The base model on one probe."""

    values: Mapping[str, float]
    curve_values: Mapping[str, float]
    """The values of the rows that are evaluated along the curve."""
    predictions: list[Prediction]
    """The result on each example; empty if the run directory has them already."""
    curve_predictions: list[Prediction]
    """The results on the examples of the curve; scores that are no means depend on the other examples."""
    seconds: float
    """How long it took, in the run that measured it."""
    digest: str
    """Digest of everything that the measurement depends on."""
    reused: bool
    """Whether another run measured it."""


@dataclass
class BaseMeasurement:
    """The base model on all probes of a run."""

    probes: tuple[PreparedProbe, ...] = ()
    results: dict[str, BaseResult] = field(default_factory=dict)
    """By the name of the probe."""

    def write(self, directory: RunDirectory) -> None:
        """Write the values and the results per example into a run directory.

        Args:
            directory: The run directory.
        """
        for name, result in self.results.items():
            if result.predictions:
                directory.probe(name).write_base_examples(name, result.curve_predictions, result.predictions)
        if self.results:
            directory.write_json(PROBES_FILE, self.record())

    def record(self) -> dict[str, Any]:
        """Return the entries of a run's summary."""
        return {"probes": {probe.name: self._record(probe, self.results[probe.name]) for probe in self.probes}}

    @staticmethod
    def _record(probe: PreparedProbe, result: BaseResult) -> dict[str, Any]:
        return {
            "task": probe.probe.task.task.name,
            "kind": type(probe.probe.task.task).kind,
            "objective": probe.objective.component.name,
            "metric": probe.probe.metric,
            "higher_is_better": probe.probe.higher_is_better,
            "base": dict(result.values),
            "base_on_curve": dict(result.curve_values),
            "base_seconds": result.seconds,
            "base_reused": result.reused,
            "digest": result.digest,
        }


def measure_base(
    recipe: Recipe, base: LoadedBase, data: PreparedData, accelerator: Accelerator, previous: Path | None = None
) -> BaseMeasurement:
    """Measure the base model on the probes of a run, or read what an equal run measured.

    Args:
        recipe: The recipe of the run.
        base: The base model, which no method has changed; it is as it was afterwards.
        data: The data of the run.
        accelerator: The Accelerator; all of its processes must call this function.
        previous: The run directory that is resumed; None for a new run.

    Raises:
        RunError: A metric of a probe fails.
    """
    measurement = BaseMeasurement(tuple(data.probes))
    for probe in data.probes:
        key = run_on_main(accelerator, partial(_digest, recipe, base, probe, accelerator))
        known = run_on_main(accelerator, partial(_read, key, probe, previous))
        if known is None:
            with _on_device(base.model, accelerator.device, movable=not recipe.model.quantization):
                known = _measure(base.model, probe, accelerator, key)
        measurement.results[probe.name] = known
    return measurement


def _measure(model: nn.Module, probe: PreparedProbe, accelerator: Accelerator, key: str) -> BaseResult:
    started, states = time.perf_counter(), random_states()
    result = evaluate(model, probe.whole, probe.recipe, probe.objective, accelerator)
    restore_random_states(states)  # a run with probes trains as it does without
    seconds = time.perf_counter() - started
    if accelerator.is_main_process:
        _keep(key, result, seconds)
    return _with_curve(probe, result, seconds, key, reused=False)


def _with_curve(probe: PreparedProbe, result: SplitResult, seconds: float, key: str, *, reused: bool) -> BaseResult:
    """Add the values of the rows that are evaluated along the curve, from the predictions of all rows."""
    chosen = dict(zip(probe.curve.indices, probe.curve.examples, strict=True))
    rows = [{k: v for k, v in row.items() if k != "scores"} for row in result.predictions if row["index"] in chosen]
    if len(rows) == len(result.predictions):
        return BaseResult(result.values, result.values, result.predictions, result.predictions, seconds, key, reused)
    examples = [chosen[row["index"]] for row in rows]
    values = compute_values(probe.recipe, probe.objective.component, examples, rows)
    return BaseResult(result.values, values, result.predictions, rows, seconds, key, reused)


@contextmanager
def _on_device(model: nn.Module, device: torch.device, *, movable: bool) -> Iterator[None]:
    """Move a model to a device and back: methods are applied where it was loaded."""
    before = next(model.parameters()).device
    if movable:
        model.to(device)
    try:
        yield
    finally:
        if movable:
            model.to(before)


def _digest(recipe: Recipe, base: LoadedBase, probe: PreparedProbe, accelerator: Accelerator) -> str:
    """Return the digest of everything that the measurement of a probe depends on."""
    objective = probe.objective
    classes: list[Any] = [type(objective.component), type(base.family), *map(type, probe.recipe.metric)]
    device = accelerator.device
    rows = hashlib.sha256()
    for index, row in zip(probe.whole.indices, probe.whole.rows, strict=True):
        rows.update(json.dumps([index, row], sort_keys=True, default=list).encode())
    inputs = {
        # A model of the hub whose commit is unknown may change, so its measurement is not shared.
        "model": model_digests(recipe.model.name, base.family) or uuid.uuid4().hex,
        "precision": recipe.model.model_dump(mode="json", exclude={"name", "revision", "keep_head"}),
        "missing": [base.loading_report.record(), recipe.run.effective_init_seed]
        if base.loading_report.missing or base.loading_report.mismatched
        else None,  # drawn at random
        "examples": probe.digest,
        "rows": rows.hexdigest(),
        "objective": objective.component.model_dump(mode="json"),
        "metric": [metric.model_dump(mode="json") for metric in probe.recipe.metric],
        "evaluate": probe.recipe.evaluate.model_dump(mode="json", exclude={*WITHOUT_EFFECT}),
        "train": recipe.train.model_dump(mode="json", include={*OF_TRAINING}),
        "code": [source_code(each) for each in classes],
        "versions": {name: version(name) for name in LIBRARIES},
        "machine": [platform.machine(), platform.processor(), device.type, accelerator.num_processes],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else torch.get_num_threads(),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _read(key: str, probe: PreparedProbe, previous: Path | None) -> BaseResult | None:
    """Read a measurement: of the run that is resumed, or of an equal one on this machine."""
    if previous is not None and (recorded := _read_recorded(RunDirectory(previous), probe.name, key)) is not None:
        return recorded
    try:
        document = json.loads(_file(key).read_text(encoding="utf-8"))
        result, seconds = SplitResult(document["values"], document["predictions"]), document["seconds"]
    except (OSError, ValueError, LookupError):
        return None
    return _with_curve(probe, result, seconds, key, reused=True)


def _read_recorded(directory: RunDirectory, name: str, key: str) -> BaseResult | None:
    """Return what a run directory has of a probe, if it was measured in the same way."""
    try:
        record = directory.read_json(PROBES_FILE)["probes"][name]
        has_examples = directory.probe(name).base_examples() is not None
    except (InputError, LookupError):
        return None
    if record["digest"] != key or not has_examples:
        return None
    values = record["base"], record["base_on_curve"]
    return BaseResult(*values, [], [], record["base_seconds"], key, reused=record["base_reused"])


def _keep(key: str, result: SplitResult, seconds: float) -> None:
    document = {"values": result.values, "predictions": result.predictions, "seconds": seconds}
    with suppress(OSError, TypeError, PeftkitError):  # it is faster, not necessary
        text = json.dumps(document)
        write_file(_file(key), lambda path: path.write_text(text, encoding="utf-8"))


def _file(key: str) -> Path:
    return cache_folder() / "probes" / f"{key}.json"
