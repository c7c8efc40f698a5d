"""Problems of data that are found without a model, all at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from pydantic import ValidationError

from peftkit.components import OptionProblem
from peftkit.errors import InputError
from peftkit.tasks import DistractorGeneration, MultipleChoice, TextClassification, TextGeneration, data_check
from peftkit.tasks.hub import AgNews
from tests.tasks.table_files import examples

ROWS = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(20)]
QUESTIONS = [{"question": "q", "choices": ["x", "y"], "answer": "A"}] * 4


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("train.csv", ROWS)
    write("dev.csv", ROWS[:6])
    write("questions.jsonl", QUESTIONS)
    return tmp_path


def write(name: str, rows: Sequence[Mapping[str, Any]], encoding: str = "utf-8") -> str:
    """Writes rows as JSON Lines, Parquet, or CSV without quotes."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    elif name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(list(rows)), name)
        return name
    else:
        text = "".join(",".join(map(str, cells)) + "\n" for cells in ([*rows[0]], *(row.values() for row in rows)))
    Path(name).write_bytes(text.encode(encoding))
    return name


def files(train: str = "train.csv", dev: str = "dev.csv", test: str | None = None) -> dict[str, Any]:
    return {"train": train, "dev": dev, "test": test or dev}


def problems(task: Any) -> list[tuple[str, str]]:
    reported: Sequence[OptionProblem] = task.find_data_problems()
    every = [problem for problem in reported if problem.is_error or "checked in part" not in problem.text]
    assert all(problem.is_error for problem in every)
    return [(problem.option, problem.text) for problem in every]


def load_examples(task: Any) -> None:
    """Converts all rows to examples, as a run does."""
    for split in ("train", "dev", "test"):
        examples(task, split)


def _misspelled() -> Any:
    return TextClassification(path=files("trian.csv", "none.csv", write("test.doc", ROWS)))


def _columns() -> Any:
    return TextClassification(path=files(), text_column="txt", label_column="lable", group_column="g")


def _one_column() -> Any:
    return TextClassification(path=files("one.csv", write("one.csv", ROWS[::2])), text_column="txt")


def _delimiters() -> Any:
    Path("semicolons.csv").write_text("text;label\nx y;a\n")
    Path("tabs.csv").write_text("text\tlabel\nx, y, z\ta\n")
    Path("plain.txt").write_text("text;label\nx;a\n")
    return TextClassification(path={"train": "semicolons.csv", "dev": "tabs.csv", "test": "plain.txt"})


def _prompt() -> Any:
    return TextClassification(path=files(), prompt="{topic}: {text}")


def _encodings() -> Any:
    rows = [{"text": "café", "label": "a"}, {"text": "x", "label": "b"}]
    return TextClassification(path=files(write("latin.csv", rows, "latin-1"), write("utf16.csv", rows, "utf-16")))


def _labels() -> Any:
    rows = [*ROWS[:2], {"text": "x", "label": "c"}, {"text": "x", "label": "d"}, {"text": "", "label": "a"}]
    return TextClassification(path=files(dev=write("other.csv", rows)), label_names=("a", "b"))


def _one_label() -> Any:
    return TextClassification(path=files(write("one.csv", ROWS[::2]), write("two.csv", ROWS[::2])))


def _label_lists() -> Any:
    rows = [{"text": "t", "label": ["a"]}] * 3
    return TextClassification(path=files(write("lists.jsonl", rows)))


def _mixed_labels() -> Any:
    rows = [{"text": "t", "label": label} for label in ("a", 1)]
    return TextClassification(path=files(write("mixed.jsonl", rows)))


def _label_numbers_as_text() -> Any:
    features = Features({"text": ClassLabel(names=["x", "y"]), "label": Value("string")})
    Dataset.from_list([{"text": 0, "label": "a"}, {"text": 1, "label": "b"}], features=features).to_parquet("n.parquet")
    return TextClassification(path=files("n.parquet"))


def _verbalisers() -> Any:
    return TextClassification(path=files(), verbalisers={"c": "x"})


def _kinds() -> Any:
    rows = [{"question": "q", "choices": "x, y", "answer": "A"}]
    return MultipleChoice(path=files(write("kinds.jsonl", rows), "questions.jsonl"))


def _answers() -> Any:
    rows = [*QUESTIONS, {**QUESTIONS[0], "answer": "z"}, {**QUESTIONS[0], "choices": ["x", "x"]}]
    return MultipleChoice(path=files("questions.jsonl", write("answers.jsonl", rows)))


def _distractors() -> Any:
    return DistractorGeneration(path=files("questions.jsonl", "questions.jsonl"))


def _targets() -> Any:
    rows = [{"source": "a", "target": {"x": 1}}, {"source": "", "target": "b"}]
    return TextGeneration(path=files(write("targets.jsonl", rows), "targets.jsonl"))


