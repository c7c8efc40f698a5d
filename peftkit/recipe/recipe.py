"""The recipe: a validated, frozen pydantic model of its tables and components."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    Field,
    PrivateAttr,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from peftkit.components import Callback, Method, Metric, ModelKind, Objective, Task
from peftkit.file_formats import RECIPE_FORMAT
from peftkit.plugins.entry_points import BUILTIN_DISTRIBUTION
from peftkit.recipe.component_validation import component_validator
from peftkit.recipe.evaluation_tasks import EvaluationTask, find_set_errors, make_evaluation_task
from peftkit.recipe.model_names import trained_kind
from peftkit.recipe.probes.probe_config import ProbeConfig
from peftkit.recipe.probes.probe_tasks import RecipeProbe, find_probe_errors, make_probe, make_probe_task
from peftkit.recipe.tables.config_table import ConfigTable
from peftkit.recipe.tables.evaluate_config import EvaluateConfig
from peftkit.recipe.tables.model_config import ModelConfig
from peftkit.recipe.tables.run_config import RunConfig
from peftkit.recipe.tables.track_config import TrackConfig
from peftkit.recipe.tables.train_config import TrainConfig

FORMAT = RECIPE_FORMAT
"""The version of recipes; newer ones are rejected."""
LOSS = "loss"
"""A value that every evaluation has, whatever the metrics."""


class Recipe(ConfigTable):
    """A validated, frozen recipe with its components."""

    format: int = Field(default=FORMAT, ge=1)
    """The version of the recipe format."""
    run: RunConfig = RunConfig()
    model: ModelConfig
    task: Annotated[SerializeAsAny[Task], component_validator("task")]
    method: Annotated[SerializeAsAny[Method], component_validator("method")]
    objective: Annotated[SerializeAsAny[Objective], component_validator("objective")] | None = None
    """How the task's examples are trained and scored; defaults to the built-in objective for the task's kind and
    the model, or that of a plugin if there is none."""
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    probe: tuple[ProbeConfig, ...] = ()
    """Rows of other tasks that show what the model forgets, each under `[[probe]]`."""
    metric: tuple[Annotated[SerializeAsAny[Metric], component_validator("metric")], ...] = ()
    callback: tuple[Annotated[SerializeAsAny[Callback], component_validator("callback")], ...] = ()
    track: TrackConfig = TrackConfig()
    _objectives: tuple[type[Objective], ...] = PrivateAttr(default=())
    """The installed objectives."""
    _built_in: frozenset[type[Objective]] = PrivateAttr(default=frozenset())
    """Those of them that are part of peftkit."""
    _set_tasks: dict[str, type[Task]] = PrivateAttr(default_factory=dict)
    """The classes of the tasks of evaluation sets and probes, by name."""
    _metrics: tuple[type[Metric], ...] = PrivateAttr(default=())
    """The installed metrics."""

    @field_validator("metric")
    @classmethod
    def _add_companions(cls, metrics: tuple[Metric | None, ...]) -> tuple[Metric | None, ...]:
        """Add the metrics without which others would mislead, unless they are listed."""
        needed = [companion for metric in metrics if metric is not None for companion in metric.companions()]
        by_name = {each.name: each for each in (*reversed(needed), *metrics) if each is not None}
        listed = {each.name for each in metrics if each is not None}
        return (
            *metrics,
            *(by_name[name] for name in dict.fromkeys(each.name for each in needed) if name not in listed),
        )

    @model_validator(mode="after")
    def _find_objectives(self, info: ValidationInfo) -> Recipe:
        """Remember the installed objectives, since the model's config may be on the Hub."""
        registry: Any = (info.context or {}).get("registry")
        if registry is not None:
            entries = registry.all("objective").values()
            self._objectives = tuple(each.component for each in entries)
            self._built_in = frozenset(e.component for e in entries if e.distribution == BUILTIN_DISTRIBUTION)
        return self

    @model_validator(mode="after")
    def _check_evaluation_sets(self, info: ValidationInfo) -> Recipe:
        registry: Any = (info.context or {}).get("registry")
        if registry is None:
            return self

        def find_task(name: str) -> type[Task]:
            return self._set_tasks.setdefault(name, registry.find("task", name).component)

        errors = []
        if self.evaluate.set and self.task is not None:
            errors += find_set_errors(self.evaluate.set, self.task, find_task)
        if self.probe:
            self._metrics = tuple(each.component for each in registry.all("metric").values())
            names = [each.name for each in self.evaluate.set]
            errors += find_probe_errors(self.probe, names, find_task, self._metrics)
        if errors:
            raise ValidationError.from_exception_data("evaluation sets", errors)
        return self

    @property
    def evaluation_tasks(self) -> tuple[EvaluationTask, ...]:
        """The tasks of the evaluation sets, in their order."""
        find_task = self._set_tasks.__getitem__
        return tuple(make_evaluation_task(each, self.task, find_task) for each in self.evaluate.set)

    @property
    def probes(self) -> tuple[RecipeProbe, ...]:
        """The probes, in their order."""
        return tuple(make_probe(self, each, self._set_tasks.__getitem__, self._metrics) for each in self.probe)

    @property
    def probe_tasks(self) -> tuple[EvaluationTask, ...]:
        """The tasks of the probes, in their order."""
        return tuple(make_probe_task(each, self._set_tasks.__getitem__) for each in self.probe)

    @property
    def all_evaluation_tasks(self) -> tuple[EvaluationTask, ...]:
        """The tasks of the evaluation sets and of the probes."""
        return (*self.evaluation_tasks, *self.probe_tasks)

    @property
    def objectives(self) -> tuple[type[Objective], ...]:
        """The installed objectives of the task's kind, or the one that the recipe names."""
        if self.objective is not None:
            return (type(self.objective),)
        return tuple(each for each in self._objectives if each.task_kind == type(self.task).kind)

    def trained_kind(self, config: Mapping[str, Any]) -> ModelKind | None:
        """Return the kind of what is loaded of a model for the task: of some encoder-decoders the encoder.

        Args:
            config: The model's ``config.json``.

        Returns:
            The kind; None if the config names no architecture.
        """
        return trained_kind(config, self.objectives)

    def objectives_for(self, kind: ModelKind | None) -> tuple[type[Objective], ...]:
        """Return the objectives for a kind of model, of which there must be one.

        An objective of a plugin is not used unless the recipe names it or no built-in one fits, so that installing a
        plugin changes no recipe.

        Args:
            kind: The kind of model; None for any.
        """
        fitting = tuple(each for each in self.objectives if kind is None or kind in each.families)
        return tuple(each for each in fitting if each in self._built_in) or fitting

    def objective_for(self, kind: ModelKind) -> Objective:
        """Return the objective for a kind of model.

        Args:
            kind: The kind of model.

        Raises:
            LookupError: There is none; ``find_conflicts`` reports that.
        """
        if self.objective is not None:
            return self.objective
        for each in self.objectives_for(kind):
            return each()  # type: ignore[call-arg]
        raise LookupError(f"no objective for the task {self.task.name!r} and a model of kind {kind!r}")

    @classmethod
    def build(
        cls,
        *,
        model: str | Path | Mapping[str, Any] | BaseModel | None = None,
        task: str | Mapping[str, Any] | BaseModel | None = None,
        method: str | Mapping[str, Any] | BaseModel | None = None,
        budget: Mapping[str, Any] | BaseModel | None = None,
        run: Mapping[str, Any] | BaseModel | None = None,
        train: Mapping[str, Any] | BaseModel | None = None,
        evaluate: Mapping[str, Any] | BaseModel | None = None,
        probe: Sequence[Mapping[str, Any] | BaseModel] | None = None,
        metric: str | Sequence[str | Mapping[str, Any] | BaseModel] | None = None,
        callback: str | Sequence[str | Mapping[str, Any] | BaseModel] | None = None,
        objective: str | Mapping[str, Any] | BaseModel | None = None,
        track: Mapping[str, Any] | BaseModel | None = None,
        extends: str | Path | None = None,
        overrides: Iterable[str] = (),
    ) -> Recipe:
        """Build a recipe in Python; a TOML file with the same keys gives an equal one.

        Args:
            model: The model's name, or the table ``[model]``.
            task: The task's name, or the table ``[task]``, such as ``peftkit.task("csv", path="rows.csv")``.
            method: The method's name, or the table ``[method]``, such as ``peftkit.method("lora", r=8)``.
            budget: The table ``[train.budget]``.
            run: The table ``[run]``.
            train: The table ``[train]``.
            evaluate: The table ``[evaluate]``.
            probe: The tables of probes, each as under ``[[probe]]``.
            metric: The names or tables of the metrics; None for the task's own.
            callback: The names or tables of callbacks.
            objective: The name or the table of the objective; None for the one of the task's kind and the model.
            track: The table ``[track]``.
            extends: A recipe's file to start from; None for none.
            overrides: ``key.path=value`` texts, as after ``--set``.

        Returns:
            The recipe.

        Raises:
            RecipeError: The recipe is invalid; it lists all problems by key.
        """
        # By its name, because that module imports this one.
        build_recipe = import_module("peftkit.recipe.build_recipe").build_recipe
        tables = {"model": model, "task": task, "method": method, "run": run, "train": train, "evaluate": evaluate}
        recipe: Recipe = build_recipe(
            {**tables, "probe": probe, "objective": objective, "metric": metric, "callback": callback, "track": track},
            budget=budget,
            overrides=overrides,
            extends=extends,
        )
        return recipe

    def to_toml(self) -> str:
        """Write the recipe as TOML with all defaults."""
        return str(import_module("peftkit.recipe.load_recipe").dump_recipe(self))

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        yield from ((table, getattr(self, table).name) for table in ("model", "task", "method"))
        yield "budget", self.train.budget.model_dump(exclude_none=True)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.to_toml())}</pre>"

    @property
    def selection_metric(self) -> str:
        """The value whose best dev score selects the checkpoint."""
        return self.evaluate.selection_metric or type(self.task).selection_metric

    def higher_is_better(self, value: str) -> bool:
        """Whether a higher value is better.

        Args:
            value: A metric's value, a part of one such as ``mse.valence``, or the loss.
        """
        metrics = (metric for metric in self.metric if value.partition(".")[0] in metric.value_names)
        return value != LOSS and all(type(metric).higher_is_better for metric in metrics)

    @field_validator("format")
    @classmethod
    def _check_format(cls, value: int) -> int:
        if value > FORMAT:
            text = "is {value}, but this peftkit reads up to {known}; upgrade peftkit"
            raise PydanticCustomError("format", text, {"value": value, "known": FORMAT})
        return value
