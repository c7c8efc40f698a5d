"""The registry: looking up components, and why one is missing."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import PluginError
from tests.plugins.conftest import FakeDistribution, Install, component, methods, registry


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import none_such_module", "ModuleNotFoundError: No module named 'none_such_module'"),
        ("raise SystemExit('no\\n  way')", "SystemExit: no way"),
        ("(", "SyntaxError"),
        (
            "from peftkit import Method\nclass A(Method):\n    name = 'a'",
            "A: Field 'name' defined on a base class was overridden",
        ),
    ],
)
def test_import_failures_are_shown_if_a_component_is_missing(
    code: str, words: str, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_for_test.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    broken = EntryPoint("b", "broken_for_test", "peftkit")
    vars(broken)["dist"] = FakeDistribution("peftkit-broken", "1")
    loaded = registry(broken, install("d", register_methods=methods(component("alpha"))))
    assert loaded.find("method", "alpha").distribution == "d"
    [failure] = loaded.failures
    assert failure.plugin == "peftkit-broken:b"
    assert failure.error.startswith(words)
    assert "\n" not in failure.error
    with pytest.raises(PluginError) as caught:
        loaded.find("method", "alpah")
    assert str(caught.value) == (
        "no method is called 'alpah' (did you mean 'alpha'?); "
        f"the plugin peftkit-broken:b cannot be used: {failure.error}; to list all, run: peftkit list methods"
    )


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("task", "preference_pairs", "; it is in the distribution peftkit-preference"),
        (
            "task",
            "preference_pair",
            "'preference_pairs'.*; 'preference_pairs' is in the distribution peftkit-preference",
        ),
        ("objective", "dpo", "no objective is called 'dpo'; .*it is in the distribution peftkit-preference"),
        ("metric", "reward_margin", "it is in the distribution peftkit-preference"),
    ],
)
def test_a_missing_component_of_any_kind_names_its_distribution(kind: Any, name: str, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        registry().find(kind, name)


def test_a_missing_first_party_component_names_its_distribution(install: Install) -> None:
    with pytest.raises(
        PluginError, match=r"called 'parallel_adapters'; it is in the distribution peftkit-adapters; to list all, "
    ):
        registry().find("method", "parallel_adapters")
