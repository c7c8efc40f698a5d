"""Predict new text and rows with a finished run."""

from __future__ import annotations

import logging
import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

from peftkit.components import Example, Task
from peftkit.data.tokenized_split import TokenizedSplit, find_tokenization_problems, tokenize_examples
from peftkit.data_files import parse_json
from peftkit.errors import InputError, MissingFieldsError, RowError, closest, comma_separated, summarize_error
from peftkit.evaluate import evaluator
from peftkit.inference.finished_run import FinishedRun, evaluation_context
from peftkit.models import BoundObjective

log = logging.getLogger(__name__)
JSON_OBJECT = re.compile(r'\s*\{\s*["}]')
"""Matches a line that is a JSON object; other lines are plain text, even if they start with a brace."""
JSON_ARRAY = re.compile(r"\s*\[\s*(\{.*)?$", re.DOTALL)
"""Matches the first line of a file that is one JSON array of rows."""
MOST_NAMED = 5
"""Number of lines without a prediction that are named."""
READY_MADE = {"source", "candidates"}
"""Keys of a row that gives the model's input directly, without the task's prompt."""


def predict(
    run: FinishedRun,
    inputs: Iterable[str | Mapping[str, Any]],
    batch: int | None = None,
    *,
    stream: bool = False,
    name: str = "",
) -> Iterator[dict[str, Any]]:
    """Predict lines of text or rows, in order, with the same code that evaluates a run.

    The unlabeled rows of a split give exactly the predictions that the run stored, because they are sorted and batched
    in the same way. With ``stream``, batches are padded differently, so log-likelihoods may differ in the last bits.

    Args:
        run: The run.
        inputs: Each is a line of text for the one field of the task's prompt, or a row as a mapping or a JSON object:
            with the fields of the prompt, or with a ready-made ``source`` and, where each row has its own,
            ``candidates``.
        batch: Examples per batch; None for the recipe's ``evaluate.batch_size``.
        stream: Whether to predict batch by batch instead of reading all inputs first.
        name: The file name that error messages show.

    Yields:
        For each input, the same keys as the run's ``predictions/``, without ``index`` and what needs the answer:
        ``source`` and ``prediction``; if there are candidates, also ``prediction_norm``, ``candidates``,
        ``log_likelihoods``, ``candidate_tokens``, and their ``probabilities``, which add up to one. An empty line has
        the prediction None, and is listed in a warning. So is an invalid row, with the reason as ``skipped``, if the
        task skips invalid rows.

    Raises:
        InputError: A line is invalid, or more rows are than the task may skip; the message has its number.
    """
    recipe = run.recipe
    if batch is not None:
        recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"batch_size": batch})})
    numbered = _with_locations(inputs, name)
    number, empty, skipped = 0, list[str](), list[str]()
    with evaluation_context(run) as accelerator:
        while group := list(islice(numbered, recipe.evaluate.batch_size if stream else None)):
            number += len(group)
            filled = [each for each in group if not _is_empty(each[1])]
            allowed = recipe.task.most_skipped_rows(number)
            examples, reasons = _build_examples(run.objective, filled, skips=allowed > 0)
            skipped += [f"{place}: {reason}" for place, reason in reasons.items()]
            if len(skipped) > allowed:
                share = f"{len(skipped)} of {number} rows are invalid, and max_bad allows {allowed}"
                raise InputError(f"{share}; the first is {skipped[0]}")
            if reasons and not stream and not examples:
                raise InputError(f"no row is valid; the first is {skipped[0]}")
            predictions: Iterator[tuple[dict[str, Any], Example]] = iter(())
            if examples:
                split = _build_split(run.objective, examples)
                predicted = evaluator.predict(run.model, split, recipe, run.objective, accelerator, answered=False)
                predictions = zip(predicted, split.examples, strict=True)
            for place, line_or_row in group:
                if _is_empty(line_or_row):
                    empty.append(place)
                    yield {"source": "", "prediction": None}
                elif place in reasons:
                    yield {"source": "", "prediction": None, "skipped": reasons[place]}
                else:
                    prediction, example = next(predictions)
                    del prediction["index"]
                    yield prediction | _candidate_probabilities(prediction, example, recipe.evaluate.scoring)
    _warn("lines are empty", empty, number)
    _warn("rows are invalid and skipped", skipped, number)


def _warn(what: str, places: Sequence[str], number: int) -> None:
    """Warn of inputs without a prediction, and name the first ones."""
    if places:
        more = f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else ""
        named = ("; " if any(": " in place for place in places) else ", ").join(places[:MOST_NAMED])
        log.warning("%s of %s %s, so their prediction is null: %s%s", len(places), number, what, named, more)


def _is_empty(line_or_row: str | Mapping[str, Any]) -> bool:
    return isinstance(line_or_row, str) and not line_or_row.strip()


def _with_locations(
    inputs: Iterable[str | Mapping[str, Any]], name: str
) -> Iterator[tuple[str, str | Mapping[str, Any]]]:
    """Yield each row and each line with its location."""
    file = f"{name}, " if name else ""
    for number, line_or_row in enumerate(inputs, 1):
        if isinstance(line_or_row, Mapping):
            yield f"{file}row {number}", line_or_row
        elif not isinstance(line_or_row, str):
            raise InputError(f"{file}row {number}: must be a text or a row, not {reprlib.repr(line_or_row)}")
        else:
            if number == 1 and JSON_ARRAY.match(line_or_row):
                raise InputError(
                    f"{file}line 1: starts a JSON array; write one object per line, or rename the file to .json"
                )
            yield f"{file}line {number}", line_or_row.rstrip("\r\n")


