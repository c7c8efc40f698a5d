"""A finished run as a model again: its predictions on new text, its weights merged, its adapter with a card."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import nn

from peftkit.components import Context, Example, Task
from peftkit.data_files import parse_json
from peftkit.errors import InputError, MissingFieldsError, RowError, RunError, listed, one_line
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, load_recipe
from peftkit.runner import evaluation
from peftkit.runner.card import model_card
from peftkit.runner.data import EvaluationSplit
from peftkit.runner.forms import Form
from peftkit.runner.generation import keep_generation_config
from peftkit.runner.inputs import check_model_files
from peftkit.runner.models import keep_float64, load_base
from peftkit.runner.revisions import pinned, recorded_revisions
from peftkit.runner.versions import write_for_both
from peftkit.runner.world import close_world, make_accelerator, quiet_libraries
from peftkit.runs import RunDirectory

JSON_OBJECT = re.compile(r'\s*\{\s*["}]')
"""How a line begins that is a JSON object; others are texts, also if they begin with a brace."""
JSON_ARRAY = re.compile(r"\s*\[\s*(\{.*)?$", re.DOTALL)
"""How a file begins that is one JSON array of rows."""
READY_MADE = {"source", "candidates"}
"""The keys of an object that gives a source as the model reads it."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """The selected checkpoint of a finished run, ready to be used."""

    path: Path
    recipe: Recipe
    form: Form
    model: nn.Module
    device: torch.device
    base: frozenset[str]
    """The names of the base model's weights, before the method was applied."""


def open_run(path: Path, registry: Registry) -> Opened:
    """Loads the base model and puts on it what the run has saved.

    Raises:
        InputError: the folder is no finished run, what it saved does not fit, or the base model has changed since.
        RunError: the base model cannot be loaded.
    """
    quiet_libraries("warning")
    recipe = recipe_of(path, registry)
    base = load_base(recipe)
    check_model_files(path, base.form, recipe.model.name)
    summary = RunDirectory(path).summary()
    steps = summary["steps"]
    context = Context(
        base.kind,
        base.form.task_kind,
        recipe.run.effective_init_seed,
        max(1, steps),
        head_parameters=base.head.parameters,
    )
    names = frozenset(base.model.state_dict())
    weights = path / "model" if (path / "model").is_dir() else path  # an exported run
    torch.manual_seed(recipe.run.effective_init_seed)
    try:
        model = keep_float64(recipe, lambda: recipe.method.open(base.model, weights, context))
    except (OSError, ValueError, RuntimeError) as error:
        older = base.head.parameters and "new_head" not in summary["parameters"]
        reason = (
            "an older peftkit has not saved all of its classification head; run the recipe again" if older else error
        )
        raise InputError(f"{weights} cannot be opened: {reason}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Opened(path, recipe, base.form, model.to(device).eval(), device, names)


def recipe_of(path: Path, registry: Registry) -> Recipe:
    """The recipe of a finished run, with the commits that it used of the hub's model and data set.

    Raises:
        InputError: the folder is none, or the run has not come to its end.
    """
    if not (path / "recipe.toml").is_file():
        raise InputError(f"{str(path)!r} is no run directory: it has no recipe.toml")
    status = RunDirectory(path).summary().get("status")
    if status != "done":
        raise InputError(f"{str(path)!r} is {status}; finish it with: peftkit run RECIPE --resume {path}")
    return pinned(load_recipe(path / "recipe.toml", registry), recorded_revisions(path) or {})


def predict(
    opened: Opened,
    inputs: Iterable[str | Mapping[str, Any]],
    batch: int | None = None,
    *,
    stream: bool = False,
    name: str = "",
) -> Iterator[dict[str, Any]]:
    """Predictions for lines of text or rows, in their order, by the code that evaluates a run.

    The rows of a split, without their answers, give exactly the predictions that the run has stored of them: they are
    sorted and batched alike. With ``stream`` each batch of lines is predicted as it comes, so that other texts pad it,
    and numbers can differ in their last bits.

    Args:
        opened: the run.
        inputs: each a text for the one field that the task's prompt needs, or a row as a mapping or a JSON object: with
            the fields that the prompt needs, or else a ready-made ``source`` with ``candidates`` where each row has its
            own. Empty lines are left out.
        batch: examples that go through the model together; None for the recipe's ``evaluate.batch_size``.
        stream: whether to predict batch by batch instead of reading all lines first.
        name: the file that messages name.

    Yields:
        What the run's ``predictions/`` hold of an example, but for ``index`` and what needs the answer: ``source`` and
        ``prediction``; where there are candidates, also ``prediction_norm``, ``candidates``, ``log_likelihoods``,
        ``candidate_tokens``, and their ``probabilities``, which add up to one.

    Raises:
        InputError: a line is wrong, with its number.
    """
    recipe = opened.recipe
    if batch is not None:
        recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"batch_size": batch})})
    numbered = _numbered(inputs, name)
    with as_trained(opened) as accelerator:
        while group := list(islice(numbered, recipe.evaluate.batch_size if stream else None)):
            split = _split(opened, group)
            found = evaluation.predict(opened.model, split, recipe, opened.form, accelerator, answered=False)
            for prediction, example in zip(found, split.examples, strict=True):
                del prediction["index"]
                yield prediction | _probabilities(prediction, example, recipe.evaluate.scoring)


