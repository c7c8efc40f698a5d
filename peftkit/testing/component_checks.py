"""Checks of components, tasks, metrics and meters, which raise ``AssertionError`` if they fail."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import islice
from typing import Any

from peftkit.components import Component, Example, Meter, Method, Metric, Objective, Range, StepStats, Task
from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.errors import MissingFieldsError
from peftkit.plugins import BASE_CLASSES, load_registry
from peftkit.testing.registries import registry_of

MAX_ROWS = 200
"""The number of rows of each split that are checked."""
LEARNING_RATE = "train.learning_rate"


def check_round_trip(component: Component) -> None:
    """Check that options survive a round trip through JSON, have descriptions, and that unknown ones are rejected.

    Args:
        component: A component with its options.

    Raises:
        AssertionError: The check failed.
    """
    component_class = type(component)
    loaded = component_class.model_validate_json(component.model_dump_json(), strict=True)
    assert loaded == component, f"{component!r} was written, but {loaded!r} was read back"
    undescribed = [key for key, text in option_descriptions(component_class).items() if key != "name" and not text]
    assert not undescribed, f"options without a description: {undescribed}"
    assert component_class.model_config.get("extra") == "forbid", "unknown options must be rejected"


def check_registered(component: type[Component]) -> None:
    """Check that an installed plugin registers a class under its name.

    Args:
        component: The class.

    Raises:
        AssertionError: No plugin does, or its import fails.
    """
    registry = load_registry()
    name = component.model_fields["name"].default
    kind = next(kind for kind, base in BASE_CLASSES.items() if issubclass(component, base))
    entry = registry.all(kind).get(name)
    assert entry is not None, (
        f"no installed plugin registers the {kind} {name!r}; install it (pip install -e .) and return its class from "
        f"register_{kind}s{registry.why_missing(name)}"
    )
    assert entry.component is component, f"{kind} {name!r} is another class, of {entry.distribution} {entry.version}"


def check_published_rates(method: Method | type[Method]) -> None:
    """Check that the search range of the learning rate contains each published one, a factor of 2 from either end.

    Args:
        method: A method or its class. Methods without published rates pass.

    Raises:
        AssertionError: A published rate is outside the range, or there is no range.
    """
    search_range = method.search_space.get(LEARNING_RATE)
    for published in method.published_rates:
        assert isinstance(search_range, Range), (
            f"the method has published_rates, but its search_space has no range for {LEARNING_RATE}"
        )
        outside = [rate for rate in published.rates if not 2 * search_range.low <= rate <= search_range.high / 2]
        assert not outside, (
            f"the published learning rate {outside[0]:g} ({published.source}) is outside {search_range.low:g} to "
            f"{search_range.high:g}, or less than a factor of 2 from an end; widen {LEARNING_RATE} in search_space"
        )


def check_task(task: Task) -> None:
    """Check that a task has three splits of valid examples, and that prompts do not depend on the answer.

    What a finished run stores of the data is JSON, with which the task has the same labels and prompts.

    Args:
        task: The task with its options.

    Raises:
        AssertionError: The check failed.
    """
    check_round_trip(task)
    registry = registry_of(task)
    metrics = registry.all("metric")
    values: list[str] = []
    for name in task.metrics:
        assert name in metrics, f"no metric is called {name!r}"
        metric = metrics[name].component()  # type: ignore[call-arg]
        assert isinstance(metric, Metric)
        assert task.kind in metric.kinds, f"{name!r} does not score {task.kind}"
        values += metric.value_names
    assert task.selection_metric in [*values, "loss"], (
        f"none of the metrics has the value {task.selection_metric!r} of selection_metric"
    )
    objectives = [entry.component for entry in registry.all("objective").values()]
    ranks = {o.ranks for o in objectives if issubclass(o, Objective) and o.task_kind == task.kind}
    assert ranks, f"no installed objective is for tasks of the kind {task.kind!r}"
    splits = task.load()
    for split in ("train", "dev", "test"):
        assert split in splits, f"there is no split {split!r}"
        rows = list(islice(splits[split], MAX_ROWS))
        assert rows, f"the split {split!r} is empty"
        _check_examples(task, split, [task.to_example(row) for row in rows], ranked=ranks == {True})
        _check_prompts(task, split, rows)
    _check_data_state(task, [row for _, row in zip(range(MAX_ROWS), splits["test"], strict=False)])


def _check_data_state(task: Task, rows: Sequence[Mapping[str, Any]]) -> None:
    """Check that a task is the same with what a run stores of its data."""
    state = task.data_state()
    try:
        stored = json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"data_state returns {state}, which is not JSON: {error}") from error
    recorded = task.with_data_state(stored)
    for part in ("labels", "targets", "empty_answer"):
        expected, actual = getattr(task, part), getattr(recorded, part)
        assert actual == expected, f"with_data_state: {part} is {actual!r} instead of {expected!r}"
    for row in rows:
        expected, actual = task.to_prompt(row), recorded.to_prompt(row)
        assert actual == expected, f"with_data_state: to_prompt returns {actual!r} instead of {expected!r}"


def _check_prompts(task: Task, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Check that prompts equal those of the examples, also without fields that the prompt does not need."""
    unneeded = [field for field in rows[0] if not _needs(task, split, rows, field)]
    for row in rows:
        example = task.to_example(row)
        for fields in (row, {field: value for field, value in row.items() if field not in unneeded}):
            prompt = task.to_prompt(fields)
            for part in ("source", "candidates", "truncatable_span", "source_pair", "words", "symmetric"):
                expected, actual = getattr(example, part), getattr(prompt, part)
                assert actual == expected, (
                    f"{split}: to_prompt returns the {part} {actual!r}, but to_example {expected!r}"
                )
            assert prompt.target == next(iter(prompt.candidates), ""), (
                f"{split}: the target of to_prompt is not the first candidate"
            )


