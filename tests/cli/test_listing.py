from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from peftkit import Method, Refusal
from peftkit.cli.listing import list_components, show_component
from peftkit.plugins import BASES, Entry, Failure, Registry

Peftkit = Callable[..., tuple[int, str, str]]


class Rich(Method):
    """A method with options of every kind.

    It has more to say.
    """

    name: Literal["rich"] = "rich"
    needed: int
    """What has to be said."""
    since: datetime.date = datetime.date(2024, 1, 2)
    where: Path = Path("a/b")
    made: list[int] = Field(default_factory=lambda: [1, 2])
    from_others: int = Field(default_factory=lambda others: others["needed"])
    odd: frozenset[str] = frozenset({"ö"})
    weight: float | None = Field(default=None, alias="lambda", gt=0)

    refusals = (Refusal(lambda s: True, "it never works", "use another"),)


@pytest.fixture
def rich(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    entry = Entry("method", "rich", Rich, "peftkit-rich", "3.1")
    found = replace(registry, entries=(*registry.entries, entry), failures=(Failure("peftkit-sad:sad", "OSError: no"),))
    monkeypatch.setattr("peftkit.cli.listing.load_registry", lambda: found)
    return found


def test_the_list_has_every_component_under_its_kind_with_its_distribution(
    peftkit: Peftkit, registry: Registry
) -> None:
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
    assert seen == [(e.kind, e.name, "peftkit") for k in BASES for e in registry.entries if e.kind == k]


@pytest.mark.parametrize("kind", BASES)
def test_one_kind_alone_and_as_json(kind: str, peftkit: Peftkit, registry: Registry) -> None:
    lines = peftkit("list", f"{kind}s")[1].splitlines()
    assert lines[0] == f"{kind}s"
    assert [line.split()[0] for line in lines[1:]] == list(registry.of(kind))  # type: ignore[arg-type]
    found = json.loads(peftkit("list", f"{kind}s", "--json")[1])
    assert found["format"] == 1
    assert [c["name"] for c in found["components"]] == list(registry.of(kind))  # type: ignore[arg-type]
    assert {(c["kind"], c["distribution"]) for c in found["components"]} == {(kind, "peftkit")}


@pytest.mark.usefixtures("rich")
def test_what_was_not_loaded_is_listed_too(capsys: pytest.CaptureFixture[str]) -> None:
    list_components(None, as_json=False)
    out = capsys.readouterr().out
    assert "\n  rich                     peftkit-rich  A method with options" in out
    assert out.endswith("not loaded: peftkit-sad:sad: OSError: no\n")
    list_components("meters", as_json=True)
    assert json.loads(capsys.readouterr().out)["failures"] == [{"plugin": "peftkit-sad:sad", "error": "OSError: no"}]


def test_every_component_can_be_shown_in_both_forms(peftkit: Peftkit, registry: Registry) -> None:
    for entry in registry.entries:
        code, out, err = peftkit("show", entry.name)
        assert (code, err) == (0, "")
        assert out.startswith(f"{entry.name} ({entry.kind}, from peftkit {entry.version})\n\n{entry.summary[:20]}")
        [found] = json.loads(peftkit("show", entry.name, "--json")[1])["components"]
        options = [option["name"] for option in found["options"]]
        assert options == [key for key in entry.component.model_fields if key != "name"]
        assert all(f"\n  {option}" in out for option in options)
        assert all(option["text"] and option["type"] for option in found["options"])


def test_a_method_s_page(peftkit: Peftkit) -> None:
    out = peftkit("show", "prefix_tuning")[1]
    assert (
        "\nOptions:\n  num_virtual_tokens: a whole number, above 0; default 20\n      How many vectors are learnt.\n"
        in out
    )
    assert (
        "\nRefuses:\n  - the prefix lies in the attention cache, which gradient checkpointing switches off; set\n"
        in out
    )
    assert "\n  lora_alpha or alpha: a whole number, above 0; default 8\n" in peftkit("show", "lora")[1]


def test_a_method_s_page_has_its_range_and_its_published_learning_rates(peftkit: Peftkit) -> None:
    out = peftkit("show", "ia3")[1]
    assert "\nTuned over:\n  train.learning_rate: 0.0001 to 1, on a log scale\n" in out
    published = "0.003 with Adafactor; Liu et al. (2022): configs/ia3.json in r-three/t-few"
    assert f"\nPublished learning rates:\n  - {published}\n" in out
    [found] = json.loads(peftkit("show", "ia3", "--json")[1])["components"]
    assert found["search"] == {"train.learning_rate": {"low": 1e-4, "high": 1.0, "log": True}}
    assert found["published_rates"][0] == {
        "rates": [0.003],
        "source": "Liu et al. (2022): configs/ia3.json in r-three/t-few",
        "optimizer": "Adafactor",
    }
    assert "; Ponti et al. (2023): " in peftkit("show", "poly")[1]
    assert "search" not in json.loads(peftkit("show", "accuracy", "--json")[1])["components"][0]


@pytest.mark.usefixtures("rich")
def test_a_method_without_published_rates_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    show_component("rich", as_json=False)
    assert "\nPublished learning rates: none declared\n" in capsys.readouterr().out


def test_a_task_s_and_a_metric_s_page(peftkit: Peftkit) -> None:
    out = peftkit("show", "wordnet_mcq")[1]
    for line in (
        "Kind: multiple_choice",
        "Metrics: accuracy",
        "Selects by: accuracy",
        "Source: WordNet 3.0,",
        "Licence: WordNet",
    ):
        assert f"\n{line}" in out
    out = peftkit("show", "accuracy")[1]
    assert "\nKinds of task: classification, multiple_choice" in out
    assert out.endswith("\nOptions: none\n\nRefuses: nothing declared\n")


@pytest.mark.usefixtures("rich")
def test_options_of_every_kind_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_component("rich", as_json=False)
    out = capsys.readouterr().out
    assert out.startswith(
        "rich (method, from peftkit-rich 3.1)\n\nA method with options of every kind.\n\nIt has more to say.\n"
    )
    for line in (
        "needed: a whole number; required\n      What has to be said.",
        'since: a date; default "2024-01-02"',
        'where: a path in quotes; default "a/b"',
        "made: a list of whole numbers; default [1, 2]",
        "from_others: a whole number; not set",
        'odd: a list of texts in quotes; default ["ö"]',
        "weight or lambda: a number, above 0; not set",
    ):
        assert f"\n  {line}\n" in out
    assert out.endswith("\nRefuses:\n  - it never works; use another\n")
    show_component("rich", as_json=True)
    [found] = json.loads(capsys.readouterr().out)["components"]
    options = {option["name"]: option for option in found["options"]}
    assert (options["needed"]["required"], options["since"]["default"]) == (True, "2024-01-02")
    assert options["weight"]["also"] == ["lambda"]


@pytest.mark.usefixtures("rich")
def test_a_name_of_two_kinds_shows_both(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = replace(registry, entries=(*registry.entries, Entry("method", "clock", Rich, "d", "1")))
    monkeypatch.setattr("peftkit.cli.listing.load_registry", lambda: twice)
    show_component("clock", as_json=True)
    assert [c["kind"] for c in json.loads(capsys.readouterr().out)["components"]] == ["meter", "method"]


def test_show_tells_what_a_method_touches_in_a_model(peftkit: Peftkit) -> None:
    code, out, err = peftkit("show", "lora", "--model", "pocket-t5", "--set", "r=4")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "lora on pocket-t5 (encoder-decoder)"
    assert "  encoder.block.*.layer.*.SelfAttention.q       3 x  6,144" in lines
    assert lines[-1] == "trainable 28,672 of 6,586,112 parameters (0.44%)"
    told = json.loads(peftkit("show", "lora", "--model", "pocket-t5", "--set", "r=4", "--json")[1])
    assert (told["format"], told["trainable"], len(told["touched"])) == (1, 28_672, 6)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lora", "--model", "pocket-t5", "--set", "rank=4"], r"--set: method\.rank: unknown key; .*did you mean 'r'"),
        (["lora", "--model", "pocket-t6"], r"model\.name: .*did you mean 'pocket-t5'"),
        (["lorra", "--model", "pocket-t5"], "nothing is called 'lorra'"),
        (["accuracy", "--model", "pocket-t5"], "'accuracy' is no method"),
        (["lora", "--set", "r=4"], "--set says a method's options for --model; name one"),
        (
            ["lora", "--model", "pocket-t5", "--set", 'target_modules="qq"'],
            "no module's whole name matches the expression 'qq'; modules are ",
        ),
    ],
)
def test_show_tells_what_is_wrong_with_a_method_and_a_model(words: list[str], expected: str, peftkit: Peftkit) -> None:
    code, out, err = peftkit("show", *words)
    assert (code, out) == (2, "")
    assert re.search(expected, err), err