def _no_splits() -> Any:
    return TextClassification(path="train.csv")


def _split_names() -> Any:
    write("data/train.csv", ROWS)
    write("data/valid.csv", ROWS)
    return TextClassification(path="data", dev_split="vali")


def _too_few_rows() -> Any:
    return TextClassification(path=write("few.csv", ROWS[:2]), dev_fraction=0.1, test_fraction=0.1)


def _saved() -> Any:
    rows = Dataset.from_list(ROWS)
    DatasetDict(train=rows, validation=rows, test=rows).save_to_disk("saved")
    return TextClassification(path="saved", label_column="lab")


def _hub_layout() -> Any:
    splits = "".join(f'  - split: {split}\n    path: "{split[:2]}.csv"\n' for split in ("train", "validation", "test"))
    Path("layout").mkdir()
    Path("layout/README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n")
    for name in ("tr", "va", "te"):
        write(f"layout/{name}.csv", ROWS if name != "te" else [{"text": "x", "label": "c"}])
    return TextClassification(path="layout", label_names=("a", "b"))


CASES: list[tuple[Callable[[], Any], list[tuple[str, str]]]] = [
    (
        _misspelled,
        [
            ("path", "there is no file 'trian.csv' (did you mean 'train.csv'?)"),
            ("path", "there is no file 'none.csv'"),
            ("path", "'test.doc' has an unsupported extension; allowed: .csv"),
        ],
    ),
    (
        _columns,
        [
            ("text_column", "train.csv and dev.csv: there is no column 'txt' (did you mean 'text'?); columns: label"),
            ("label_column", "train.csv and dev.csv: there is no column 'lable' (did you mean 'label'?); columns: "),
            ("group_column", "train.csv and dev.csv: there is no column 'g'"),
        ],
    ),
    (
        _one_column,
        [
            ("text_column", "one.csv: there is no column 'txt'"),
            ("label_column", "label: has one label, 'a'; at least 2 are required"),
        ],
    ),
    (
        _delimiters,
        [
            (
                "path",
                r"tabs.csv, row 1: has 3 cells, but the header has 1 (line 2); the header 'text\tlabel' has '\t' ",
            ),
            ("text_column", "semicolons.csv: there is no column 'text'; columns: text;label; the header 'text;label' "),
            (
                "label_column",
                "semicolons.csv: there is no column 'label'; columns: text;label; the header 'text;label'",
            ),
            ("label_column", "plain.txt: there is no column 'label'; columns: text; a .txt file has no columns, so"),
        ],
    ),
    (_prompt, [("prompt", f"{name}.csv, row 1: topic: there is no such field") for name in ("train", "dev")]),
    (
        _encodings,
        [
            ("path", "latin.csv, line 2: is not UTF-8 (byte 0xe9)"),
            ("path", "utf16.csv, line 1: is UTF-16 instead of UTF-8"),
        ],
    ),
    (
        _labels,
        [
            ("label_column", "other.csv, row 3: label: unknown label 'c'; labels: a, b"),
            ("text_column", "other.csv, row 5: text: is empty"),
        ],
    ),
    (_one_label, [("label_column", "label: has one label, 'a'; at least 2 are required")]),
    (
        _label_lists,
        [("label_column", "lists.jsonl, row 1: label: must be one label, a text or a number, not the list")],
    ),
    (_mixed_labels, [("label_column", "mixed.jsonl, row 2: label: the label 1 is a number, but the label of ")]),
    (_label_numbers_as_text, [("text_column", "n.parquet: text: is used as text, but has label numbers (of x, y)")]),
    (_verbalisers, [("label_column", "verbalisers: unknown label 'c'")]),
    (_kinds, [("choices_column", "kinds.jsonl, row 1: choices: must be a list of texts, not 'x, y'")]),
    (
        _answers,
        [
            ("answer_column", "answers.jsonl, row 5: answer: the answer 'z' is not among the choices"),
            ("choices_column", "answers.jsonl, row 6: choices: has the choice 'x' twice"),
        ],
    ),
    (_distractors, [("distractors_column", "questions.jsonl: there is no column 'distractors'; columns: answer, ")]),
    (
        _targets,
        [
            ("target_column", "targets.jsonl, row 1: target: must be a text, not {'x': 1}"),
            ("source_column", "targets.jsonl, row 2: source: is empty"),
        ],
    ),
    (
        _no_splits,
        [
            ("path", "'train.csv' has no test split; set test_split to its name, or test_fraction"),
            ("path", "'train.csv' has no dev split; set dev_split to its name, or dev_fraction"),
        ],
    ),
    (
        _split_names,
        [
            ("dev_split", "'data' has no split 'vali' (did you mean 'valid'?); splits: train, valid"),
            ("path", "'data' has no test split"),
        ],
    ),
    (_too_few_rows, [("path", "'few.csv' has 2 rows (columns: text, label), too few to hold out rows")]),
    (
        _saved,
        [
            (
                "label_column",
                "'saved', split 'train' and 'saved', split 'validation' and 'saved', split 'test': there is",
            )
        ],
    ),
    (_hub_layout, [("label_column", "'layout', split 'test', row 1: label: unknown label 'c'; labels: a, b")]),
]