@contextmanager
def as_trained(opened: Opened) -> Iterator[Accelerator]:
    """The surroundings in which the run was evaluated: its device and mixed precision, in one process."""
    precision = opened.recipe.train.mixed_precision
    if precision == "fp16" and opened.device.type == "cpu":
        log.warning("the run was evaluated in fp16, which needs a GPU: predicting in %s", opened.recipe.model.dtype)
        precision = "no"
    accelerator = make_accelerator(mixed_precision=precision, cpu=opened.device.type == "cpu")
    if precision != "no":
        accelerator.prepare_model(opened.model, evaluation_mode=True)
    try:
        yield accelerator
    finally:
        accelerator.unwrap_model(opened.model, keep_fp32_wrapper=False)
        close_world(accelerator)


def _numbered(inputs: Iterable[str | Mapping[str, Any]], name: str) -> Iterator[tuple[str, str | Mapping[str, Any]]]:
    """Each line that is not empty, and each row, with its place."""
    file = f"{name}, " if name else ""
    for number, given in enumerate(inputs, 1):
        if not isinstance(given, str):
            yield f"{file}row {number}", given
        elif given.strip():
            if number == 1 and JSON_ARRAY.match(given):
                raise InputError(f"{file}line 1: begins a JSON array; write one object a line, or name the file .json")
            yield f"{file}line {number}", given.rstrip("\r\n")


def _split(opened: Opened, inputs: Sequence[tuple[str, str | Mapping[str, Any]]]) -> EvaluationSplit:
    """Lines and rows with their places as examples, and these as token ids."""
    form, ranked = opened.form, opened.recipe.task.kind != "generation"
    examples = [_example(opened.recipe.task, place, given) for place, given in inputs]
    try:
        rows = form.encode(examples, ranked=ranked)
    except RowError:
        for (place, _), example in zip(inputs, examples, strict=True):
            try:
                form.encode([example], ranked=ranked)
            except RowError as error:
                raise InputError(f"{place}: {error}") from error
        raise
    return EvaluationSplit("predict", list(range(len(rows))), examples, rows)


def _example(task: Task, place: str, given: str | Mapping[str, Any]) -> Example:
    """The example of a line or row, without an answer.

    Raises:
        InputError: the line or row is wrong.
    """
    noun = "a JSON object" if isinstance(given, str) else "a row"
    if isinstance(given, str) and JSON_OBJECT.match(given):
        try:
            given = cast("Mapping[str, Any]", parse_json(given))
        except ValueError as error:
            raise InputError(f"{place}: is not a JSON object: {error}") from error
    row = None if isinstance(given, str) else given
    try:
        return task.to_prompt({_input_field(task): given} if row is None else row)
    except MissingFieldsError as error:
        if row is not None and row.keys() <= READY_MADE and "source" in row.keys() - {*_input_fields(task)}:
            return _ready_made(task, place, row)
        ready = '"source" and "candidates"' if task.kind == "multiple_choice" else '"source"'
        needed = f"{task.name!r} needs {noun} with {listed(_input_fields(task))}"
        raise InputError(f"{place}: {error}; {needed}, or one with a ready-made {ready}") from error
    except RowError as error:
        raise InputError(f"{place}: {error}") from error
    except Exception as error:  # a plugin's task
        raise InputError(f"{place}: the task {task.name!r} fails on it: {one_line(error)}") from error


def _input_fields(task: Task) -> tuple[str, ...]:
    """The fields that a row needs for a prediction."""
    try:
        task.to_prompt({})
    except MissingFieldsError as error:
        return error.fields
    return ()


def _input_field(task: Task) -> str:
    """The field that a plain line of text stands for.

    Raises:
        MissingFieldsError: the prompt needs several fields.
    """
    fields = _input_fields(task)
    if len(fields) != 1:
        raise MissingFieldsError(fields, "a line of text can stand for one field only")
    return fields[0]


