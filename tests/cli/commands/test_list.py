from __future__ import annotations

import json

import pytest

from peftkit.cli import main
from peftkit.plugins import BASE_CLASSES, Registry
from tests.cli.conftest import Peftkit


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
    assert seen == [(e.kind, e.name, "peftkit") for k in BASE_CLASSES for e in registry.entries if e.kind == k]


@pytest.mark.parametrize("kind", BASE_CLASSES)
def test_list_of_one_kind_as_text_and_json(kind: str, peftkit: Peftkit, registry: Registry) -> None:
    lines = peftkit("list", f"{kind}s")[1].splitlines()
    assert lines[0] == f"{kind}s"
    assert [line.split()[0] for line in lines[1:]] == list(registry.all(kind))  # type: ignore[arg-type]
    document = json.loads(peftkit("list", f"{kind}s", "--json")[1])
    assert document["format"] == 2
    assert [c["name"] for c in document["components"]] == list(registry.all(kind))  # type: ignore[arg-type]
    assert {(c["kind"], c["distribution"]) for c in document["components"]} == {(kind, "peftkit")}


@pytest.mark.usefixtures("rich")
def test_list_shows_plugins_that_cannot_be_imported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out, err = capsys.readouterr()
    assert "\n  rich                     peftkit-rich  A method with options" in out
    assert err == "warning: the plugin peftkit-sad:sad cannot be imported: OSError: no\n"
    assert main(["list", "meters", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failures"] == [{"plugin": "peftkit-sad:sad", "error": "OSError: no"}]