@pytest.mark.parametrize(("make_task", "expected"), CASES, ids=[make.__name__ for make, _ in CASES])
def test_all_problems_are_found(make_task: Callable[[], Any], expected: list[tuple[str, str]]) -> None:
    task = make_task()
    actual = problems(task)
    assert [option for option, _ in actual] == [option for option, _ in expected]
    for (_, text), (_, start) in zip(actual, expected, strict=True):
        assert text.startswith(start)
    with pytest.raises(InputError):  # a run fails too
        load_examples(task)


def test_a_run_reports_the_same_text() -> None:
    for make_task in (_misspelled, _labels, _answers, _no_splits):
        task = make_task()
        with pytest.raises(InputError) as caught:
            load_examples(task)
        assert str(caught.value).removeprefix("path: ") == problems(task)[0][1]


class Raising(TextClassification):
    """A plugin's task that fails on all rows."""

    def to_example(self, row: Mapping[str, Any]) -> Any:
        raise KeyError("topic")


def test_an_exception_of_a_plugins_task_has_the_row() -> None:
    assert problems(Raising(path=files()))[0] == ("name", "train.csv, row 1: the task raised KeyError: 'topic'")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_valid_data_have_no_problems(suffix: str) -> None:
    file = write(f"valid.{suffix}", ROWS)
    held_out = {"dev_fraction": 0.2, "test_fraction": 0.2}
    assert problems(TextClassification(path=file, **held_out)) == []
    assert problems(TextClassification(path=files(file), streaming=True, label_names=("a", "b"))) == []
    assert problems(TextClassification(path=file, **held_out, max_rows=3)) == []


def test_only_the_first_rows_of_large_files_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_check, "ROWS_PER_FILE", 5)
    rows = [*ROWS, {"text": "x", "label": ""}]
    for suffix in ("csv", "jsonl", "parquet"):
        task = TextClassification(path=files(write(f"large.{suffix}", rows), "dev.csv"), label_names=("a", "b"))
        assert problems(task) == []
        # Labels of rows that are not read may be missing among those that are.
        dev = write("new.csv", [{"text": "x", "label": "c"}])
        warning, _ = TextClassification(path=files(f"large.{suffix}", dev)).find_data_problems()
        assert (warning.option, warning.is_error) == ("label_column", False)
    held_out = {"dev_fraction": 0.2, "test_fraction": 0.2}
    warning, _ = TextClassification(path="large.csv", **held_out).find_data_problems()
    assert not warning.is_error


def test_a_warning_names_the_files_that_are_checked_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_check, "ROWS_PER_FILE", 10)
    monkeypatch.setattr(data_check, "ROWS_PER_SPLIT", 15)
    held_out = {"dev_fraction": 0.2, "test_fraction": 0.2}
    end = "checked in part, at most 10 rows of a file and 15 of a split; a run checks all rows"
    options = {"label_names": ("a", "b")}
    for suffix in ("csv", "jsonl", "parquet"):
        large = write(f"large.{suffix}", ROWS)
        expected = [OptionProblem("path", f"large.{suffix}: {end}", is_error=False)]
        assert TextClassification(path=files(large), **options).find_data_problems() == expected
        assert TextClassification(path=large, **held_out, **options).find_data_problems() == expected
    both = [OptionProblem("path", f"large.csv, large.jsonl: {end}", is_error=False)]
    assert TextClassification(path=files("large.csv", "large.jsonl"), **options).find_data_problems() == both
    small = write("small.csv", ROWS[:9])
    assert TextClassification(path=files(small), **options).find_data_problems() == []
    several = {"train": [small, write("more.csv", ROWS[:9])], "dev": small, "test": small}
    [warning] = TextClassification(path=several, **options).find_data_problems()
    assert warning.text == f"small.csv, more.csv: {end}"
    several["train"] = [write(f"{name}.csv", ROWS[:9]) for name in "abcde"]
    [warning] = TextClassification(path=several, **options).find_data_problems()
    assert warning.text == f"a.csv, b.csv, c.csv and 2 more: {end}"


