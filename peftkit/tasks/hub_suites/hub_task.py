"""Builds tasks of the descriptions of hub datasets."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field

from peftkit.components import Task
from peftkit.components.types import RunSpec
from peftkit.errors import PluginError, comma_separated
from peftkit.tasks.columns import get_value
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.sources.data_source import DataSource

CONVERTED = "refs/convert/parquet"
"""The hub's branch of Parquet files of a dataset whose own files need a script, which datasets 4 rejects."""


@dataclass(frozen=True, kw_only=True)
class HubSet:
    """A dataset of the hub, as a generic task with other defaults.

    Attributes:
        base: The generic task.
        path: The id on the hub.
        options: Defaults of the generic task's options, such as the names of columns.
        template: The prompt of all models; where it shows a pair of texts, encoders read the pair. That of the
            generic task if empty.
        metric: The published metric that selects the checkpoint.
        metrics: Metrics beside those of the generic task.
        metric_options: Options of these metrics, by their names.
        sizes: The published number of rows of each split, by its name on the hub.
        computed: Fields of the prompt that are computed from a column, with the column and the function of its value.
        data_dir: The folder of the files on the hub, where configurations have no other name.
        repeated_choices: Whether some published rows have a choice twice.
        evaluation_only: Whether the rows are an evaluation set of other tasks, because there are none to train on.
    """

    base: type[DatasetTask]
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    template: str = ""
    metric: str
    metrics: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    computed: Mapping[str, tuple[str, Callable[[Any], str]]] = field(default_factory=dict)
    data_dir: str = ""
    repeated_choices: bool = False
    metric_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    evaluation_only: bool = False


@dataclass(frozen=True, kw_only=True)
class HubSuite:
    """Hub datasets under one name, such as GLUE.

    Attributes:
        name: The name of the task.
        summary: What is predicted of what, in one line.
        paper: The publication.
        licence: The licence of the data.
        sets: The datasets by the value of ``subset``, the default first; one under an empty name has no such option.
        note: Where dev and test come from, and what else users must know.
    """

    name: str
    summary: str
    paper: str
    licence: str
    sets: Mapping[str, HubSet]
    note: str


