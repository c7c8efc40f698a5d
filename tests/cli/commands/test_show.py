from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from peftkit import describe, plugins
from peftkit.cli import main
from peftkit.plugins import Entry, Registry
from tests.cli.conftest import Peftkit, Rich


def test_show_prints_every_component_as_text_and_json(peftkit: Peftkit, registry: Registry) -> None:
    for entry in registry.entries:
        code, out, err = peftkit("show", entry.name)
        assert (code, err) == (0, "")
        kind = f"preset of {entry.preset.method}" if entry.preset else entry.kind
        assert f"{entry.name} ({kind}, from peftkit {entry.version})\n\n{entry.summary[:20]}" in out
        documents = json.loads(peftkit("show", entry.name, "--json")[1])["components"]
        [document] = [each for each in documents if each["kind"] == entry.kind]  # such as the task and the metric squad
        options = [option["name"] for option in document["options"]]
        assert options == [key for key in entry.component.model_fields if key != "name"]
        assert all(f"\n  {option}" in out for option in options)
        assert all(option["description"] and option["type"] for option in document["options"])


def test_show_method(peftkit: Peftkit) -> None:
    out = peftkit("show", "prefix_tuning")[1]
    assert (
        "\nOptions:\n  num_virtual_tokens: a whole number, above 0; default 20\n      The number of trained vectors.\n"
        in out
    )
    reason = "the prefix is stored in the KV cache, which gradient checkpointing disables; set"
    assert f"\nIncompatibilities:\n  - {reason}\n" in out
    assert "\n  lora_alpha or alpha: a whole number, above 0; default 8\n" in peftkit("show", "lora")[1]


def test_show_prints_the_search_space_and_published_learning_rates(peftkit: Peftkit) -> None:
    out = peftkit("show", "ia3")[1]
    assert "\nSearch space:\n  train.learning_rate: 0.0001 to 1, on a log scale\n" in out
    published = "0.003 with Adafactor; Liu et al. (2022): configs/ia3.json in r-three/t-few"
    assert f"\nPublished learning rates:\n  - {published}\n" in out
    [document] = json.loads(peftkit("show", "ia3", "--json")[1])["components"]
    assert document["search_space"] == {"train.learning_rate": {"low": 1e-4, "high": 1.0, "log": True}}
    assert document["published_learning_rates"][0] == {
        "learning_rates": [0.003],
        "source": "Liu et al. (2022): configs/ia3.json in r-three/t-few",
        "optimizer": "Adafactor",
    }
    assert "; Ponti et al. (2023): " in peftkit("show", "poly")[1]
    assert "search_space" not in json.loads(peftkit("show", "accuracy", "--json")[1])["components"][0]


@pytest.mark.usefixtures("rich")
def test_show_prints_none_declared_without_published_rates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "rich"]) == 0
    assert "\nPublished learning rates: none declared\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "name"), [("LoRA+", "lora_plus"), ("prefix tuning", "prefix_tuning"), ("(IA)³", "ia3")]
)
def test_show_takes_the_spellings_of_recipes(word: str, name: str, peftkit: Peftkit) -> None:
    assert peftkit("show", word) == peftkit("show", name)
    assert describe(word).document["name"] == name
    shown = ("--model", "pocket-t5", "--json")
    assert peftkit("show", word, *shown) == peftkit("show", name, *shown)


def test_show_task_and_metric(peftkit: Peftkit) -> None:
    out = peftkit("show", "wordnet_mcq")[1]
    for line in (
        "Kind: multiple_choice",
        "Metrics: accuracy",
        "Selection metric: accuracy",
        "Source: WordNet 3.0,",
        "Licence: WordNet",
    ):
        assert f"\n{line}" in out
    out = peftkit("show", "accuracy")[1]
    assert "\nTask kinds: classification, multiple_choice" in out
    assert out.endswith("\nOptions: none\n\nIncompatibilities: none declared\n")