def _build_examples(
    objective: BoundObjective, inputs: Sequence[tuple[str, str | Mapping[str, Any]]], *, skips: bool
) -> tuple[dict[str, Example], dict[str, str]]:
    """Build the unlabeled examples of located inputs.

    Args:
        objective: The objective.
        inputs: The location of each line or row, and its content.
        skips: Whether invalid rows are left out instead of raised.

    Returns:
        The examples, and what is wrong with each row that is left out, by location.

    Raises:
        InputError: A line or row is invalid.
    """
    examples: dict[str, Example] = {}
    reasons: dict[str, str] = {}
    for place, line_or_row in inputs:
        try:
            examples[place] = _build_example(objective, place, line_or_row)
        except RowError as error:
            if not skips:
                raise InputError(f"{place}: {error}") from error
            reasons[place] = str(error)
    if skips and examples:
        problems = find_tokenization_problems(objective, "predict", [*examples.values()])
        for place, problem in zip([*examples], problems, strict=True):
            if problem is not None:
                del examples[place]
                reasons[place] = problem
    return examples, reasons


def _build_split(objective: BoundObjective, examples: Mapping[str, Example]) -> TokenizedSplit:
    """Build a tokenized split from examples by location."""
    return tokenize_examples(
        objective, "predict", [*examples.values()], range(len(examples)), training=False, locate=[*examples].__getitem__
    )


def _build_example(objective: BoundObjective, place: str, line_or_row: str | Mapping[str, Any]) -> Example:
    """Build the unlabeled example of a line or row.

    Raises:
        RowError: The line or row is invalid.
        InputError: The line is no JSON, or the task fails.
    """
    task = objective.task
    noun = "a JSON object" if isinstance(line_or_row, str) else "a row"
    if isinstance(line_or_row, str) and JSON_OBJECT.match(line_or_row):
        try:
            line_or_row = cast("Mapping[str, Any]", parse_json(line_or_row))
        except ValueError as error:
            raise InputError(f"{place}: not a JSON object: {error}") from error
    row = None if isinstance(line_or_row, str) else line_or_row
    try:
        return task.to_prompt({_input_field(task): line_or_row} if row is None else row)
    except MissingFieldsError as error:
        if row is not None and row.keys() <= READY_MADE and "source" in row.keys() - {*_input_fields(task)}:
            return _build_ready_made(objective, row)
        needs_candidates = objective.component.ranks and not task.labels
        ready = '"source" and "candidates"' if needs_candidates else '"source"'
        needed = f"{task.name!r} needs {noun} with {comma_separated(_input_fields(task))}"
        hint = _misspelled_fields(row or {}, error.fields)
        reason = f"{error.text}{hint}; {needed}, or one with a ready-made {ready}"
        raise RowError(", ".join(error.fields), reason) from error
    except InputError:
        raise
    except Exception as error:  # a plugin's task
        raise InputError(f"{place}: the task {task.name!r} failed: {summarize_error(error)}") from error


def _misspelled_fields(row: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Name the fields of a row that are similar to missing ones; empty if none is."""
    others = [key for key in row if key not in fields]
    similar = {closest(field, others): field for field in fields if field not in row}
    return "".join(f"; there is {key!r} (did you mean {field!r}?)" for key, field in similar.items() if key)


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
        MissingFieldsError: The prompt needs several fields.
    """
    fields = _input_fields(task)
    if len(fields) != 1:
        raise MissingFieldsError(fields, "a line of text stands for exactly one field")
    return fields[0]


def _build_ready_made(objective: BoundObjective, row: Mapping[str, Any]) -> Example:
    """Build an example from a row that gives the model's input directly.

    Raises:
        RowError: The source is not a text, or the candidates are not those that the run can rank.
    """
    source, candidates, labels = row["source"], row.get("candidates"), list(objective.task.labels)
    if not isinstance(source, str):
        raise RowError("source", f"must be a string, not {reprlib.repr(source)}")
    if not objective.component.ranks:
        if candidates:
            raise RowError("candidates", f"{objective.task.name!r} generates a text and ranks no candidates")
        return Example(source, "")
    if candidates is None or candidates == []:
        candidates = labels
    if not isinstance(candidates, list | tuple) or not all(isinstance(c, str) for c in candidates):
        raise RowError("candidates", f"must be a list of strings, not {reprlib.repr(candidates)}")
    if len(set(candidates)) < 2 or len(set(candidates)) < len(candidates):
        raise RowError("candidates", "needs at least two, all different")
    head = objective.component.head(objective.task)
    if head is not None and head.outputs > 1 and list(candidates) != labels:
        raise RowError(
            "candidates",
            f"the head has one output for each of {comma_separated(labels)}, in this order; leave the candidates out",
        )
    return Example(source, candidates[0], tuple(candidates))


def _candidate_probabilities(prediction: Mapping[str, Any], example: Example, scoring: str) -> dict[str, Any]:
    """Softmax of the candidates' scores, with the scoring that ranks them."""
    if "log_likelihoods" not in prediction:
        return {}
    sums, tokens = prediction["log_likelihoods"], prediction["candidate_tokens"]
    chosen = sums if scoring == "sum" else [s / max(n, 1) for s, n in zip(sums, tokens, strict=True)]
    highest = max(chosen)
    weights = [math.exp(score - highest) for score in chosen]
    return {"probabilities": dict(zip(example.candidates, (w / sum(weights) for w in weights), strict=True))}
