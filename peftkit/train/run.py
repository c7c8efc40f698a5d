"""Runs a recipe: loads its model and data, trains and evaluates, and writes the run directory."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from filelock import FileLock
from pydantic_core import to_jsonable_python

from peftkit.data.cacheable_layers import with_frozen_layers
from peftkit.data.dataloader import effective_batch_size, first_batches
from peftkit.data.input_digests import (
    compute_input_digests,
    input_digests,
    recorded_input_digests,
)
from peftkit.data.pipeline import PreparedData, prepare_data
from peftkit.distributed.accelerator import assert_same_weights, init_accelerator, run_on_main, shutdown
from peftkit.distributed.environment_variables import environment_notice
from peftkit.distributed.launch_config import read_launch
from peftkit.errors import DivergedError, RunError, RunInterrupted, StopRequested
from peftkit.evaluate.base_measurement import measure_base
from peftkit.evaluate.baselines import BaselineScores, check_not_trivial, compute_baselines
from peftkit.evaluate.shared_inputs import SharedInputs
from peftkit.hub_commits import hub_is_unreachable, set_offline
from peftkit.models.checkpoints.generation_settings import generation_notice
from peftkit.models.checkpoints.revisions import pin_revisions, resolve_revisions
from peftkit.models.heads.classification_head import check_saves_head
from peftkit.models.load_base_model import LoadedBase, apply_method, check_conflicts, init_random_base, load_base
from peftkit.models.method_errors import explain_method_errors
from peftkit.models.parameter_counts import count_parameters, folder_bytes
from peftkit.monitor.collect_env import collect_environment
from peftkit.monitor.console import ConsoleLogger
from peftkit.monitor.trackers import RunTrackers, finish_trackers
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, dump_recipe
from peftkit.recipe.check_recipe import check_method_options
from peftkit.run_directory import RunDirectory
from peftkit.run_directory.lock import lock_run_directory
from peftkit.train.budget import planned_steps_of_run
from peftkit.train.build_mac_counter import make_mac_counter
from peftkit.train.callbacks import Checkpoints, MeterList
from peftkit.train.checkpoint import CHECKPOINTS, latest_checkpoint
from peftkit.train.checkpoint_selection import CheckpointSelector
from peftkit.train.early_stopping import EarlyStopping
from peftkit.train.evaluation import REUSED, Evaluations
from peftkit.train.optimizer import check_optimizer_options
from peftkit.train.resume import changed_versions, check_inputs, find_run_to_resume
from peftkit.train.steps.parallel_strategies import accelerator_options
from peftkit.train.steps.reference_passes import ReferencePasses
from peftkit.train.stop_signals import InterruptHandler
from peftkit.train.trainer import Trainer
from peftkit.train.wall_clock import WallClock

__all__ = ["run"]


@dataclass
class OpenRun:
    """The run directory while it is being written, and its lock; none on all processes but the main one."""

    directory: RunDirectory | None = None
    lock: FileLock | None = None
    baseline_scores: BaselineScores = field(default_factory=dict)
    """The scores of the input-blind baselines."""

    def open(self, recipe: Recipe, environment: Mapping[str, Any], previous: Path | None) -> None:
        """Create the run directory, or prepare the previous one for resuming, and lock it.

        Args:
            recipe: The recipe of the run, without pinned revisions.
            environment: The content of ``environment.json``.
            previous: The run directory to resume; None for a new run.
        """
        if previous is None:
            directory = RunDirectory.create(Path(recipe.run.output), recipe.run.name)
        else:
            directory = RunDirectory(previous)
        self.lock = lock_run_directory(directory.path)
        if previous is None:
            directory.write_text("recipe.toml", dump_recipe(recipe))
            directory.write_json("environment.json", environment)
        elif latest_checkpoint(previous / CHECKPOINTS) is None:  # the run starts over
            directory.write_text("evaluations.jsonl", "")
            directory.truncate_examples([])
            directory.write_json("environment.json", environment)
        else:
            _add_environment(directory, environment)
        self.directory = directory

    def write(self, name: str, document: Mapping[str, Any]) -> None:
        """Write a JSON file into the run directory, if this process has it.

        Args:
            name: The name of the file.
            document: Its content.
        """
        if self.directory is not None:
            self.directory.write_json(name, document)

    def sizes_and_digests(self) -> dict[str, Any]:
        """Return the size of the saved model, and the digests of the run's files."""
        assert self.directory is not None  # only the main process summarizes a run  # noqa: S101
        size = folder_bytes(self.directory.path / "model")
        return {"model_bytes": size, "file_digests": self.directory.file_digests()}

    def release(self) -> None:
        """Release the lock."""
        if self.lock is not None:
            self.lock.release()


