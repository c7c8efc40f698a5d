from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Peftkit


def test_check_prints_the_recipe_its_method_task_and_model(peftkit: Peftkit) -> None:
    assert peftkit("check", "x.toml") == (0, "x.toml: OK (lora on wordnet_mcq, pocket-t5)\n", "")
    assert peftkit("check", "x.toml", "-q") == (0, "", "")
    code, out, err = peftkit("check", "x.toml", "--json")
    assert (code, err) == (0, "")
    recipe = {"recipe": "x.toml", "valid": True, "errors": [], "warnings": []}
    names = {"method": "lora", "task": "wordnet_mcq", "model": "pocket-t5"}
    assert json.loads(out) == {"format": 3, "valid": True, "recipes": [{**recipe, **names}], "failures": []}


def test_check_json_lists_the_errors(peftkit: Peftkit) -> None:
    code, out, err = peftkit("check", "x.toml", "--json", "--set", "train.batch_size=0", "--set", "method.rank=8")
    document = json.loads(out)
    [recipe] = document["recipes"]
    assert (code, err, document["valid"], recipe["valid"]) == (2, "", False, False)
    assert {error["key"] for error in recipe["errors"]} == {"train.batch_size", "method.rank"}
    assert all(error.keys() == {"file", "line", "key", "message"} for error in recipe["errors"])
    code, out, err = peftkit("check", "none.toml", "--json")
    assert (code, json.loads(out)["recipes"][0]["errors"][0]["file"], err) == (2, "none.toml", "")


DATA = """
[model]
name = "pocket-t5"
[task]
name = "text_classification"
path = {train = "train.csv", dev = "dev.csv", test = "dev.csv"}
[method]
name = "lora"
"""


@pytest.fixture
def data(peftkit: Peftkit) -> None:
    """A recipe of two files: ``train.csv``, and ``dev.csv`` with a misspelled label and an invalid row."""
    Path("train.csv").write_text("text,label\na,good\nb,bad\n", encoding="utf-8")
    Path("dev.csv").write_text("text,label\na,good\nb,baad\n,bad\n", encoding="utf-8")
    Path("data.toml").write_text(DATA, encoding="utf-8")


@pytest.mark.usefixtures("data")
def test_check_prints_the_problems_of_all_recipes_at_once(peftkit: Peftkit) -> None:
    code, out, err = peftkit("check", "nothing.toml", "data.toml", "x.toml")
    assert (code, out) == (2, "x.toml: OK (lora on wordnet_mcq, pocket-t5)\n")
    assert err.splitlines() == [
        "peftkit: warning: data.toml:4: task.label_column: label: no training row has the label 'baad' of split 'dev' "
        "(did you mean 'bad'?)",
        "peftkit: errors:",
        "nothing.toml: file not found",
        "data.toml:4: task.text_column: dev.csv, row 3: text: is empty",
    ]


@pytest.mark.usefixtures("data")
def test_no_data_checks_the_recipe_only(peftkit: Peftkit) -> None:
    assert peftkit("check", "data.toml", "--no-data", "-q") == (0, "", "")
    code, out, _ = peftkit("check", "data.toml", "--json")
    keys = [error["key"] for error in json.loads(out)["recipes"][0]["errors"]]
    assert (code, keys) == (2, ["task.text_column"])


def test_warnings_do_not_make_a_recipe_invalid(peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ("check", "x.toml", "--set", "train.mixed_precision=fp16", "--set", "model.quantization=4bit")
    code, out, err = peftkit(*words)
    assert (code, out) == (0, "x.toml: OK (lora on wordnet_mcq, pocket-t5)\n")
    assert [line.split(": cannot run on this machine: ")[0] for line in err.splitlines()] == [
        "peftkit: warning: --set: train.mixed_precision",
        "peftkit: warning: --set: model.quantization",
    ]
    assert peftkit(*words, "-q") == (0, "", "")
    [recipe] = json.loads(peftkit(*words, "--json")[1])["recipes"]
    assert (recipe["valid"], len(recipe["warnings"])) == (True, 2)


def test_options_that_the_optimizer_rejects_are_errors(peftkit: Peftkit) -> None:
    overrides = ("train.optimizer=adamw", "train.optimizer_options.betas=[2.0, 0.9]")
    code, _, err = peftkit("check", "x.toml", *(word for each in overrides for word in ("--set", each)))
    assert code == 2
    assert "train.optimizer_options: adamw does not accept them: " in err


def test_check_finds_conversations_that_are_too_long(
    peftkit: Peftkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{i} " + "long " * (900 * (i == 7) + 1), "completion": f"yes {i}"} for i in range(30)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    Path("chat.toml").write_text(
        '[model]\nname = "pocket-decoder"\n[method]\nname = "full"\n[task]\nname = "chat"\npath = "rows.jsonl"\n'
        "dev_fraction = 0.2\ntest_fraction = 0.2\n[objective]\nname = 'chat_completion'\n"
        f"chat_template = '''{template}'''\n"
    )
    code, _, err = peftkit("check", "chat.toml")
    assert code == 2
    assert "rows.jsonl, row 8: " in err
    assert "conversations are not cut" in err
    assert peftkit("check", "chat.toml", "--no-data")[0] == 0