def _needs(task: Task, split: str, rows: Sequence[Mapping[str, Any]], field: str) -> bool:
    """Return whether a prediction needs a field, which must then be part of the prompt or the candidates."""
    try:
        task.to_prompt({key: value for key, value in rows[0].items() if key != field})
    except MissingFieldsError as error:
        missing = error
    except Exception as error:
        raise AssertionError(
            f"{split}: without {field!r}, to_prompt does not raise MissingFieldsError but {error!r}"
        ) from error
    else:
        return False
    if missing.__cause__ is not None:  # to_example failed without the field
        shown = all(_contains(task.to_example(row), row[field]) for row in rows)
        assert shown, f"{split}: a row without {field!r} cannot be predicted: {missing}"
    return True


def _contains(example: Example, value: object) -> bool:
    return str(value) in "".join([example.source, *example.candidates])


def _check_examples(task: Task, split: str, examples: Sequence[Example], *, ranked: bool) -> None:
    for example in examples:
        assert example.source.strip(), f"{split}: a source is empty"
        assert example.target.strip(), f"{split}: a target is empty"
        if not ranked:
            assert not example.candidates, f"{split}: a task of the kind {task.kind} must not have candidates"
            continue
        assert example.target in example.candidates, f"{split}: the target is not one of {example.candidates}"
        assert len(set(example.candidates)) == len(example.candidates) >= 2, (
            f"{split}: needs two or more different candidates, not {example.candidates}"
        )
        if task.kind == "classification":
            assert example.candidates == task.labels, f"{split}: the candidates are not the labels"
    if task.kind == "multiple_choice" and len(examples) >= MAX_ROWS:
        first_is_correct = sum(e.candidates[0] == e.target for e in examples) / len(examples)
        assert first_is_correct < 1, f"{split}: the first candidate is always correct"


def check_metric(metric: Metric) -> None:
    """Check that a metric returns ``value_names``, prefers correct answers, and does not depend on the order.

    Args:
        metric: The metric with its options.

    Raises:
        AssertionError: The check failed.
    """
    check_round_trip(metric)
    examples = [
        Example("which colour has the sky", "blue", ("blue", "red")),
        Example("which colour has blood", "red", ("blue", "red")),
        Example("which colour has the sea", "blue", ("blue", "red")),
    ]
    references = [[e.target] for e in examples]
    correct = metric.compute([e.target for e in examples], references, examples)
    wrong = metric.compute(["red", "blue", "red"], references, examples)
    reordered = metric.compute([e.target for e in examples[::-1]], references[::-1], examples[::-1])
    assert set(correct) == set(metric.value_names), (
        f"compute returns {sorted(correct)}, not {sorted(metric.value_names)}"
    )
    assert all(math.isfinite(v) for v in (*correct.values(), *wrong.values())), "values that are not finite"
    for key, value in correct.items():
        assert math.isclose(value, reordered[key], abs_tol=1e-9), f"{key} depends on the order of the examples"
        better = value >= wrong[key] if metric.higher_is_better else value <= wrong[key]
        assert better, f"{key} is {value} for correct answers and {wrong[key]} for wrong ones"


def check_meter(meter: Meter) -> None:
    """Check that a meter has numbers as totals, with all its budgets, and that a resumed run continues them.

    Args:
        meter: A new meter with its options.

    Raises:
        AssertionError: The check failed.
    """
    from torch import nn

    check_round_trip(meter)
    model, options = nn.Linear(2, 2), meter.model_dump_json()
    resumed, unused = (type(meter).model_validate_json(options, strict=True) for _ in range(2))
    meter.start(model)
    state_of_unused = deepcopy(unused.state_dict())
    before: dict[str, float] = {}
    for step in (1, 2):
        meter.on_step_start()
        meter.on_step_end()
        meter.update(StepStats(4 * step, 40, 8, 0.5, 12, 0.25, 1000, 2000, 300, 40))
        totals = meter.totals()
        values: list[Any] = list(totals.values())
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in values), (
            f"totals returns {totals}, but values must be finite numbers"
        )
        missing = [name for name in type(meter).budgets if name not in totals]
        assert not missing, f"budgets names {missing[0]!r}, but totals returns {sorted(totals)}"
        for name in type(meter).budgets:
            assert totals[name] >= before.get(name, 0.0), f"{name} limits a budget, so it must not fall"
        before = totals
    state = meter.state_dict()
    try:
        stored = json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"state_dict returns {state}, which is not JSON: {error}; override it") from error
    resumed.start(model)
    resumed.load_state_dict(stored)
    assert resumed.totals() == totals, f"a resumed meter has the totals {resumed.totals()} instead of {totals}"
    assert unused.state_dict() == state_of_unused, "meters share state; keep it in private attributes"