def run(
    recipe: Recipe,
    registry: Registry,
    *,
    log_level: str = "warning",
    resume: str | None = None,
    quiet: bool = False,
    shared: SharedInputs | None = None,
    started: float | None = None,
) -> Path | None:
    """Run a recipe.

    Args:
        recipe: The recipe to run.
        registry: The installed components; all its meters measure the run.
        log_level: The log level of the libraries.
        resume: The run directory to resume, or ``""`` for the latest run of this recipe; None starts a new run.
        quiet: Whether to print no progress.
        shared: Inputs that were loaded before; they are used if they are those of the recipe, and used up.
        started: When the user began to wait for the run, on the clock of ``time.monotonic``; None for now.

    Returns:
        The run directory; None on all processes but the main one.

    Raises:
        RunError: The recipe is valid, but the run failed.
        RecipeError: The recipe does not fit the loaded model.
        InputError: The run to resume does not exist, or has another recipe or other inputs; or a row is invalid.
        RunInterrupted: A signal was received; the progress is saved.
    """
    clock = WallClock(started)
    quiet_libraries(log_level)
    check_optimizer_options(recipe)
    check_method_options(recipe)
    accelerator = init_accelerator(accelerator_options(recipe, registry))
    console = ConsoleLogger(recipe, quiet=quiet or not accelerator.is_main_process)
    opened = OpenRun()
    trainer: Trainer | None = None
    try:
        previous = (
            None if resume is None else run_on_main(accelerator, lambda: find_run_to_resume(recipe, registry, resume))
        )
        revisions = run_on_main(accelerator, lambda: resolve_revisions(recipe, previous))
        if run_on_main(accelerator, hub_is_unreachable):
            set_offline(True)
        original_recipe, recipe = recipe, pin_revisions(recipe, revisions)
        if previous and RunDirectory(previous).finished:
            if recorded := recorded_input_digests(previous):
                current = compute_input_digests(recipe, registry, accelerator)
                run_on_main(accelerator, lambda: check_inputs(previous, recorded, current))
            console.print(f"already finished: {previous}")
            return previous if accelerator.is_main_process else None
        inputs_at_hand = (shared or SharedInputs()).for_recipe(recipe)
        set_seed(recipe.run.seed)
        base = inputs_at_hand.base or load_base(recipe)
        check_conflicts(recipe, base.family.config.to_dict())
        data = inputs_at_hand.data or prepare_data(recipe, base.objective, accelerator)
        batch = effective_batch_size(recipe, accelerator.num_processes)
        steps = planned_steps_of_run(recipe, data, batch)
        reference = ReferencePasses(recipe, base, data, accelerator)
        batches = partial(first_batches, recipe, data.train, base.objective, base.model, batch)
        measured = measure_base(recipe, base, data, accelerator, previous)
        model = apply_method(recipe, base, steps, batches)
        # torch cannot count products with quantized weights; there are as many as with unquantized ones.
        mac_model = (
            apply_method(recipe, init_random_base(recipe, "meta"), steps, batches)
            if recipe.model.quantization
            else None
        )
        assert_same_weights(model)
        run_on_main(accelerator, lambda: check_saves_head(recipe.method, model, base.head))
        trainable, total = count_parameters(model)
        referring = reference.bind(model)
        saved = latest_checkpoint(previous / "checkpoints") if previous else None
        inputs = run_on_main(accelerator, lambda: input_digests(recipe, registry, base.objective, data))

        def open_run_directory() -> None:
            if previous and saved and (recorded := saved.state.get("inputs")) is not None:
                check_inputs(previous, recorded, inputs)
            check_not_trivial(recipe, data)
            known = inputs_at_hand.baselines.get(recipe.run.seed)
            opened.baseline_scores.update(known or compute_baselines(recipe, data))
            environment = {
                **collect_environment(registry, accelerator),
                "revisions": dict(revisions),
                "inputs": inputs,
                "ignored_generation_config": to_jsonable_python(dict(base.ignored_generation_settings), fallback=str),
            }
            opened.open(original_recipe, environment, previous)
            opened.write("baselines.json", {"baselines": opened.baseline_scores})
            opened.write("loading.json", base.record())
            if opened.directory is not None:
                measured.write(opened.directory)

        run_on_main(accelerator, open_run_directory)
        directory = opened.directory
        if directory is not None:
            if rows := data.skipped_rows:
                directory.write_lines("skipped.jsonl", map(asdict, rows))
            for notice in _notices(recipe, base, data):
                console.print(notice)
            console.start(directory.path, trainable=trainable, total=total, data=data, plugins=registry.distributions)
        if previous:
            console.print(
                f"resuming after step {saved.state['progress']['step']}" if saved else "no checkpoint: starting over"
            )
        if saved and directory is not None:
            if "inputs" not in saved.state:
                console.print(
                    "the run was started by an older peftkit, so changes to data and model cannot be detected"
                )
            if versions := changed_versions(directory.environment()["packages"]):
                console.print(f"packages that changed since the start: {', '.join(versions)}")
        with InterruptHandler() as interrupts:
            meters = MeterList([entry.component() for entry in registry.all("meter").values()])  # type: ignore[call-arg, misc]
            evaluations = Evaluations(meters, directory, inputs_at_hand.start_evaluations)
            callbacks = [
                meters,
                *copy.deepcopy(recipe.callback),  # a recipe may be run again
                *([EarlyStopping(recipe.train.early_stopping)] if recipe.train.early_stopping else []),
                console,
                RunTrackers(accelerator, recipe, directory.path if directory else Path()),
                Checkpoints(directory, inputs),
                evaluations,
            ]
            failure = f"fails in the first forward pass of {recipe.model.name!r}"
            with explain_method_errors(recipe.method, failure, remedy="use another method or model"):
                objective = with_frozen_layers(
                    recipe, referring, model, data.train, processes=accelerator.num_processes
                )
                mac_counter = make_mac_counter(recipe, objective, mac_model or model, data.train)
            run_parts = accelerator, mac_counter, callbacks, interrupts, directory, clock, reference.cost
            trainer = Trainer(recipe, model, objective, data, *run_parts)
            trainer.train(saved)
            reference.check_end(model)
        if directory is not None:
            parameters = {"trainable": trainable, "total": total}
            summary = _summarize(trainer, evaluations.selection, opened, base, parameters)
            summary |= {"revisions": dict(revisions), **reference.record(), **measured.record()}
            summary["probe_seconds"] = evaluations.probe_seconds
            if rows := data.skipped_rows:  # of a stream, further ones
                directory.write_lines("skipped.jsonl", map(asdict, rows))
            directory.write_json("summary.json", summary)
            console.summary(summary, directory.path)
        return directory.path if directory else None
    except StopRequested as stop:
        step = trainer.progress.step if trainer else 0
        hint = f"; resume with: {opened.directory.resume_command}" if opened.directory else ""
        text = f"interrupted by {stop}, saved after step {step}{hint}"
        opened.write("summary.json", {"status": "interrupted", "error": text})
        raise RunInterrupted(text, stop.number) from stop
    except DivergedError as error:
        if trainer is not None:
            cost = {"gmacs": trainer.progress.macs / 1e9}
            opened.write("summary.json", {"status": "diverged", "error": str(error), "cost": cost})
        raise
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(RunError):  # the disk may be full
            opened.write("summary.json", {"status": status, "error": f"{type(error).__name__}: {error}"})
        raise
    finally:
        console.close()
        opened.release()
        if trainer is not None:
            trainer.release()
        finish_trackers(accelerator)
        shutdown(accelerator)