def _ready_made(task: Task, place: str, given: Mapping[str, Any]) -> Example:
    """An example whose source is given as the model reads it."""
    source, candidates = given["source"], given.get("candidates") or list(task.labels)
    if not isinstance(source, str) or not all(isinstance(c, str) for c in candidates):
        raise InputError(f"{place}: source must be a text, and candidates a list of texts")
    if task.kind == "generation":
        return Example(source, "")
    if len(set(candidates)) < 2 or len(set(candidates)) < len(candidates):
        raise InputError(f'{place}: a choice needs "candidates", at least two and all different')
    return Example(source, candidates[0], tuple(candidates))


def _probabilities(prediction: Mapping[str, Any], example: Example, scoring: str) -> dict[str, Any]:
    """How likely each candidate is among the candidates, by the score that ranks them."""
    if not example.candidates:
        return {}
    sums, tokens = prediction["log_likelihoods"], prediction["candidate_tokens"]
    chosen = sums if scoring == "sum" else [s / max(n, 1) for s, n in zip(sums, tokens, strict=True)]
    highest = max(chosen)
    weights = [math.exp(score - highest) for score in chosen]
    return {"probabilities": dict(zip(example.candidates, (w / sum(weights) for w in weights), strict=True))}


def merge(opened: Opened, out: Path) -> float:
    """Writes the model with what was learnt folded into its weights, in the form of ``from_pretrained``.

    Returns:
        How far the logits of a few tokens are from those before.

    Raises:
        InputError: the method cannot be merged, or the folder is not empty.
        RunError: the merged model says something else.
    """
    _empty(out)
    method = opened.recipe.method
    before = _logits(opened, opened.model)
    merged = method.merge(opened.model)
    if different := sorted(merged.state_dict().keys() ^ opened.base):
        raise RunError(
            f"{method.name!r} cannot be merged: it leaves {len(different)} weights of its own, {different[0]}"
        )
    difference = (_logits(opened, merged) - before).abs().max().item()
    tolerance = method.merge_tolerance * max(1.0, before.abs().max().item())
    if not difference <= tolerance:
        raise RunError(f"merged, the model says something else: logits differ by {difference:.1e}")
    _untie(merged, opened.form.config)
    cast(Any, merged).save_pretrained(out)
    opened.form.tokenizer.save_pretrained(out)
    write_for_both(out)
    keep_generation_config(opened.recipe.model.name, opened.recipe.model.revision, out)
    (out / "README.md").write_text(model_card(opened.path, opened.recipe, merged=True), encoding="utf-8")
    return difference


def _untie(merged: nn.Module, config: Any) -> None:
    """Lets a merged model's config say that its output layer is no longer its embedding, where that was trained apart.

    Raises:
        RunError: the model cannot be loaded with the two apart.
    """
    model: Any = merged
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    text = model.config.get_text_config()
    if head is None or not text.tie_word_embeddings or torch.equal(head.weight, embedding.weight):
        return
    if getattr(config, "is_encoder_decoder", False):
        raise RunError(
            "the output layer was trained apart from the embedding, which this model holds as one; leave them out of "
            "modules_to_save and target_modules, or load the run with peftkit.load_model"
        )
    model.config.tie_word_embeddings = text.tie_word_embeddings = False


def export(path: Path, registry: Registry, out: Path) -> None:
    """Copies what a finished run has saved, in the form of the method's library, with a model card.

    Raises:
        InputError: the folder is no finished run, or the target is not empty.
    """
    _empty(out)
    recipe = recipe_of(path, registry)
    shutil.copytree(path / "model", out, dirs_exist_ok=True)
    config = out / "adapter_config.json"
    if config.is_file():  # the base's name for others, not where it lies here
        described = json.loads(config.read_text(encoding="utf-8"))
        described["base_model_name_or_path"] = recipe.model.name
        config.write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (out / "README.md").write_text(model_card(path, recipe), encoding="utf-8")
    for name in ("recipe.toml", "summary.json"):  # with these, peftkit.load_model opens the folder like the run
        shutil.copyfile(path / name, out / name)


def _empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{str(out)!r} is there already and not an empty folder; name another")


def _logits(opened: Opened, model: nn.Module) -> torch.Tensor:
    """What the model says of a few tokens."""
    ids = torch.arange(4, 12, device=opened.device)[None]
    inputs: Mapping[str, torch.Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if opened.form.auto_class == "AutoModelForSeq2SeqLM":
        inputs = {**inputs, "decoder_input_ids": ids}
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(**inputs).logits
    return logits.float().clone()
