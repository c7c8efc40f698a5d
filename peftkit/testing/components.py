"""What must hold for every task and every metric: a check raises where it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from peftkit.components import Between, Component, Example, Method, Metric, Task
from peftkit.errors import MissingFieldsError
from peftkit.plugins import load_registry

LOOKED_AT = 200
LEARNING_RATE = "train.learning_rate"


def round_trip(component: Component) -> None:
    """Checks that options survive a round trip through JSON, have descriptions, and that unknown ones are refused.

    Args:
        component: A component with its options.

    Raises:
        AssertionError: The check failed.
    """
    kind = type(component)
    again = kind.model_validate_json(component.model_dump_json(), strict=True)
    assert again == component, f"{again!r} was read back where {component!r} was written"
    undescribed = [key for key, field in kind.model_fields.items() if key != "name" and not field.description]
    assert not undescribed, f"options without a description: {undescribed}"
    assert kind.model_config.get("extra") == "forbid", "unknown options have to be refused"


def searches_published_rates(method: Method | type[Method]) -> None:
    """Checks that the search range of the learning rate contains each published one, with a factor of 2 to either end.

    Args:
        method: A method or its class. One without published rates passes.

    Raises:
        AssertionError: A published rate is outside, or the learning rate is not tuned over a range.
    """
    of = method.search.get(LEARNING_RATE)
    for published in method.published_rates:
        assert isinstance(of, Between), f"it declares published rates, and no range of {LEARNING_RATE} in search"
        outside = [rate for rate in published.rates if not 2 * of.low <= rate <= of.high / 2]
        assert not outside, (
            f"published with a learning rate of {outside[0]:g} ({published.source}), which is outside "
            f"{of.low:g} to {of.high:g}, or less than a factor of 2 from an end; widen {LEARNING_RATE} in search"
        )


def check_task(task: Task) -> None:
    """Checks that a task has three splits of valid examples, and that a prompt is the same without the answer.

    Args:
        task: The task with its options.

    Raises:
        AssertionError: The check failed.
    """
    round_trip(task)
    metrics = load_registry().of("metric")
    given: list[str] = []
    for name in task.metrics:
        assert name in metrics, f"no metric is called {name!r}"
        metric = metrics[name].component()  # type: ignore[call-arg]
        assert isinstance(metric, Metric)
        assert task.kind in metric.kinds, f"{name!r} does not score {task.kind}"
        given += metric.value_names
    assert task.selects in given, f"none of its metrics gives {task.selects!r}, by which it selects"
    splits = task.load()
    for split in ("train", "dev", "test"):
        assert split in splits, f"there is no split {split!r}"
        rows = list(islice(splits[split], LOOKED_AT))
        assert rows, f"the split {split!r} is empty"
        _check_examples(task, split, [task.encode(row) for row in rows])
        _check_prompts(task, split, rows)


def _check_prompts(task: Task, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A row's prompt is that of its example, also once the fields are gone that the prompt does not need."""
    needless = [field for field in rows[0] if not _needs(task, split, rows, field)]
    for row in rows:
        example = task.encode(row)
        for given in (row, {field: value for field, value in row.items() if field not in needless}):
            prompt = task.to_prompt(given)
            for part in ("source", "candidates", "context"):
                expected, found = getattr(example, part), getattr(prompt, part)
                assert found == expected, (
                    f"{split}: to_prompt gives the {part} {found!r} where encode gives {expected!r}"
                )
            assert prompt.target == next(iter(prompt.candidates), ""), f"{split}: to_prompt knows the answer"


def _needs(task: Task, split: str, rows: Sequence[Mapping[str, Any]], field: str) -> bool:
    """Whether a prediction needs the field, which the prompt or the candidates then have to show."""
    try:
        task.to_prompt({key: value for key, value in rows[0].items() if key != field})
    except MissingFieldsError as error:
        missing = error
    except Exception as error:
        raise AssertionError(f"{split}: without {field!r} to_prompt raises no MissingFieldsError: {error!r}") from error
    else:
        return False
    if missing.__cause__ is not None:  # encode failed without the field
        shown = all(_shows(task.encode(row), row[field]) for row in rows)
        assert shown, f"{split}: a row without {field!r} cannot be predicted: {missing}"
    return True


def _shows(example: Example, value: object) -> bool:
    return str(value) in "".join([example.source, *example.candidates])


def _check_examples(task: Task, split: str, examples: Sequence[Example]) -> None:
    for example in examples:
        assert example.source.strip(), f"{split}: a source is empty"
        assert example.target.strip(), f"{split}: a target is empty"
        if task.kind == "generation":
            assert not example.candidates, f"{split}: free text has no candidates"
            continue
        assert example.target in example.candidates, f"{split}: the target is none of {example.candidates}"
        assert len(set(example.candidates)) == len(example.candidates) >= 2, f"{split}: candidates {example.candidates}"
        if task.kind == "classification":
            assert example.candidates == task.labels, f"{split}: the candidates are not the labels"
    if task.kind == "multiple_choice" and len(examples) >= LOOKED_AT:
        first = sum(e.candidates[0] == e.target for e in examples) / len(examples)
        assert first < 1, f"{split}: the first choice is always right"


def check_metric(metric: Metric) -> None:
    """Checks that a metric returns the values it names, prefers correct answers, and does not depend on the order.

    Args:
        metric: The metric with its options.

    Raises:
        AssertionError: The check failed.
    """
    round_trip(metric)
    examples = [
        Example("which colour has the sky", "blue", ("blue", "red")),
        Example("which colour has blood", "red", ("blue", "red")),
        Example("which colour has the sea", "blue", ("blue", "red")),
    ]
    references = [[e.target] for e in examples]
    right = metric.compute([e.target for e in examples], references, examples)
    wrong = metric.compute(["red", "blue", "red"], references, examples)
    turned = metric.compute([e.target for e in examples[::-1]], references[::-1], examples[::-1])
    assert set(right) == set(metric.value_names), f"it gives {sorted(right)} and names {sorted(metric.value_names)}"
    assert all(math.isfinite(v) for v in (*right.values(), *wrong.values())), "values that are no numbers"
    for key, value in right.items():
        assert math.isclose(value, turned[key], abs_tol=1e-9), f"{key} depends on the order of the examples"
        better = value >= wrong[key] if metric.higher_is_better else value <= wrong[key]
        assert better, f"{key} is {value} for right answers and {wrong[key]} for wrong ones"