def _notices(recipe: Recipe, base: LoadedBase, data: PreparedData) -> Iterator[str]:
    """Yield notices about the checkpoint, the steps and the machine, to print before training."""
    checkpoint = (
        base.head.notice,
        base.loading_report.notice(recipe.model.name),
        generation_notice(base.ignored_generation_settings),
    )
    return filter(None, (*checkpoint, _rows_notice(recipe, data), environment_notice(), read_launch().notice))


def _rows_notice(recipe: Recipe, data: PreparedData) -> str:
    """Say how many rows the steps have, where they have a number of tokens."""
    tokens = recipe.train.tokens_per_batch
    if (rows := data.rows_per_step(tokens)) is None:
        return ""
    return (
        f"train.tokens_per_batch = {tokens:,}: steps have {rows.fewest:,} to {rows.most:,} rows, {rows.mean:,.1f} on "
        "average; this is another optimization than a fixed train.batch_size"
    )


def _add_environment(directory: RunDirectory, environment: Mapping[str, Any]) -> None:
    """Record the environment that a run is resumed in, unless it equals an earlier one; comparisons read them all."""
    first = directory.environment()
    others = first.pop("resumed", [])
    del first["format"]
    if all(json.dumps(e, sort_keys=True) != json.dumps(environment, sort_keys=True) for e in (first, *others)):
        directory.write_json("environment.json", {**first, "resumed": [*others, environment]})


