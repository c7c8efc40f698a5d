"""Explains a recipe: what the run does, in sentences, and every setting with its meaning."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from peftkit.components import Component
from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.errors import comma_separated
from peftkit.recipe import Recipe
from peftkit.recipe.tables.intervals import parse_interval

UNITS = {"seconds": "seconds of training", "wall_seconds": "seconds in all", "gmacs": "GMACs"}
"""The units of budgets whose keys are no words."""
WIDTH = 100
"""The largest number of characters of a line."""


@dataclass(frozen=True)
class Setting:
    """A setting of a recipe."""

    key: str
    value: Any
    """The value, as JSON."""
    is_default: bool
    """Whether the recipe leaves it at its default."""
    description: str


def explain_recipe(recipe: Recipe) -> dict[str, Any]:
    """Explain a recipe.

    Args:
        recipe: The recipe.

    Returns:
        ``summary``, sentences that say what the run does, and ``settings``: those that the recipe sets, and the
        defaults that turn something on or set a number.
    """
    return {"summary": [*_summary(recipe)], "settings": [asdict(each) for each in _settings(recipe, "")]}


def explanation_text(explained: dict[str, Any]) -> str:
    """Write an explanation as text.

    Args:
        explained: What ``explain_recipe`` returned.
    """
    lines = [line for sentence in explained["summary"] for line in textwrap.wrap(sentence, WIDTH)]
    for title, is_default in (("Set by the recipe:", False), ("Defaults:", True)):
        chosen = [each for each in explained["settings"] if each["is_default"] == is_default]
        lines += ["", title] if chosen else []
        for each in chosen:
            lines.append(f"  {each['key']} = {json.dumps(each['value'], ensure_ascii=False)}")
            lines += textwrap.wrap(each["description"], WIDTH, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _summary(recipe: Recipe) -> Iterator[str]:
    method, task, train, evaluate = recipe.method, recipe.task, recipe.train, recipe.evaluate
    yield f"Trains {recipe.model.name} on {task.name} with {method.name}."
    components = [("Task", task), ("Method", method), ("Objective", recipe.objective)]
    components += [("Metric", each) for each in recipe.metric] + [("Callback", each) for each in recipe.callback]
    for kind, component in components:
        if component is not None:
            yield f"{kind} {component.name}: {_first_sentence(inspect.getdoc(type(component)) or '')}"
    limits = [_count(value, UNITS.get(key, key)) for key, value in train.budget if value is not None]
    yield f"Training ends after {' or '.join(limits)}{', whichever comes first' if limits[1:] else ''}."
    batches = train.gradient_accumulation_steps
    rows = f"{train.tokens_per_batch:,} tokens" if train.tokens_per_batch else f"{train.batch_size * batches} rows"
    yield (
        f"A step has {rows}{f' in {batches} batches' if batches > 1 else ''}, times the number of processes; "
        f"{train.optimizer} has a learning rate of {train.learning_rate:g} ({train.schedule} schedule)."
    )
    dev = "all dev rows" if evaluate.dev_examples is None else _count(evaluate.dev_examples, "dev rows")
    test = "all test rows" if evaluate.test_examples is None else _count(evaluate.test_examples, "test rows")
    all_rows = (dev, test) == ("all dev rows", "all test rows")
    start = "before training and " if evaluate.at_start else ""
    yield f"The model is evaluated {start}{_interval(evaluate.every)}, on {dev} and {test}."
    yield (
        f"The checkpoint with the best dev {evaluate.selection_metric or type(task).selection_metric} is selected"
        + (", and evaluated on all rows." if evaluate.full_splits and not all_rows else ".")
    )
    if recipe.probe:
        yield f"Probes measure what the model forgets: {comma_separated([each.name for each in recipe.probe])}."


def _count(number: float, unit: str) -> str:
    """Write a number with its unit, which is a plural."""
    return f"{number:,g} {unit.removesuffix('s') if number == 1 else unit}"


def _interval(every: str) -> str:
    """Write the interval of evaluations."""
    number, unit = parse_interval(every)
    if unit == "log":
        return f"{number:g} times, evenly spaced on a logarithmic scale"
    return f"after every {number:g} % of the budget" if unit == "%" else f"every {_count(number, unit)}"


def _settings(table: BaseModel, prefix: str) -> Iterator[Setting]:
    """Yield the settings of a table and those below it that are set, or whose defaults turn something on."""
    texts = option_descriptions(type(table))
    for key in type(table).model_fields:
        value, is_set = getattr(table, key), key in table.model_fields_set
        if key == ("name" if isinstance(table, Component) else "format"):  # the sentences have the names
            continue
        if isinstance(value, BaseModel):
            yield from _settings(value, f"{prefix}{key}.")
        elif isinstance(value, tuple) and value and all(isinstance(each, BaseModel) for each in value):
            for each in value:
                yield from _settings(each, f"{prefix}{key}.{getattr(each, 'name', '')}.")
        elif is_set or value not in (None, False, "", (), [], {}):
            yield Setting(
                f"{prefix}{key}",
                to_jsonable_python(value, fallback=str),
                not is_set,
                _first_sentence(texts[key]),
            )


def _first_sentence(text: str) -> str:
    """Return the first sentence of a docstring, with single backquotes."""
    text = " ".join(text.partition("\n\n")[0].replace("``", "`").split())
    return re.split(r"(?<=\.)\s+(?=[A-Z`\"])", text)[0]