def test_the_encoding_of_later_rows_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_check, "ROWS_PER_FILE", 5)
    latin = write("late.csv", [*ROWS * 1000, {"text": "café", "label": "a"}], "latin-1")
    [(option, text)] = problems(TextClassification(path=files(latin), label_names=("a", "b")))
    assert (option, text[:44]) == ("path", "late.csv, line 20002: is not UTF-8 (byte 0xe")


def test_large_json_files_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_check, "MOST_JSON_BYTES", 10)
    Path("large.json").write_text(json.dumps(ROWS))
    [warning] = TextClassification(path=files("large.json")).find_data_problems()
    assert warning.text.startswith("large.json is not checked")
    assert not warning.is_error


def test_hub_datasets_are_loaded_on_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AgNews().find_data_problems() == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    [problem] = AgNews().find_data_problems(download=True)
    assert (problem.option, problem.text.split(" (")[0]) == ("path", "cannot load 'fancyzhx/ag_news'")


@pytest.mark.parametrize(
    ("path", "text", "is_error"),
    [
        ("none.csv", "there is no file 'none.csv'", True),
        ("data/tarin.csv", "there is no file 'data/tarin.csv' (did you mean 'train.csv'?)", True),
        ("dta/train.csv", "'dta/train.csv' is not a file or folder here, so it is a hub id", False),
        ("data/toxicc", "'data/toxicc' is not a file or folder here, so it is a hub id (did you mean 'toxic'?)", False),
        ("tox", "'tox' is neither a file, a folder nor a hub id (owner/name)", True),
    ],
)
def test_missing_paths(path: str, text: str, is_error: bool) -> None:
    write("data/train.csv", ROWS)
    write("data/toxic/train.csv", ROWS)
    [problem] = TextClassification(path=path).find_data_problems()
    assert problem.text.startswith(text)
    assert problem.is_error == is_error


TABLE = {"train": "train.csv", "dev": "dev.csv"}


@pytest.mark.parametrize(
    ("cls", "options", "option", "reason"),
    [
        (TextClassification, {"path": TABLE, "train_split": "foo"}, "train_split", "the keys of path are the splits"),
        (AgNews, {"path": TABLE, "dev_split": "foo"}, "dev_split", "the keys of path are the splits"),
        (AgNews, {"path": TABLE, "dev_fraction": 0.2}, "dev_fraction", "path has files for dev"),
        (TextGeneration, {"path": TABLE, "config": "x"}, "config", "path has files by split"),
        (TextGeneration, {"path": TABLE, "revision": "x"}, "revision", "path has files by split"),
        (AgNews, {"test_split": "t", "test_fraction": 0.1}, "test_fraction", "test_split is the test split"),
        (
            MultipleChoice,
            {"path": TABLE, "choices_column": "a", "choices_columns": ("b", "c")},
            "choices_column",
            "choices_columns has the columns of the choices",
        ),
        (
            DistractorGeneration,
            {"path": TABLE, "choices_column": "a", "distractors_columns": ("b",)},
            "distractors_columns",
            "the distractors are the other choices of choices_column",
        ),
    ],
)
def test_an_option_that_another_makes_ineffective_is_rejected(
    cls: type[Any], options: dict[str, Any], option: str, reason: str
) -> None:
    with pytest.raises(ValidationError, match=rf"{option}: has no effect, because {reason}; remove it"):
        cls(**options)
    cls(**{key: value for key, value in options.items() if key != option})


def test_defaults_of_a_task_on_a_particular_dataset_are_not_rejected() -> None:
    task = AgNews(path=TABLE)  # 5 % of its training rows are dev rows
    assert AgNews.model_validate(task.model_dump()) == task
    assert AgNews(dev_split="dev").dev_fraction == 0.05


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"dev_fraction": 0.5}, ("dev_fraction", "the data have a dev split, 'dev'")),
        ({"test_fraction": 0.5}, None),
        ({"revision": "main"}, ("revision", "'data' is on this machine")),
        ({"path": "train.csv", "config": "x", "dev_fraction": 0.1}, ("config", "'train.csv' has no configurations")),
        ({"text_pair_column": "text", "prompt": "{text}"}, ("text_pair_column", "the prompt has no field {text_pair}")),
        ({"text_column": "label", "prompt": "{other}"}, ("text_column", "the prompt has no field {text}")),
    ],
)
def test_an_option_without_effect_on_the_data_is_a_warning(
    options: dict[str, Any], warning: tuple[str, str] | None
) -> None:
    write("data/train.csv", [row | {"other": "o"} for row in ROWS])
    write("data/dev.csv", [row | {"other": "o"} for row in ROWS])
    task = TextClassification(**{"path": "data", "test_fraction": 0.2, **options})
    warnings = [(p.option, p.text) for p in task.find_data_problems() if "has no effect" in p.text and not p.is_error]
    assert warnings == ([(warning[0], f"has no effect, because {warning[1]}")] if warning else [])
