"""The hooks of plugins. Each returns one or several component classes or presets.

Importing a plugin must not import torch.

A distribution registers its module as an entry point of the group ``peftkit``::

    [project.entry-points.peftkit]
    bitfit = "peftkit_bitfit"
"""

from collections.abc import Sequence

import pluggy

from peftkit.components import Callback, Meter, Method, Metric, Objective, Preset, Task

hookspec = pluggy.HookspecMarker("peftkit")
hookimpl = pluggy.HookimplMarker("peftkit")


@hookspec
def register_methods() -> type[Method] | Sequence[type[Method]]:  # type: ignore[empty-body]
    """Register fine-tuning methods.

    >>> from typing import Literal
    >>> from peftkit import Method, hookimpl
    >>> class BitFit(Method):
    ...     name: Literal["bitfit"] = "bitfit"
    ...     def apply(self, model, context):
    ...         for key, parameter in model.named_parameters():
    ...             parameter.requires_grad = key.endswith("bias")
    ...         return model
    >>> @hookimpl
    ... def register_methods():
    ...     return [BitFit]
    >>> [method().name for method in register_methods()]
    ['bitfit']
    """


@hookspec
def register_presets() -> Preset | Sequence[Preset]:  # type: ignore[empty-body]
    """Register presets: names for a method of any distribution with options.

    >>> from peftkit import Preset, hookimpl
    >>> @hookimpl
    ... def register_presets():
    ...     return [
    ...         Preset(
    ...             name="wide_lora",
    ...             method="lora",
    ...             summary="Low-rank updates of all linear layers",
    ...             paper="Doe et al., 2026",
    ...             fixed={"target_modules": "all-linear"},
    ...             defaults={"r": 64},
    ...         )
    ...     ]
    >>> [preset] = register_presets()
    >>> str(preset)
    'lora with target_modules = "all-linear", r = 64'
    """


@hookspec
def register_tasks() -> type[Task] | Sequence[type[Task]]:  # type: ignore[empty-body]
    """Register tasks.

    >>> from typing import Literal
    >>> from peftkit import Example, Task, hookimpl
    >>> class Parity(Task):
    ...     name: Literal["parity"] = "parity"
    ...     kind = "classification"
    ...     metrics = ("accuracy",)
    ...     selection_metric = "accuracy"
    ...     @property
    ...     def labels(self):
    ...         return ("even", "odd")
    ...     def load(self):
    ...         from datasets import Dataset, DatasetDict
    ...         return DatasetDict({s: Dataset.from_dict({"n": [1, 2]}) for s in ("train", "dev", "test")})
    ...     def to_example(self, row):
    ...         return Example(str(row["n"]), self.labels[row["n"] % 2], self.labels)
    >>> @hookimpl
    ... def register_tasks():
    ...     return [Parity]
    >>> register_tasks()[0]().to_example({"n": 7}).target
    'odd'
    """


@hookspec
def register_objectives() -> type[Objective] | Sequence[type[Objective]]:  # type: ignore[empty-body]
    """Register objectives: how the examples of a kind of task become tensors, a loss and predictions.

    >>> from typing import Literal
    >>> from peftkit import Head, Objective, hookimpl
    >>> class Brightness(Objective):
    ...     name: Literal["brightness_head"] = "brightness_head"
    ...     task_kind = "brightness"
    ...     families = ("encoder",)
    ...     def head(self, task):
    ...         return Head(outputs=1)
    ...     def tokenize(self, examples, context, *, training):
    ...         rows = context.family.tokenize_sources(examples)
    ...         return [{**row, "value": float(e.target or 0)} for row, e in zip(rows, examples)]
    ...     def collate(self, rows, context):
    ...         import torch
    ...         values = torch.tensor([row["value"] for row in rows])
    ...         return {**context.family.collate(rows), "labels": values}
    ...     def loss(self, model, batch, context):
    ...         outputs, values = context.family.logits(model, batch)
    ...         return (outputs[:, 0] - values).square().sum()
    ...     def predict(self, model, rows, examples, context, *, has_targets):
    ...         batch = context.to_device(self.collate(rows, context))
    ...         outputs = context.family.outputs_without_padding_effects(model, batch)[:, 0].tolist()
    ...         return [
    ...             {"prediction": str(output), "loss": (output - row["value"]) ** 2, "tokens": 1}
    ...             for output, row in zip(outputs, rows)
    ...         ]
    >>> @hookimpl
    ... def register_objectives():
    ...     return [Brightness]
    >>> register_objectives()[0]().head(None).outputs
    1
    """


@hookspec
def register_metrics() -> type[Metric] | Sequence[type[Metric]]:  # type: ignore[empty-body]
    """Register metrics.

    >>> from typing import Literal
    >>> from peftkit import Metric, hookimpl
    >>> class Brevity(Metric):
    ...     name: Literal["brevity"] = "brevity"
    ...     higher_is_better = False
    ...     def compute(self, predictions, references, examples):
    ...         return {"brevity": sum(map(len, predictions)) / len(predictions)}
    >>> @hookimpl
    ... def register_metrics():
    ...     return [Brevity]
    >>> register_metrics()[0]().compute(["ab", "abcd"], [["x"], ["x"]], [])
    {'brevity': 3.0}
    """


@hookspec
def register_meters() -> type[Meter] | Sequence[type[Meter]]:  # type: ignore[empty-body]
    """Register meters.

    >>> from typing import Literal
    >>> from peftkit import Meter, hookimpl
    >>> class Steps(Meter):
    ...     name: Literal["steps"] = "steps"
    ...     _count: int = 0
    ...     def update(self, record):
    ...         self._count += 1
    ...     def totals(self):
    ...         return {"steps": float(self._count)}
    >>> @hookimpl
    ... def register_meters():
    ...     return [Steps]
    >>> register_meters()[0]().totals()
    {'steps': 0.0}
    """


@hookspec
def register_callbacks() -> type[Callback] | Sequence[type[Callback]]:  # type: ignore[empty-body]
    """Register callbacks.

    >>> from typing import Literal
    >>> from peftkit import Callback, hookimpl
    >>> class TargetScore(Callback):
    ...     name: Literal["target_score"] = "target_score"
    ...     target: float = 0.9
    ...     def on_evaluate(self, context, evaluation):
    ...         if evaluation.score >= self.target:
    ...             context.stop(f"the score reached {self.target}")
    >>> @hookimpl
    ... def register_callbacks():
    ...     return [TargetScore]
    >>> register_callbacks()[0](target=0.8).target
    0.8
    """
