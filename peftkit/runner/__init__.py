"""The only Accelerate loop: assembles what a recipe names, trains, evaluates, writes the run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from filelock import FileLock
from pydantic_core import to_jsonable_python

from peftkit.commits import hub_is_away, set_offline
from peftkit.components import Meter
from peftkit.errors import DivergedError, Interrupted, RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, dump_recipe
from peftkit.runner.baselines import Scores, baselines, refuse_what_none_has_to_read
from peftkit.runner.batches import effective_batch, first_batches
from peftkit.runner.budget import planned_steps
from peftkit.runner.checkpoint import newest
from peftkit.runner.console import Display
from peftkit.runner.data import prepare
from peftkit.runner.environment import describe
from peftkit.runner.generation import generation_notice
from peftkit.runner.heads import check_head_is_saved
from peftkit.runner.inputs import changed_versions, check_inputs, input_digests, read_inputs, recorded_inputs
from peftkit.runner.launch import read_launch
from peftkit.runner.models import Base, apply_method, blank_base, folder_bytes, load_base, parameters
from peftkit.runner.resume import by_main, find, lock
from peftkit.runner.revisions import pinned, resolve_revisions
from peftkit.runner.signals import Signals, Stop
from peftkit.runner.training import Training
from peftkit.runner.variables import variables_notice
from peftkit.runner.world import close_world, open_world, quiet_libraries, same_weights
from peftkit.runs import RunDirectory

__all__ = ["run"]


def run(recipe: Recipe, registry: Registry, *, log_level: str = "warning", resume: str | None = None) -> Path | None:
    """Runs a recipe.

    Args:
        recipe: what to run.
        registry: the installed components; every meter in it reads the run's cost.
        log_level: how much the libraries may say.
        resume: a run directory to go on in, or ``""`` for the latest of this recipe; None begins a new run.

    Returns:
        The run directory; None on every process but the main one.

    Raises:
        RunError: the recipe was right, yet the run could not be carried through.
        RecipeError: the model, known only once it is loaded, does not allow what the recipe says.
        InputError: the run to resume is none, or one of another recipe or with other inputs; a row of the
            data is wrong.
        Interrupted: a signal came; what was done is saved.
    """
    quiet_libraries(log_level)
    accelerator = open_world(recipe, registry)
    display = Display(recipe, main=accelerator.is_main_process)
    directory: RunDirectory | None = None
    held: FileLock | None = None
    blind: Scores = {}
    training: Training | None = None
    try:
        found = None if resume is None else by_main(accelerator, lambda: find(recipe, registry, resume))
        asked, revisions = recipe, by_main(accelerator, lambda: resolve_revisions(recipe, found))
        if by_main(accelerator, hub_is_away):
            set_offline(True)
        recipe = pinned(asked, revisions)
        if found and RunDirectory(found).finished:
            if began := recorded_inputs(found):
                now = read_inputs(recipe, registry, accelerator)
                by_main(accelerator, lambda: check_inputs(found, began, now))
            display.say(f"done already: {found}")
            return found if accelerator.is_main_process else None
        set_seed(recipe.run.seed)
        base = load_base(recipe)
        data = prepare(recipe, base.form, accelerator)
        batch = effective_batch(recipe, accelerator.num_processes)
        per_epoch = data.steps_per_epoch(batch)
        steps = planned_steps(recipe.train.budget, effective_batch=batch, steps_per_epoch=per_epoch)
        batches = partial(first_batches, recipe, data.train, base.form, base.model, batch)
        model = apply_method(recipe, base, steps, batches)
        # Products with quantised weights are as many as with whole ones, and none that torch counts.
        counted = (
            apply_method(recipe, blank_base(recipe, "meta"), steps, batches) if recipe.model.quantization else None
        )
        same_weights(model)
        by_main(accelerator, lambda: check_head_is_saved(recipe.method, model, base.head))
        trainable, total = parameters(model)
        meters = tuple(_meter(entry.component) for entry in registry.of("meter").values())

        resumed = newest(found / "checkpoints") if found else None
        inputs = by_main(accelerator, lambda: input_digests(recipe, registry, base.form, data))

        def begin() -> None:
            nonlocal blind, directory, held
            if found and resumed and (began := resumed.state.get("inputs")) is not None:
                check_inputs(found, began, inputs)
            refuse_what_none_has_to_read(recipe, data)
            blind = baselines(recipe, data)
            here = {**describe(registry, accelerator), "revisions": dict(revisions), "inputs": inputs}
            here["generation_without_effect"] = to_jsonable_python(dict(base.ignored_generation), fallback=str)
            directory, held = _directory(asked, here, found)
            directory.write_json("baselines.json", {"baselines": blind})
            directory.write_json("loading.json", base.record())

        by_main(accelerator, begin)
        if directory is not None:
            for notice in _notices(recipe, base):
                display.say(notice)
            display.start(directory.path, trainable=trainable, total=total, data=data, plugins=registry.distributions)
        if found:
            display.say(
                f"goes on after step {resumed.state['used']['step']}" if resumed else "begins anew: no checkpoint"
            )
        if resumed and directory is not None:
            if "inputs" not in resumed.state:
                display.say("an older peftkit started the run: whether data and model are still the same is unknown")
            if versions := changed_versions(directory.environment()["packages"]):
                display.say(f"other versions than at the start: {', '.join(versions)}")
        with Signals() as signals:
            training = Training(
                recipe, model, base.form, data, meters, accelerator, directory, display, signals, counted, inputs
            )
            training.train(resumed)
        if directory is not None:
            outcome = _summary(recipe, training, directory.path, blind, trainable, total, base)
            outcome["revisions"] = dict(revisions)
            directory.write_json("summary.json", outcome)
            display.summary(outcome, directory.path)
        return directory.path if directory else None
    except Stop as stop:
        saved = directory.path if directory else "the run"
        step = training.used.step if training else 0
        text = f"{stop}: saved after step {step}; go on with: peftkit run RECIPE --resume {saved}"
        if directory is not None:
            directory.write_json("summary.json", {"status": "interrupted", "error": text})
        raise Interrupted(text, stop.number) from stop
    except DivergedError as error:
        if directory is not None and training is not None:
            spent = {"gmacs": training.used.macs / 1e9}
            directory.write_json("summary.json", {"status": "diverged", "error": str(error), "cost": spent})
        raise
    except BaseException as error:
        if directory is not None:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(RunError):  # the disk may be full
                directory.write_json("summary.json", {"status": status, "error": f"{type(error).__name__}: {error}"})
        raise
    finally:
        display.close()
        if held is not None:
            held.release()
        if training is not None:
            training.engine.release()
        close_world(accelerator)


def _notices(recipe: Recipe, base: Base) -> Iterator[str]:
    """What a user should know of the checkpoint and of the machine before a run."""
    checkpoint = (base.head.notice, base.loading.notice(recipe.model.name), generation_notice(base.ignored_generation))
    return filter(None, (*checkpoint, variables_notice(), read_launch().notice))


def _directory(recipe: Recipe, here: Mapping[str, Any], found: Path | None) -> tuple[RunDirectory, FileLock]:
    """The run directory, new or found, which no other process may write to; ``here`` is what it runs on."""
    if found is None:
        directory = RunDirectory.create(Path(recipe.run.output), recipe.run.name)
        held = lock(directory.path)
        directory.write_text("recipe.toml", dump_recipe(recipe))
        directory.write_json("environment.json", here)
    else:
        directory, held = RunDirectory(found), lock(found)
        if newest(found / "checkpoints") is None:  # it begins anew
            directory.write_text("evaluations.jsonl", "")
            directory.keep_examples([])
            directory.write_json("environment.json", here)
        else:
            _note_environment(directory, here)
    return directory, held


def _note_environment(directory: RunDirectory, now: Mapping[str, Any]) -> None:
    """Adds where a run goes on to where it has begun, unless they are alike: comparisons ask for both."""
    first = directory.environment()
    others = first.pop("resumed", [])
    del first["format"]
    if all(json.dumps(each, sort_keys=True) != json.dumps(now, sort_keys=True) for each in (first, *others)):
        directory.write_json("environment.json", {**first, "resumed": [*others, now]})


def _meter(component: Any) -> Meter:
    meter = component()
    assert isinstance(meter, Meter)  # the registry has checked it  # noqa: S101
    return meter


def _summary(
    recipe: Recipe, training: Training, folder: Path, blind: Scores, trainable: int, total: int, base: Base
) -> dict[str, Any]:
    selection, last, used, data = training.selection, training.rows[-1], training.used, training.data
    selected = selection.row or {}
    rows = data.sizes["train"]
    splits = ("train", "dev", "test")
    return {
        "status": "done",
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "name": recipe.run.name,
        "model": recipe.model.name,
        "model_kind": base.kind,
        "task": recipe.task.name,
        "method": recipe.method.name,
        "seed": recipe.run.seed,
        "init_seed": recipe.run.effective_init_seed,
        "order_seed": recipe.run.effective_order_seed,
        "selects": selection.value,
        "higher_is_better": selection.higher_is_better,
        "lower_is_better": sorted(value for value in selected["dev"] if not recipe.higher_is_better(value)),
        "selected": {
            "step": selected["step"],
            "train": selected["train"],
            **selection.reported,
            "curve": {split: selected[split] for split in selection.reported},
        },
        "final": {"step": last["step"], **{s: last[s] for s in splits if s in last}},
        "baselines": blind,
        "parameters": {"trainable": trainable, "total": total, "new_head": base.head.new},
        "kept_head": base.head.kept,
        "steps": used.step,
        "samples": used.samples,
        "epoch": used.epoch,
        "tokens": {"input": used.input_tokens, "target": used.target_tokens},
        "cost": last["cost"],
        "evaluation_seconds": training.evaluation_seconds,
        "counting_seconds": training.ledger.seconds,
        "model_bytes": folder_bytes(folder / "model"),
        "file_digests": RunDirectory(folder).file_digests(),
        "rows": dict(data.sizes),
        "rows_digests": dict(data.digests),
        "rows_evaluated": data.evaluated_rows,
        "rows_left_out_per_epoch": None if rows is None else rows % training.batch,
        "rows_cut": {split: dict(counts) for split, counts in data.cut.items()},
        "rows_also_in_train": dict(data.overlap),
        "resumed_after_steps": training.resumed,
        "steps_skipped": training.skipped,
        "effective_batch": training.batch,
        "rows_a_pass": training.passes.rows,
        "processes": training.accelerator.num_processes,
    }
