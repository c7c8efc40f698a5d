"""Runs and their models, in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import peftkit
from peftkit.api.recipes import resolve_recipe
from peftkit.errors import InputError

ENCODER = """
[run]
name = "api"
[model]
name = "pocket-encoder"
[task]
name = "wordnet_topic"
[method]
name = "bitfit"
[train]
batch_size = 8
[train.budget]
steps = 3
[evaluate]
every = "100%"
train_examples = 0
dev_examples = 8
test_examples = 8
full_splits = false
[track]
to = []
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> peftkit.Run:
    folder = tmp_path_factory.mktemp("api")
    (folder / "recipe.toml").write_text(ENCODER)
    return peftkit.run(folder / "recipe.toml", [f"run.output={folder / '<runs>'}"], quiet=True)


def test_a_run_shows_what_it_recorded(run: peftkit.Run) -> None:
    assert run.status == run.summary["status"] == "done"
    assert run.recipe.method.name == "bitfit"
    curve = run.curve
    assert {"step", "samples", "cost/gmacs", "dev/loss", "test/accuracy"} <= {*curve.columns}
    assert "format" not in curve
    assert curve["step"].tolist() == [0, 3]
    assert run.predictions()["prediction"].tolist() == [
        json.loads(line)["prediction"] for line in (run.path / "predictions" / "test.jsonl").read_text().splitlines()
    ]
    assert repr(run).startswith("bitfit on wordnet_topic with pocket-encoder\n  status        done\n")
    assert "/&lt;runs&gt;/" in run._repr_html_()
    assert run == peftkit.load_run(str(run.path))


def test_predictions_for_texts_and_rows(run: peftkit.Run) -> None:
    (answer,) = run.predict("a small bird")
    assert answer["prediction"] in answer["probabilities"]
    first, second = run.predict(["a small bird", {"gloss": "a small bird"}], batch_size=1)
    assert first == second
    assert first["log_likelihoods"] == pytest.approx(answer["log_likelihoods"], abs=1e-5)
    with pytest.raises(InputError, match=r"row 1: .*missing"):
        run.predict([{"x": "y"}])


def test_every_input_has_one_prediction(run: peftkit.Run) -> None:
    rows = [{"gloss": "a small bird", "note": 1.0}, {"gloss": "a stone", "note": 2.0}]
    expected = run.predict(rows)
    assert len(expected) == 2
    assert run.predict(pd.DataFrame(rows)) == run.predict(row for row in rows) == expected
    assert run.predict(pd.Series(["a small bird", "a stone"])) == expected
    assert [each["source"] for each in run.predict(rows[0])] == [expected[0]["source"]]
    twice = pd.DataFrame([["a", "b"]], columns=["gloss", "gloss"])
    for wrong, words in (
        (["a small bird", " "], "row 2: is empty"),
        (twice, "the DataFrame has two columns of one name"),
        (5, "inputs: must be texts or rows, not 5"),
        (b"a bird", "row 1: must be a text or a row, not 97"),
    ):
        with pytest.raises(InputError, match=words):
            run.predict(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch_size: must be at least 1, not 0"):
        run.predict(rows, batch_size=0)


def test_a_figure_needs_no_pyplot_and_leaves_matplotlib_as_it_was(run: peftkit.Run) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure: Any = run.plot("loss", by="seconds")
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dev", "test"]
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(InputError, match="no metric is called 'acuracy'"):
        run.plot("acuracy")
    with pytest.raises(InputError, match=r"no cost is called 'gmac' \(did you mean 'gmacs'\?\)"):
        run.plot(by="gmac")


def test_runs_in_folders(run: peftkit.Run, tmp_path: Path) -> None:
    runs = peftkit.load_runs(run.path.parent)
    assert [*runs] == [run]
    assert [*runs[:1]] == [run]
    assert runs.table["test"].tolist() == [run.summary["selected"]["test"]["accuracy"]]
    assert "bitfit  wordnet_topic  pocket-encoder" in repr(runs)
    assert "&lt;runs&gt;" in runs._repr_html_()
    with pytest.raises(InputError, match="there is no run in"):
        peftkit.load_runs(tmp_path)
    with pytest.raises(InputError, match=r"is not a run directory: it has no recipe\.toml"):
        peftkit.load_run(tmp_path)


def test_an_unfinished_run_has_a_status_and_no_summary(run: peftkit.Run, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text((run.path / "recipe.toml").read_text())
    unfinished = peftkit.load_run(tmp_path)
    assert unfinished.status == "running"
    assert "status        running" in repr(unfinished)
    assert peftkit.load_runs(tmp_path).table["test"].tolist() == [None]
    for read in (
        lambda: unfinished.summary,
        lambda: unfinished.curve,
        unfinished.plot,
        lambda: unfinished.predict("x"),
    ):
        with pytest.raises(InputError):
            read()


def test_overrides_of_a_recipe_equal_those_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(ENCODER)
    for overrides in (["method.name=full"], ["task.name=race", "method.name=full", "model.name=pocket-t5"]):
        assert resolve_recipe(peftkit.load_recipe(file), overrides) == peftkit.load_recipe(file, overrides)
    with pytest.raises(peftkit.RecipeError, match=r"overrides: train\.batch_sizes: unknown key"):
        peftkit.run(peftkit.load_recipe(file), ["train.batch_sizes=2"])


def test_a_finished_run_is_not_run_again(run: peftkit.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert peftkit.run(run.recipe, resume=run) == run
    assert capsys.readouterr().out == f"already finished: {run.path}\n"
    assert peftkit.run(run.recipe, resume=True, quiet=True) == run
    assert capsys.readouterr().out == ""


def test_load_model_loads_the_head_of_a_run(run: peftkit.Run) -> None:
    path = run.path
    model, tokenizer = peftkit.load_model(path)
    rows = [json.loads(line) for line in (path / "predictions" / "test.jsonl").read_text().splitlines()]
    for row in rows:
        with torch.no_grad():
            scores = model(**tokenizer(row["source"], return_tensors="pt").to(model.device)).logits.log_softmax(-1)[0]
        assert scores.tolist() == pytest.approx(row["log_likelihoods"], abs=1e-5)


def test_load_model_of_another_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run directory: it has no recipe\.toml"):
        peftkit.load_model(tmp_path)


def test_a_run_reads_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "cache"))
    rows = [{"text": f"the {'good' if i % 2 else 'bad'} text {i}", "label": "ab"[i % 2]} for i in range(80)]
    frame = pd.DataFrame(rows)
    table = peftkit.task("text_classification", path=frame, dev_fraction=0.1, test_fraction=0.2)
    stored = table["path"]["train"]
    assert stored.startswith(str(tmp_path / "cache" / "data"))
    text = ENCODER.replace(
        'name = "wordnet_topic"', 'name = "text_classification"\ndev_fraction = 0.1\ntest_fraction = 0.2'
    )
    (tmp_path / "recipe.toml").write_text(text)
    overrides = [f"run.output={tmp_path / 'runs'}", "evaluate.test_examples=16"]
    done = peftkit.run(tmp_path / "recipe.toml", overrides, data=frame, quiet=True)
    assert done.recipe.task.path == {"train": stored}
    assert {*done.predictions()["source"]} <= {f"classify: {row['text']}" for row in rows}
    assert len(done.predictions()) == 16
    with pytest.raises(InputError, match="data: must be a DataFrame"):
        peftkit.run(tmp_path / "recipe.toml", overrides, data=rows, quiet=True)
