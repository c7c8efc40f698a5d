"""Registries loaded from fake entry points."""

from __future__ import annotations

import itertools
import sys
import types
from collections.abc import Callable
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import create_model

from peftkit import Method, Objective, Task, hookimpl
from peftkit.components import Component
from peftkit.plugins import Registry, load_registry


class FakeDistribution(Distribution):
    """A distribution in memory."""

    def __init__(self, name: str | None, version: str) -> None:
        self.texts = {"METADATA": f"Metadata-Version: 2.1\n{f'Name: {name}' if name else ''}\nVersion: {version}\n"}

    def read_text(self, filename: str) -> str | None:
        return self.texts.get(filename)

    def locate_file(self, path: Any) -> Any:
        return Path(path)


Install = Callable[..., EntryPoint]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Creates an entry point to a module with these contents."""
    numbers = itertools.count()

    def point(distribution: str | None, name: str = "plugin", version: str = "1.0", **contents: Any) -> EntryPoint:
        module = types.ModuleType(f"made_up_{next(numbers)}")
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        # Entry points are immutable; importlib.metadata sets "dist" in the same way.
        entry_point = EntryPoint(name, module.__name__, "peftkit")
        vars(entry_point)["dist"] = FakeDistribution(distribution, version)
        return entry_point

    return point


def component(name: str, base: type[Component] = Method) -> Any:
    attributes: dict[str, Any] = {
        key: lambda self, *args, **options: None
        for key in ("apply", "load", "to_example", "tokenize", "predict", "compute", "totals")
        if key in dir(base)
    }
    if issubclass(base, Task):
        attributes |= {"kind": "generation", "metrics": (), "selection_metric": "loss"}
    if issubclass(base, Objective):
        attributes |= {"task_kind": "generation", "families": ("decoder",)}
    model = create_model(name.title(), __base__=base, name=(Literal[name], name), __doc__=f"The {name}.\n\nMore.")
    for key, value in attributes.items():
        setattr(model, key, value)
    return model


def hook(name: str, returned: Any) -> Any:
    return hookimpl(specname=name)(lambda: returned)


def methods(*classes: Any) -> Any:
    return hook("register_methods", list(classes))


def registry(*points: EntryPoint, only: str | None = None) -> Registry:
    return load_registry(only, points)


def names(loaded: Registry) -> list[str]:
    return [f"{e.kind} {e.name}" for e in loaded.entries]
