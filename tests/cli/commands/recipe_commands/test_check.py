from __future__ import annotations

import json

from tests.cli.conftest import Peftkit


def test_check_prints_the_recipe_its_method_task_and_model(peftkit: Peftkit) -> None:
    assert peftkit("check", "x.toml") == (0, "x.toml: OK (lora on wordnet_mcq, pocket-t5)\n", "")
    assert peftkit("check", "x.toml", "-q") == (0, "", "")
    code, out, err = peftkit("check", "x.toml", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "format": 1,
        "recipe": "x.toml",
        "valid": True,
        "errors": [],
        "method": "lora",
        "task": "wordnet_mcq",
        "model": "pocket-t5",
    }


def test_check_json_lists_the_errors(peftkit: Peftkit) -> None:
    code, out, err = peftkit("check", "x.toml", "--json", "--set", "train.batch_size=0", "--set", "method.rank=8")
    document = json.loads(out)
    assert (code, err, document["valid"]) == (2, "", False)
    assert {error["key"] for error in document["errors"]} == {"train.batch_size", "method.rank"}
    assert all(error.keys() == {"file", "line", "key", "message"} for error in document["errors"])
    code, out, err = peftkit("check", "none.toml", "--json")
    assert (code, json.loads(out)["errors"][0]["file"], err) == (2, "none.toml", "")
