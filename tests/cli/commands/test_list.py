from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from peftkit import Method, plugins
from peftkit.cli import main
from peftkit.plugins import BASE_CLASSES, Entry, Plugin, PluginFailure, Registry
from tests.cli.conftest import Peftkit

BUILT_IN = [kind for kind in BASE_CLASSES if kind != "callback"]
"""The kinds of built-in components."""


def test_list_shows_every_component_with_its_kind_and_distribution(peftkit: Peftkit, registry: Registry) -> None:
    code, out, err = peftkit("list")
    assert (code, err) == (0, "")
    kind, seen = "", []
    for line in out.splitlines():
        if line.startswith(" "):
            name, distribution, *text = line.split()
            seen.append((kind, name, distribution))
            assert text
        else:
            kind = line.removesuffix("s")
    expected = [("preset" if e.preset else e.kind, e.name, "peftkit") for e in registry.entries]
    assert sorted(seen) == sorted(expected)
    assert list(dict.fromkeys(kind for kind, _, _ in seen)) == [
        "method",
        "preset",
        "task",
        "objective",
        "metric",
        "meter",
    ]


def test_list_of_a_kind_without_components_says_so(peftkit: Peftkit) -> None:
    assert peftkit("list", "callbacks")[1] == "no callbacks are installed; plugins register them\n"
    assert json.loads(peftkit("list", "callbacks", "--json")[1])["components"] == []


@pytest.mark.parametrize("kind", BUILT_IN)
def test_list_of_one_kind_as_text_and_json(kind: str, peftkit: Peftkit, registry: Registry) -> None:
    lines = peftkit("list", f"{kind}s")[1].splitlines()
    assert lines[0] == f"{kind}s"
    expected = list(registry.all(kind, presets=False))  # type: ignore[arg-type]
    assert [line.split()[0] for line in lines[1:]] == expected
    document = json.loads(peftkit("list", f"{kind}s", "--json")[1])
    assert document["format"] == 3
    assert [c["name"] for c in document["components"]] == expected
    assert {(c["kind"], c["distribution"]) for c in document["components"]} == {(kind, "peftkit")}


@pytest.mark.usefixtures("rich")
def test_list_shows_plugins_that_cannot_be_imported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"\n  rich +peftkit-rich  A method with options", out)
    assert err == ""  # loading the plugins logs it
    assert main(["list", "meters", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failures"] == [
        {"plugin": "peftkit-sad:sad", "error": "OSError: no", "kind": None, "name": None}
    ]


def test_list_of_presets_names_the_method_the_options_and_the_paper(peftkit: Peftkit) -> None:
    lines = peftkit("list", "presets")[1].splitlines()
    assert lines[0] == "presets"
    [dora] = [line for line in lines if line.startswith("  dora ")]
    assert dora.endswith("(DoRA, Liu et al., 2024).")
    document = json.loads(peftkit("list", "presets", "--json")[1])
    described = {c["name"]: (c["kind"], c["preset_of"], c["options"], c["recipe_keys"]) for c in document["components"]}
    assert described["dora"] == ("method", "lora", {"use_dora": True}, {})
    assert described["qlora"][2:] == ({"target_modules": "all-linear"}, {"model.quantization": "4bit"})


def test_lines_are_whole_in_a_pipe_and_wrapped_in_a_terminal(
    peftkit: Peftkit, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    summaries = {entry.name: entry.summary for entry in registry.entries if entry.kind == "method"}
    out = peftkit("list", "methods")[1]
    assert all(line.endswith(summaries[line.split()[0]]) for line in out.splitlines()[1:])
    monkeypatch.setattr("peftkit.cli.commands.list._terminal_columns", lambda: 72)
    wrapped = peftkit("list", "methods")[1]
    assert max(map(len, wrapped.splitlines())) <= 72
    assert wrapped.split() == out.split()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("method", "a", Method, "peftkit-good", "1.2")
    failure = PluginFailure("peftkit-half:half", "B must define apply(self)", "the method 'b'", ("method", "b"))
    listed = [
        Plugin(
            "peftkit-bad:bad", "peftkit-bad", "3", "", failures=(PluginFailure("peftkit-bad:bad", "ValueError: no"),)
        ),
        Plugin("peftkit-good:good", "peftkit-good", "1.2", "MIT", entries=(entry, replace(entry, name="b"))),
        Plugin("peftkit-half:half", "peftkit-half", "2", "MIT", entries=(entry,), failures=(failure,)),
        Plugin("peftkit-out:out", "peftkit-out", "0.1", "GPL-3.0-only", is_excluded=True),
    ]
    monkeypatch.setattr(plugins, "list_plugins", lambda: listed)


@pytest.mark.usefixtures("installed")
def test_list_shows_plugins_with_version_licence_and_errors(peftkit: Peftkit) -> None:
    assert peftkit("list", "--plugins")[1].splitlines() == [
        "peftkit-bad:bad    3    no licence    error: ValueError: no",
        "peftkit-good:good  1.2  MIT           2 methods",
        "peftkit-half:half  2    MIT           1 method; error: the method 'b': B must define apply(self)",
        "peftkit-out:out    0.1  GPL-3.0-only  excluded by PEFTKIT_PLUGINS",
    ]
    document = json.loads(peftkit("list", "--plugins", "--json")[1])
    assert document["format"] == 2
    assert [plugin.pop("components") for plugin in document["plugins"]] == [
        [],
        [{"kind": "method", "name": "a"}, {"kind": "method", "name": "b"}],
        [{"kind": "method", "name": "a"}],
        [],
    ]
    assert document["plugins"][1] == {
        "plugin": "peftkit-good:good",
        "distribution": "peftkit-good",
        "version": "1.2",
        "licence": "MIT",
        "excluded": False,
        "error": "",
    }
    errors = [plugin["error"] for plugin in document["plugins"]]
    assert errors == ["ValueError: no", "", "the method 'b': B must define apply(self)", ""]


def test_list_of_plugins_takes_no_kind(peftkit: Peftkit) -> None:
    code, _, err = peftkit("list", "methods", "--plugins")
    assert code == 2
    assert "not allowed with argument" in err


def test_the_built_in_plugins_are_listed(peftkit: Peftkit) -> None:
    lines = [line for line in peftkit("list", "--plugins")[1].splitlines() if line.startswith("peftkit:")]
    assert [line.split()[0] for line in lines] == [f"peftkit:{kind}s" for kind in sorted(BUILT_IN)]
    assert all("Apache-2.0" in line for line in lines)


def test_presets_of_methods_that_are_not_installed_are_named(peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [Plugin("a:a", "a", "1", "MIT", unavailable={"p": "base"})]
    monkeypatch.setattr(plugins, "list_plugins", lambda: listed)
    assert peftkit("list", "--plugins")[1] == "a:a  1  MIT  p needs base, which is not installed\n"
