"""Every hook is documented, typed, known to the registry and has an example that runs."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_type_hints

import pluggy
import pytest

from peftkit import Preset, hookspecs, plugins


def live() -> dict[str, Callable[..., Any]]:
    manager = pluggy.PluginManager("peftkit")
    manager.add_hookspecs(hookspecs)
    callers = {name: caller for name, caller in vars(manager.hook).items() if not name.startswith("_")}
    return {name: caller.spec.function for name, caller in callers.items()}


HOOKS = live()
EACH = pytest.mark.parametrize("name", sorted(HOOKS))


def test_every_kind_of_component_and_presets_have_one_hook() -> None:
    assert sorted(HOOKS) == sorted(plugins.HOOKS)


@EACH
def test_hooks_take_no_arguments_and_return_classes_of_their_kind_or_presets(name: str) -> None:
    assert not inspect.signature(HOOKS[name]).parameters
    returns = get_type_hints(HOOKS[name])["return"]
    kind = name.removeprefix("register_").removesuffix("s")
    expected: Any = Preset if kind == "preset" else type[plugins.BASE_CLASSES[kind]]  # type: ignore[index]
    assert get_args(returns) == (expected, Sequence[expected])


@EACH
def test_the_example_of_a_hook_is_a_complete_plugin(name: str) -> None:
    [example] = doctest.DocTestFinder(recurse=False).find(HOOKS[name], name, globs={})
    source = "".join(step.source for step in example.examples)
    assert "@hookimpl\n" in source
    assert f"def {name}():" in source
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert (result.failed, report) == (0, [])
    assert result.attempted >= 4
