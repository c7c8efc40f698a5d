from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from peftkit.cli import main

RECIPE = """
[run]
name = "short"
[model]
name = "pocket-encoder"
[task]
name = "wordnet_topic"
[method]
name = "lora"
[train]
batch_size = 2
learning_rate = 1e-3
budget.steps = 1
[evaluate]
at_start = false
dev_examples = 4
test_examples = 4
whole = false
[track]
wandb = "off"
"""


def test_the_verbs_of_a_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.toml").write_text(RECIPE, encoding="utf-8")
    assert main(["x.toml"]) == 0
    [run] = [str(path) for path in Path("runs").iterdir()]
    capsys.readouterr()

    assert main(["predict", run, "--text", "a bird"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1, printed
    prediction = json.loads(printed)
    assert prediction["prediction"] in prediction["probabilities"]
    assert prediction["source"] == "topic: a bird"
    assert main(["predict", run, "--text", '{"gloss": "a bird"}', "--stream", "--batch", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == prediction

    monkeypatch.setattr("sys.stdin", io.StringIO("a bird\n"))
    assert main(["predict", run]) == 0
    assert json.loads(capsys.readouterr().out) == prediction

    Path("lines").write_text("a bird\na stone\n", encoding="utf-8")
    assert main(["predict", run, "--file", "lines", "-o", "out.jsonl"]) == 0
    assert len(Path("out.jsonl").read_text().splitlines()) == 2

    assert main(["predict", run, "--file", "none"]) == 2
    assert "'none': No such file or directory" in capsys.readouterr().err
    assert main(["predict", run, "--file", "lines", "--text", "x"]) == 2
    assert "--text and --file are both given" in capsys.readouterr().err
    assert main(["predict", "nowhere"]) == 2
    assert "'nowhere' is no run directory" in capsys.readouterr().err

    assert main(["merge", run, "merged"]) == 0
    assert "merged into merged: logits within" in capsys.readouterr().out
    assert main(["export", run, "exported"]) == 0
    assert Path("exported/adapter_model.safetensors").is_file()
    assert main(["export", run, "exported"]) == 2
    assert "not an empty folder" in capsys.readouterr().err