def _summarize(
    trainer: Trainer, selection: CheckpointSelector, opened: OpenRun, base: LoadedBase, parameters: Mapping[str, int]
) -> dict[str, Any]:
    """Return the content of ``summary.json``."""
    recipe, state, data = trainer.recipe, trainer.state, trainer.data
    last, progress, selected = state.evaluations[-1], state.progress, selection.row or {}
    rows, rows_per_step = data.split_sizes["train"], data.rows_per_step(recipe.train.tokens_per_batch)
    splits = ("train", *(split.name for split in data.splits_at_end))
    return {
        "status": "done",
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "name": recipe.run.name,
        "model": recipe.model.name,
        "model_kind": base.kind,
        "task": recipe.task.name,
        "objective": base.objective.component.name,
        "method": recipe.method.name,
        "seed": recipe.run.seed,
        "init_seed": recipe.run.effective_init_seed,
        "order_seed": recipe.run.effective_order_seed,
        "evaluation_sets": [each.name for each in data.sets],
        "selection_metric": selection.metric,
        "higher_is_better": selection.higher_is_better,
        "lower_is_better": sorted(value for value in selected["dev"] if not recipe.higher_is_better(value)),
        "selected": {
            "step": selected["step"],
            "train": selected["train"],
            **selection.reported,
            **({"calibration": selection.calibration} if selection.calibration else {}),
            "curve": {split: selected[split] for split in selection.reported if split in selected},
        },
        "companions": {
            value: names
            for metric in recipe.metric
            if (names := [name for each in metric.companions() for name in each.value_names])
            for value in metric.value_names
        },
        **({"last_step": {"step": progress.step, **selection.last_step}} if selection.last_step else {}),
        "final": {"step": last["step"], **{s: last[s] for s in splits if s in last}},
        "baselines": opened.baseline_scores,
        "parameters": {**parameters, "new_head": base.head.num_new},
        "kept_head": base.head.kept,
        "steps": progress.step,
        "samples": progress.samples,
        "epoch": progress.epoch,
        "tokens": {"input": progress.input_tokens, "target": progress.target_tokens},
        "stopped_early": None if state.stop is None or state.budget_used >= 1 else state.stop._asdict(),
        "cost": last["cost"],
        "evaluation_seconds": state.evaluation_seconds,
        "reused_evaluation_seconds": sum(row.get(REUSED, 0.0) for row in state.evaluations),
        "counting_seconds": trainer.mac_counter.seconds,
        "compiled": None if trainer.train_step.compiled is None else trainer.train_step.compiled.record(),
        **opened.sizes_and_digests(),
        "wall_seconds": trainer.clock.seconds,
        "wall_seconds_before_run": trainer.clock.before_run,
        "wall_seconds_before_training": trainer.clock.before_training,
        **data.record(),
        "rows_dropped_per_epoch": None if rows is None else 0 if rows_per_step else rows % trainer.effective_batch,
        "resumed_after_steps": state.resumed_after_steps,
        "steps_skipped": state.skipped_steps,
        "effective_batch": None if rows_per_step else trainer.effective_batch,
        "rows_per_step": None if rows_per_step is None else asdict(rows_per_step),
        "microbatch_size": trainer.train_step.microbatch_size,
        "split_batches": trainer.splitter.costs is not None,
        "cached_layers": len(trainer.objective.frozen.names) if trainer.objective.frozen else 0,
        "keep_memory": trainer.memory.available,
        "all_logits": base.family.computes_all_logits(trainer.module),
        "processes": trainer.accelerator.num_processes,
    }