class HubTask(DatasetTask):
    """Base class of the tasks of suites."""

    hub_set: ClassVar[HubSet]
    """The description of the dataset."""
    subset_tasks: ClassVar[Mapping[str, type[DatasetTask]]] = {}
    """The tasks of the suite, by subset."""

    @classmethod
    def class_for(cls, options: Mapping[str, Any]) -> type[DatasetTask]:
        subset = options.get("subset")
        return cls.subset_tasks.get(subset, cls) if isinstance(subset, str) else cls

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Returns why nothing can be trained on the dataset."""
        reasons = super().incompatible_with(spec)
        if self.hub_set.evaluation_only:
            reasons.append(
                "it has rows to evaluate only; train on another task, and evaluate this one as a set: "
                f'[[evaluate.set]] with a name and task = {{ name = "{self.name}" }}'
            )
        return reasons

    def as_evaluation_set(self, split: str | None, trained: Task) -> tuple[HubTask, str]:
        """Returns the published rows to evaluate, if the set names no split."""
        is_copy = isinstance(self.path, str) and (self.path == self.hub_id or Path(self.path).is_dir())
        task, name = super().as_evaluation_set(split or (self.test_split if is_copy else None), trained)
        return cast("HubTask", task), name

    def prompt_template(self) -> str:
        return self.prompt or self.hub_set.template or super().prompt_template()

    def required_columns(self, row: Mapping[str, Any]) -> list[str]:
        computed = [column for column, _ in self.hub_set.computed.values()]
        return list(dict.fromkeys([*super().required_columns(row), *computed]))

    def render_prompt(self, row: Mapping[str, Any], **computed: str) -> tuple[str, tuple[int, int] | None]:
        for name, (column, compute) in self.hub_set.computed.items():
            computed[name] = compute(get_value(row, column))
        return super().render_prompt(row, **computed)

    def _data_source(self) -> DataSource:
        source = super()._data_source()
        return replace(source, data_dir=self.hub_set.data_dir) if self.path == self.hub_id else source


def suite_task(suite: HubSuite) -> type[HubTask]:
    """Builds the task of a suite: a class for each dataset, of which the first one is the default.

    Args:
        suite: The suite.

    Raises:
        PluginError: The generic task has no such option.
    """
    tasks = {subset: _build(suite, subset, each) for subset, each in suite.sets.items()}
    for task in tasks.values():
        task.subset_tasks = tasks
    return next(iter(tasks.values()))


def _build(suite: HubSuite, subset: str, each: HubSet) -> type[HubTask]:
    """Builds the task of a dataset."""
    values: dict[str, Any] = {"path": each.path, **each.options}
    annotations: dict[str, Any] = {"name": Literal[suite.name]}
    for key in values:
        if key not in each.base.model_fields:
            raise PluginError(f"{suite.name}: {each.base.__name__} has no option {key!r}")
        inherited = each.base.model_fields[key]
        rules = tuple(inherited.metadata)
        annotations[key] = Annotated[(inherited.annotation, *rules)] if rules else inherited.annotation
    if subset:
        annotations["subset"] = Literal[tuple(suite.sets)]  # type: ignore[misc]
        values["subset"] = Field(default=subset, description=f"Dataset: {comma_separated([*suite.sets])}.")
    namespace = {
        "__module__": __name__,
        "__doc__": _describe(suite),
        "__annotations__": annotations,
        "name": suite.name,
        **values,
        "hub_set": each,
        "hub_id": each.path,
        "published_sizes": {str(values.get("config") or ""): dict(each.sizes)} if each.sizes else {},
        "metrics": tuple(dict.fromkeys((*each.metrics, *each.base.metrics))),
        "metric_options": each.metric_options,
        "selection_metric": each.metric,
        "computed_fields": (*each.base.computed_fields, *each.computed),
        "source": f"{suite.paper}, https://huggingface.co/datasets/{each.path}",
        "licence": suite.licence,
        **({"duplicates": True} if each.repeated_choices else {}),
    }
    words = [*suite.name.split("_"), *subset.replace("-", "_").replace(".", "_").split("_")]
    name = "".join(map(str.capitalize, words))
    bases = (HubTask, each.base)
    return cast("type[HubTask]", types.new_class(name, bases, exec_body=lambda body: body.update(namespace)))


def _describe(suite: HubSuite) -> str:
    """Returns the docstring of a suite's task."""
    templates = {subset: each.template.replace("\n", "\\n") for subset, each in suite.sets.items()}
    prompts = {subset: template or "that of the generic task" for subset, template in templates.items()}
    shown = [f"``{prompt}``" if "{" in prompt else prompt for prompt in dict.fromkeys(prompts.values())]
    if len(shown) == 1:
        lines = [f"Prompt: {shown[0]}."]
    else:
        lines = ["Prompt: " + "; ".join(f"{subset}: ``{prompt}``" for subset, prompt in prompts.items()) + "."]
    metrics = {subset: each.metric for subset, each in suite.sets.items()}
    if len({*metrics.values()}) == 1:
        lines.append(f"The published metric {next(iter(metrics.values()))} selects the checkpoint.")
    else:
        by_subset = ", ".join(f"{metric} ({subset})" for subset, metric in metrics.items())
        lines.append(f"The published metric selects the checkpoint: {by_subset}.")
    return f"{suite.summary} ({suite.paper}).\n\n{' '.join(lines)} {suite.note}\n"


def sizes(train: int, validation: int, test: int) -> Mapping[str, int]:
    """Returns the sizes of the three usual splits.

    Args:
        train: Rows of ``train``.
        validation: Rows of ``validation``.
        test: Rows of ``test``.
    """
    return {"train": train, "validation": validation, "test": test}


def tested_on_validation(dev_fraction: float) -> dict[str, Any]:
    """Returns the options of a dataset whose published test split has no answers.

    Args:
        dev_fraction: The share of the training rows that is held out for dev.
    """
    return {"test_split": "validation", "dev_fraction": dev_fraction}


def pair_columns(text: str, pair: str | None = None) -> dict[str, Any]:
    """Returns the options that name the columns of a text and of its pair.

    Args:
        text: The column of the text.
        pair: The column of its pair; None if there is none.
    """
    return {"text_column": text, **({"text_pair_column": pair} if pair else {})}
