"""Predictions for test rows without answers equal the run's stored predictions exactly."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from peftkit.data_files import read_prediction_inputs
from peftkit.errors import InputError
from peftkit.inference.finished_run import FinishedRun, load_finished_run
from peftkit.inference.predict import predict
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.testing.run_checks import COLOURS
from peftkit.train.run import run
from tests.tiny_runs import Make, recipe_maker

THINGS = ["blood", "grass leaf", "the deep blue sky", "fire and roses", "a frog", "ink", "sea"]


def user_rows(number: int) -> list[dict[str, Any]]:
    return [
        {
            "text": f"{THINGS[i % 7]} {i}",
            "shop": f"shop {i % 3}",
            "label": ["red", "green", "blue"][i % 3],
            "question": f"which colour has {THINGS[i % 7]} {i}?",
            "choices": ["red", "a darker green", "blue"][i % 2 :],
            "answer": "blue" if i % 3 else "a darker green",
            "source": f"paint {THINGS[i % 7]} {i}",
            "target": ["red", "green", "blue"][i % 3],
            "distractors": [["red", "green"], ["black", "white"], ["yellow", "brown"]][i % 3],
        }
        for i in range(number)
    ]


USER_TASKS = {
    "text_classification": ('task.prompt="{shop}: {text} Which?"', ["label"], ["text", "shop"]),
    "multiple_choice": ("task.shuffle_choices=true", ["answer"], ["question", "choices"]),
    "text_generation": ('task.prompt="Say {source} now"', ["target"], ["source"]),
    "distractor_generation": ("task.max_rows=99", ["distractors"], ["question", "answer"]),
}
WORDNET = {
    "wordnet_topic": ["category"],
    "wordnet_mcq": ["answer"],
    "wordnet_distractors": ["distractors"],
}
QUICK = (
    "train.budget.steps=2",
    "evaluate.every=100%",
    "evaluate.at_start=false",
    "evaluate.train_examples=0",
    "evaluate.batch_size=7",
    "evaluate.max_new_tokens=6",
    "train.learning_rate=1e-3",
)
CASES = [
    (task, kind)
    for task in (*USER_TASKS, *WORDNET)
    for kind in (("encoder-decoder", "decoder", "encoder") if task in USER_TASKS else ("encoder-decoder",))
    if not (kind == "encoder" and "generation" in task)
]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "kind"), CASES)
def test_rows_without_answers_give_the_stored_predictions(
    task: str, kind: str, make: Make, registry: Registry, tmp_path: Path
) -> None:
    options = ["evaluate.dev_examples=8", "evaluate.test_examples=24", "evaluate.full_splits=false"]
    if task in USER_TASKS:
        for split in ("train", "dev", "test"):
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in user_rows(24)))
        files = ", ".join(f'{split}="{tmp_path / split}.jsonl"' for split in ("train", "dev", "test"))
        options += [f"task.path={{{files}}}", USER_TASKS[task][0]]
    path = run(make(kind, *QUICK, f"task.name={task}", *options), registry)
    assert path is not None
    opened = load_finished_run(path, registry)
    stored, rows = RunDirectory(path).predictions("test"), opened.recipe.task.load()["test"]
    answers = USER_TASKS[task][1] if task in USER_TASKS else WORDNET[task]
    bare = [{k: v for k, v in rows[line["index"]].items() if k not in answers and k[0] != "_"} for line in stored]
    predicted = [*predict(opened, [json.dumps(row) for row in bare])]
    assert len(predicted) == 24
    for one, line in zip(predicted, stored, strict=True):
        known = {key: value for key, value in one.items() if key != "probabilities"}
        assert known.items() <= line.items()
        assert {"source", "prediction"} <= known.keys()
        assert ("log_likelihoods" in known) == ("log_likelihoods" in line)
    if task in USER_TASKS:
        fields = USER_TASKS[task][2]
        only = [json.dumps({field: row[field] for field in fields}) for row in bare]
        assert [*predict(opened, only)] == predicted
        if len(fields) > 1:
            with pytest.raises(
                InputError, match=r"line 1: .* missing; a line of text stands for exactly one field"
            ) as caught:
                [*predict(opened, ["some text"])]
            assert all(field in str(caught.value) for field in fields)
        else:
            assert [*predict(opened, [row[fields[0]] for row in bare])] == predicted


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder", "encoder"])
def test_mixed_precision_and_scoring_are_those_of_the_run(kind: str, make: Make, registry: Registry) -> None:
    scoring = () if kind == "encoder" else ("evaluate.scoring=norm",)  # labels of a head have no tokens
    options = ("train.mixed_precision=bf16", *scoring, "model.attention=eager", "method.name=lora")
    path = run(make(kind, *QUICK, *options, "evaluate.test_examples=5"), registry)
    assert path is not None
    opened = load_finished_run(path, registry)
    things = [json.dumps({"thing": row["thing"]}) for row in opened.recipe.task.load()["test"]]
    for _ in range(2):  # prediction does not change the model
        predicted = [*predict(opened, things)]
        for one, line in zip(predicted, RunDirectory(path).predictions("test"), strict=True):
            assert {key: value for key, value in one.items() if key != "probabilities"}.items() <= line.items()


def test_errors_describe_valid_input_lines(make: Make, registry: Registry) -> None:
    short = ("evaluate.full_splits=false", "evaluate.dev_examples=4", "evaluate.test_examples=4")
    opened = opened_run(make, registry, "task.name=wordnet_mcq", *short)
    message = (
        'line 2: choices, gloss: missing; a line of text.* a JSON object with choices, gloss, or one .* "source" and'
    )
    lines = ['{"gloss": "a bird", "choices": ["hawk", "owl"]}', "a bird"]
    with pytest.raises(InputError, match=message):
        [*predict(opened, lines)]
    ready = json.dumps({"source": "choose: a bird", "candidates": ["hawk", "owl"]})
    one, other = predict(opened, [lines[0], ready])
    assert one == other


def opened_run(make: Make, registry: Registry, *options: str, kind: str = "decoder") -> FinishedRun:
    path = run(make(kind, *QUICK, *options), registry)
    assert path is not None
    return load_finished_run(path, registry)


@pytest.fixture(scope="module")
def opened_runs(
    models: dict[str, Path], registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], FinishedRun]:
    """Returns the finished run of a model of this kind on the colour task, which predictions do not change."""

    @cache
    def opened(kind: str) -> FinishedRun:
        return opened_run(recipe_maker(models, registry, tmp_path_factory.mktemp(kind)), registry, kind=kind)

    return opened


def test_an_incomplete_object_with_a_source_column_is_an_error(make: Make, registry: Registry, tmp_path: Path) -> None:
    rows = [{"source": f"{COLOURS[i % 3]} {i}", "num": str(i), "label": COLOURS[i % 3]} for i in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = (
        *("task={name='text_classification'}", f"task.path={tmp_path / 'rows.jsonl'}", "task.text_column=source"),
        *(
            "task.label_column=label",
            'task.prompt="{num}: {source}"',
            "task.dev_fraction=0.25",
            "task.test_fraction=0.25",
        ),
    )
    opened = opened_run(make, registry, *keys)
    with pytest.raises(InputError, match="line 1: num: missing"):
        list(predict(opened, ['{"source": "red 1"}']))
    (one,) = predict(opened, ['{"source": "red 1", "num": "7"}'])
    assert one["source"] == "7: red 1"


@pytest.mark.parametrize(
    ("kind", "candidates", "message"),
    [
        ("decoder", "red", "must be a list of strings, not 'red'"),
        ("decoder", 5, "must be a list of strings, not 5"),
        ("decoder", {"red": 1, "blue": 2}, "must be a list of strings, not {'blue'"),
        ("decoder", ["red"], "at least two, all different"),
        ("encoder", ["green", "red", "blue"], "the head has one output for each of red, green, blue, in this order"),
        ("encoder", ["red", "pink", "blue", "black"], "the head has one output for each of"),
    ],
)
def test_ready_made_candidates_are_those_that_the_run_can_rank(
    kind: str, candidates: object, message: str, opened_runs: Callable[[str], FinishedRun]
) -> None:
    opened = opened_runs(kind)
    with pytest.raises(InputError, match=f"row 1: .*{message}"):
        list(predict(opened, [{"source": "(colour) sky", "candidates": candidates}]))
    labels = list(opened.recipe.task.labels)
    plain, given = predict(opened, [{"source": "(colour) sky"}, {"source": "(colour) sky", "candidates": labels}])
    # The order of additions in a matrix product may depend on the place in the batch.
    approximate = {"log_likelihoods": pytest.approx(plain["log_likelihoods"], abs=1e-5)}
    assert given == {**plain, **approximate}


def test_inputs_are_texts_or_rows(opened_runs: Callable[[str], FinishedRun]) -> None:
    with pytest.raises(InputError, match="row 2: must be a text or a row, not 5"):
        list(predict(opened_runs("decoder"), ["a", 5]))  # type: ignore[list-item]


def test_texts_may_start_with_a_brace_and_keep_whitespace(opened_runs: Callable[[str], FinishedRun]) -> None:
    opened = opened_runs("decoder")
    predicted = list(predict(opened, ["{hello} sky ", "  [sky]", '{"thing": "sky"}']))
    assert [each["source"] for each in predicted] == ["(colour) {hello} sky ", "(colour)   [sky]", "(colour) sky"]
    with pytest.raises(InputError, match="line 1: not a JSON object"):
        list(predict(opened, ['{"thing": ']))


def test_every_file_format_is_read_as_in_training(make: Make, registry: Registry, tmp_path: Path) -> None:
    rows = [
        {"text": f"{THINGS[i % 7]} {text}", "shop": text} for i, text in enumerate(["007", "2.50", "true", "NA"] * 6)
    ]
    answered = [{**row, "label": COLOURS[i % 3]} for i, row in enumerate(rows)]
    files = {split: tmp_path / f"{split}.csv" for split in ("train", "dev", "test")}
    for file in files.values():
        file.write_bytes(delimited(answered, ","))
    paths = ", ".join(f'{split}="{file}"' for split, file in files.items())
    options = (f"task.path={{{paths}}}", 'task.prompt="{shop}: {text} Which?"')
    path = run(make("decoder", *QUICK, "task.name=text_classification", *options), registry)
    assert path is not None
    opened, stored = load_finished_run(path, registry), RunDirectory(path).predictions("test")
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    contents = {
        "answered.csv": delimited(answered, ","),
        "a.csv": delimited(rows, ","),
        "mark.csv": b"\xef\xbb\xbf" + delimited(rows, ","),
        "a.tsv": delimited(rows, "\t"),
        "a.jsonl": lines,
        "mark.jsonl": b"\xef\xbb\xbf" + lines,
        "a.json": json.dumps({"data": rows}).encode(),
        "lines": b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n\r\n"),
        "a.csv.gz": gzip.compress(delimited(rows, ",")),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        predicted = [*predict(opened, read_prediction_inputs(str(tmp_path / name)), name=name)]
        if name == "lines":  # every other one is empty
            assert {one["prediction"] for one in predicted[1::2]} == {None}
            predicted = predicted[::2]
        assert [one["source"] for one in predicted] == [f"{row['shop']}: {row['text']} Which?" for row in rows], name
        assert [one["log_likelihoods"] for one in predicted] == [line["log_likelihoods"] for line in stored], name
    for name, content, words in (
        ("empty.csv", b"text,shop\na,b\nc,\n", "empty.csv, row 2: shop: is empty"),
        ("lacks.jsonl", b'{"text": "a"}\n', "lacks.jsonl, row 1: shop: missing"),
        ("array", json.dumps(rows).encode(), "array, line 1: starts a JSON array"),
        ("twice", b'{"text": "a", "text": "b", "shop": "c"}', "twice, line 1: not a JSON object: .* 'text' twice"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=words):
            list(predict(opened, read_prediction_inputs(str(tmp_path / name)), name=name))


def delimited(rows: list[dict[str, str]], separator: str) -> bytes:
    return "".join(separator.join(cells) + "\n" for cells in [[*rows[0]], *(row.values() for row in rows)]).encode()


def test_rows_with_labels_that_were_ignored_are_predicted(make: Make, registry: Registry, tmp_path: Path) -> None:
    labels = ["red", "green", "blue", "?"]
    rows = [{"text": f"{THINGS[i % 7]} é, {i}", "label": labels[i % 4]} for i in range(40)]
    files = {split: tmp_path / f"{split}.csv" for split in ("train", "dev", "test")}
    for file in files.values():
        file.write_bytes(delimited(rows, ";").decode().encode("cp1252"))
    paths = ", ".join(f'{split}="{file}"' for split, file in files.items())
    options = (f"task.path={{{paths}}}", 'task.delimiter=";"', "task.encoding=cp1252", 'task.ignore_labels=["?"]')
    path = run(make("encoder", *QUICK, "task.name=text_classification", *options), registry)
    assert path is not None
    opened, stored = load_finished_run(path, registry), RunDirectory(path).predictions("test")
    assert len(stored) == 30
    task, new = opened.recipe.task, tmp_path / "new.csv"
    for written in (rows, [{"text": row["text"]} for row in rows]):
        new.write_bytes(delimited(written, ";").decode().encode("cp1252"))
        predicted = list(predict(opened, read_prediction_inputs(str(new), task.prediction_options(str(new)))))
        assert len(predicted) == 40
        known = [each for each, row in zip(predicted, rows, strict=True) if row["label"] != "?"]
        assert [each["prediction"] for each in known] == [each["prediction"] for each in stored]
        assert all(sum(each["probabilities"].values()) == pytest.approx(1) for each in predicted)
        assert all({*each["probabilities"]} == {"red", "green", "blue"} for each in predicted)


@pytest.mark.parametrize("stream", [False, True])
def test_empty_lines_have_no_prediction_and_are_listed(
    stream: bool, opened_runs: Callable[[str], FinishedRun], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened, lines = opened_runs("decoder"), ["", "sky", " \t", "blood", "", ""]
    (tmp_path / "new.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    inputs = read_prediction_inputs(str(tmp_path / "new.txt"))
    predicted = list(predict(opened, inputs, 1 if stream else None, stream=stream, name="new.txt"))
    assert [each["source"] for each in predicted] == ["", "(colour) sky", "", "(colour) blood", "", ""]
    assert [each["prediction"] is None for each in predicted] == [not line.strip() for line in lines]
    assert "4 of 6 lines are empty, so their prediction is null: new.txt, line 1, new.txt, line 3" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_invalid_rows_are_skipped_and_listed_as_in_training(
    stream: bool, make: Make, registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": row["text"], "label": row["label"]} for row in user_rows(40)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    held_out = ("task.dev_fraction=0.2", "task.test_fraction=0.2", "task.on_bad_row=skip", "task.max_bad=2")
    options = (f"task.path={tmp_path / 'train.jsonl'}", 'task.prompt="{text}"', *held_out)
    opened = opened_run(make, registry, "task.name=text_classification", *options, kind="encoder")
    new: list[Any] = [{"text": "sky"}, {"text": None}, {"text": "blood"}, {"other": "ink"}, {"text": "sea"}]
    batch = 2 if stream else None
    predicted = [*predict(opened, new, batch, stream=stream, name="new.jsonl")]
    alone = [*predict(opened, [new[0], new[2], new[4]])]
    assert [each["source"] for each in predicted] == ["sky", "", "blood", "", "sea"]
    assert [predicted[i]["prediction"] for i in (0, 2, 4)] == [each["prediction"] for each in alone]
    assert [predicted[i]["prediction"] for i in (1, 3)] == [None, None]
    assert predicted[1]["skipped"] == "text: is empty"
    assert "2 of 5 rows are invalid and skipped, so their prediction is null: new.jsonl, row 2: text" in caplog.text
    with pytest.raises(InputError, match=r"3 of \d+ rows are invalid, and max_bad allows 2; the first is row 2: text"):
        [*predict(opened, [*new, {}, new[0]], batch, stream=stream)]
    if not stream:
        with pytest.raises(InputError, match="no row is valid; the first is row 1: text: missing"):
            [*predict(opened, [{}])]