@pytest.mark.usefixtures("rich")
def test_show_prints_options_of_every_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "rich"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "rich (method, from peftkit-rich 3.1)\n\nA method with options of every type.\n\nThis paragraph is shown too.\n"
    )
    for line in (
        "needed: a whole number; required\n      A required option.",
        'since: a date; default "2024-01-02"',
        'where: a path in quotes; default "a/b"',
        "sizes: a list of whole numbers; default [1, 2]",
        "from_others: a whole number; not set",
        'odd: a list of texts in quotes; default ["ö"]',
        "weight or lambda: a number, above 0; not set",
    ):
        assert f"\n  {line}\n" in out
    assert out.endswith("\nIncompatibilities:\n  - it never works; use another\n")
    assert main(["show", "rich", "--json"]) == 0
    [document] = json.loads(capsys.readouterr().out)["components"]
    options = {option["name"]: option for option in document["options"]}
    assert (options["needed"]["required"], options["since"]["default"]) == (True, "2024-01-02")
    assert options["weight"]["aliases"] == ["lambda"]


@pytest.mark.usefixtures("rich")
def test_show_prints_all_components_of_a_name(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = replace(registry, entries=(*registry.entries, Entry("method", "clock", Rich, "d", "1")))
    monkeypatch.setattr(plugins, "load_registry", lambda: twice)
    assert main(["show", "clock", "--json"]) == 0
    assert [c["kind"] for c in json.loads(capsys.readouterr().out)["components"]] == ["meter", "method"]


def test_show_lists_the_modules_that_a_method_trains(peftkit: Peftkit) -> None:
    code, out, err = peftkit("show", "lora", "--model", "pocket-t5", "--set", "r=4")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "lora on pocket-t5 (encoder-decoder)"
    assert "  encoder.block.*.layer.*.SelfAttention.q       3 x  6,144" in lines
    assert lines[-1] == "trainable 28,672 of 6,586,112 parameters (0.44%)"
    document = json.loads(peftkit("show", "lora", "--model", "pocket-t5", "--set", "r=4", "--json")[1])
    assert (document["format"], document["trainable_parameters"], len(document["modules"])) == (2, 28_672, 6)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lora", "--model", "pocket-t5", "--set", "rank=4"], r"--set: method\.rank: unknown key; .*did you mean 'r'"),
        (["lora", "--model", "pocket-t6"], r"model\.name: .*did you mean 'pocket-t5'"),
        (["lorra", "--model", "pocket-t5"], "no component is called 'lorra'"),
        (["accuracy", "--model", "pocket-t5"], "'accuracy' is not a method"),
        (["lora", "--set", "r=4"], "--set needs --model"),
        (
            ["lora", "--model", "pocket-t5", "--set", 'target_modules="qq"'],
            "no module's full name matches the regular expression 'qq'; modules: ",
        ),
    ],
)
def test_show_reports_invalid_methods_and_models(words: list[str], expected: str, peftkit: Peftkit) -> None:
    code, out, err = peftkit("show", *words)
    assert (code, out) == (2, "")
    assert re.search(expected, err), err


def test_show_of_a_preset_marks_what_it_fixes(peftkit: Peftkit) -> None:
    out = peftkit("show", "dora")[1]
    assert "A preset: lora with use_dora = true." in out
    assert "\n  use_dora: always true\n" in out
    assert "\n  use_rslora: true or false; default false\n" in out
    [described] = json.loads(peftkit("show", "qlora", "--json")[1])["components"]
    assert (described["preset_of"], described["fixed"]) == ("lora", {})
    assert described["recipe_keys"] == {"model.quantization": "4bit"}
    rates = [each["learning_rates"] for each in described["published_learning_rates"]]
    assert rates == [[1e-4, 2e-4]]


def test_show_suggests_methods_by_meaning(peftkit: Peftkit) -> None:
    assert "(did you mean 'prompt_tuning'?)" in peftkit("show", "soft_prompt")[2]
    assert peftkit("show", "galore")[2].endswith(
        "GaLore is an optimizer of all weights, and peftkit has those of torch.optim and Adafactor only\n"
    )
