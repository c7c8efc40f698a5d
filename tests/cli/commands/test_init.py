"""``peftkit init``."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from peftkit.analysis.recipe_draft import draft_recipe, model_for, sensible_methods
from peftkit.analysis.task_candidates import complete_candidate, find_candidates
from peftkit.data_files import FileOptions
from peftkit.plugins import load_registry
from peftkit.recipe.check_recipe import check_recipe
from tests.cli.conftest import Peftkit

ROWS = "review,mood,stars\n" + "".join(f"the film number {i} was long,{'ab'[i % 2]},{i % 5}\n" for i in range(60))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def data(tmp_path: Path) -> str:
    (tmp_path / "films.csv").write_text(ROWS, encoding="utf-8")
    return "films.csv"


def test_it_writes_a_recipe_and_a_sweep_that_are_valid(peftkit: Peftkit, data: str, tmp_path: Path) -> None:
    code, out, err = peftkit("init", data, "--model", "pocket-encoder", "--within", "20min", "--yes")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == ["peftkit run films.toml", "peftkit sweep films_sweep.toml --within 20min"]
    assert peftkit("check", "films.toml")[0] == 0
    text = (tmp_path / "films.toml").read_text(encoding="utf-8")
    assert text.startswith("#:schema ./recipe.schema.json\n")
    assert "max_source_length = 32" in text
    json.loads((tmp_path / "recipe.schema.json").read_text(encoding="utf-8"))
    code, _, err = peftkit("init", data, "--yes")
    assert code == 2
    assert "'films.toml' already exists; choose another name with --name" in err


def test_questions_choose_the_column_the_model_and_the_time(
    peftkit: Peftkit, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("3\npocket-encoder\n1h\n"))
    code, out, err = peftkit("init", data, "--name", "stars")
    assert code == 0
    assert '1. text_regression (text_column = "review", target_column = "stars"): ' in err
    assert """2. text_classification (text_column = "review", label_column = "stars"): 'stars' has 5 different""" in err
    assert "films.csv: text_classification, because 'mood' has 2 different values" in out
    assert 'it can also be read as text_regression (text_column = "review", target_column = "stars"), because' in out
    text = (tmp_path / "stars.toml").read_text(encoding="utf-8")
    assert '#   text_regression (text_column = "review", target_column = "stars"): \'stars\' has whole numbers' in text
    assert out.endswith("peftkit sweep stars_sweep.toml --within 1h\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["filsm.csv"], "there is no file or folder 'filsm.csv' (did you mean 'films.csv'?)"),
        (["numbers.csv"], "no task recognizes the columns of 'numbers.csv'"),
        (["films.csv", "--within", "soon"], "soon"),
    ],
)
def test_bad_arguments_are_one_error_and_write_nothing(
    peftkit: Peftkit, data: str, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "numbers.csv").write_text("x\n" + "".join(f"{i}\n" for i in range(50)), encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    code, _, err = peftkit("init", *words, "--yes")
    assert code == 2
    assert message in err
    assert sorted(tmp_path.iterdir()) == before


def _lines(*rows: str) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return _lines(*map(json.dumps, rows))


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def _zip(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for name, content in files.items():
            opened.writestr(name.replace("_", "."), content)
    return stream.getvalue()


N = range(40)
REVIEWS = [{"text": f"The film number {i} was long, café", "label": "ab"[i % 2]} for i in N]
CELLS = [[f"The film number {i} was long", "ab"[i % 2]] for i in N]
SENTENCES = [["Ann", "met", f"Bob{i}", "in", "Rome", "."] for i in N]
ENTITIES = ["B-PER", "O", "B-PER", "O", "B-LOC", "O"]
WORDS = [{"tokens": words, "ner_tags": ENTITIES} for words in SENTENCES]
CONLL = [line for words in SENTENCES for line in [*map("{} {}".format, words, ENTITIES), ""]]
UNIVERSAL = [
    line
    for words in SENTENCES
    for line in [
        "# text = x",
        *(f"{n}\t{w}\t{w}\t{p}\t_\t_\t0\troot\t_\t_" for n, (w, p) in enumerate(zip(words, "NVNPN.", strict=True), 1)),
        "",
    ]
]
STORY = "Once upon a time there lived a miller who had three sons and a cat"
SPANS = [
    {"question": f"Who is {i}?", "context": f"Ann is {i}.", "answers": {"text": ["Ann"], "answer_start": [0]}}
    for i in N
]
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": f"t{i}",
            "paragraphs": [
                {
                    "context": f"Ann is {i}.",
                    "qas": [
                        {"id": str(i), "question": "Who?", "answers": [{"text": "Ann", "answer_start": 0}]},
                        {"id": f"{i}n", "question": "Why?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
        for i in N
    ],
}
QUESTIONS = [{"question": f"What is {i}?", "choices": ["x", "y", "z"], "answer": i % 3} for i in N]
Content = bytes | dict[str, bytes]
FORMS: dict[str, tuple[str, Content, str, dict[str, Any]]] = {
    "csv": ("a.csv", _lines("text,label", *map(",".join, CELLS)), "text_classification", {}),
    "semicolons": ("a.csv", _lines("text;label", *map(";".join, CELLS)), "text_classification", {"delimiter": ";"}),
    "semicolons with commas": (
        "a.csv",
        _lines("text;label", *(f"{text}, too; yes;{label}".replace("; yes", "") for text, label in CELLS)),
        "text_classification",
        {"delimiter": ";"},
    ),
    "bars": ("a.csv", _lines("text|label", *map("|".join, CELLS)), "text_classification", {"delimiter": "|"}),
    "tabs": ("a.csv", _lines("text\tlabel", *map("\t".join, CELLS)), "text_classification", {"delimiter": "\t"}),
    "tsv": ("a.tsv", _lines("text\tlabel", *map("\t".join, CELLS)), "text_classification", {}),
    "commas in tsv": ("a.tsv", _lines("text,label", *map(",".join, CELLS)), "text_classification", {"delimiter": ","}),
    "quoted tsv": (
        "a.tsv",
        _lines('"text"\t"label"', *('"{}"\t"{}"'.format(*cells) for cells in CELLS)),
        "text_classification",
        {"quoting": "minimal"},
    ),
    "single quotes": (
        "a.csv",
        _lines("text,label", *(f'"{i}" is the number,{"ab"[i % 2]}' for i in N)),
        "text_classification",
        {"quoting": "none"},
    ),
    "cp1252": (
        "a.csv",
        "".join(
            f"{r['text'].replace(',', ' –')},{r['label']}\n" for r in [{"text": "text", "label": "label"}, *REVIEWS]
        ).encode("cp1252"),
        "text_classification",
        {"encoding": "cp1252"},
    ),
    "utf-16": (
        "a.csv",
        _lines("text,label", *map(",".join, CELLS)).decode().encode("utf-16"),
        "text_classification",
        {"encoding": "utf-16"},
    ),
    "excel": (
        "a.csv",
        ("\ufeff" + _lines("text;label", *map(";".join, CELLS)).decode().replace("\n", "\r\n")).encode(),
        "text_classification",
        {"delimiter": ";"},
    ),
    "gzip": ("a.jsonl.gz", gzip.compress(_jsonl(REVIEWS)), "text_classification", {}),
    "zip": (
        "a.zip",
        _zip(rows_csv=_lines("text;label", *map(";".join, CELLS))),
        "text_classification",
        {"delimiter": ";"},
    ),
    "json": ("a.json", json.dumps(REVIEWS).encode(), "text_classification", {}),
    "json below keys": (
        "a.json",
        json.dumps({"meta": {"sources": [{"id": 1}]}, "rows": REVIEWS}).encode(),
        "text_classification",
        {"field": "rows"},
    ),
    "json cp1252": (
        "a.json",
        json.dumps(REVIEWS, ensure_ascii=False).encode("cp1252"),
        "text_classification",
        {"encoding": "cp1252"},
    ),
    "parquet": ("a.parquet", _parquet(REVIEWS), "text_classification", {}),
    "splits": (
        "data",
        {f"{split}.csv": _lines("text;label", *map(";".join, CELLS)) for split in ("train", "validation", "test")},
        "text_classification",
        {"delimiter": ";", "dev_fraction": None, "test_fraction": None},
    ),
    "pairs": (
        "a.jsonl",
        _jsonl([{"premise": f"It is {i}", "hypothesis": f"so {i}", "label": i % 3} for i in N]),
        "text_classification",
        {"text_pair_column": "hypothesis"},
    ),
    "invalid rows": (
        "a.jsonl",
        _jsonl([*REVIEWS, {"text": "", "label": "a"}, {"text": None, "label": "b"}]),
        "text_classification",
        {"on_bad_row": "skip", "max_bad": "6%"},
    ),
    "labels": (
        "a.jsonl",
        _jsonl([{"text": f"Film {i} is", "tags": ["a"] * (i % 2) + ["b"] * (i % 3)} for i in N]),
        "text_multi_label",
        {},
    ),
    "numbers": ("a.jsonl", _jsonl([{"text": f"Film {i} is", "score": i / 7} for i in N]), "text_regression", {}),
    "choices": ("a.jsonl", _jsonl(QUESTIONS), "multiple_choice", {"answer_is": "index"}),
    "distractors": (
        "a.csv",
        _lines("question,correct_answer,distractor1,distractor2", *(f"What is {i}?,a{i},b{i},c{i}" for i in N)),
        "multiple_choice",
        {"shuffle_choices": True},
    ),
    "summaries": (
        "a.jsonl",
        _jsonl([{"article": f"{STORY} {i}", "summary": f"cat {i}"} for i in N]),
        "text_generation",
        {},
    ),
    "lists of tags": ("a.jsonl", _jsonl(WORDS), "token_tagging", {"words_column": "tokens", "tags_column": "ner_tags"}),
    "numbers of tags": (
        "a.parquet",
        _parquet([{"tokens": words, "pos_tags": [1, 2, 1, 3, 1, 0]} for words in SENTENCES]),
        "token_tagging",
        {"scheme": "none"},
    ),
    "texts of tags": (
        "a.csv",
        _lines("sentence,tags", *(f"{' '.join(words)},{' '.join(ENTITIES)}" for words in SENTENCES)),
        "token_tagging",
        {"words_column": "sentence"},
    ),
    "conll": ("eng.train", _lines(*CONLL), "token_tagging", {"file_format": "conll"}),
    "conll text": ("a.txt", _lines("-DOCSTART- O", "", *CONLL), "token_tagging", {"file_format": "conll"}),
    "iob1": (
        "a.conll",
        _lines(*(line.replace("B-", "I-") for line in CONLL)),
        "token_tagging",
        {"scheme": "IOB1"},
    ),
    "broken tags": (
        "a.bio",
        _lines(*CONLL, "Ann I-PER", "left O"),
        "token_tagging",
        {"repair_tags": True},
    ),
    "conllu": (
        "a.conllu",
        _lines(*UNIVERSAL),
        "token_tagging",
        {"word_field": 1, "tag_field": 3, "comment_prefix": "# ", "scheme": "none"},
    ),
    "latin conll": (
        "esp.train",
        "".join(f"{line}\n" for line in CONLL).replace("Rome", "Mérida").encode("cp1252"),
        "token_tagging",
        {"encoding": "cp1252"},
    ),
    "squad": ("a.json", json.dumps(SQUAD).encode(), "span_qa", {"file_format": "squad", "allow_no_answer": True}),
    "spans": ("a.jsonl", _jsonl(SPANS), "span_qa", {"answers_column": "answers"}),
    "lists of spans": (
        "a.json",
        json.dumps(
            [{**row, "answers": [{"text": "Ann", "answer_start": 0}] * (i % 4 > 0)} for i, row in enumerate(SPANS)]
        ).encode(),
        "span_qa",
        {"allow_no_answer": True},
    ),
    "triplets": (
        "a.jsonl",
        _jsonl([{"anchor": f"what is {i}", "positive": f"{i} is a number", "negative": f"no {i}"} for i in N]),
        "text_pairs",
        {"anchor_column": "anchor", "positive_column": "positive", "negative_columns": ["negative"]},
    ),
    "lines": ("a.txt", _lines(*(f"{STORY} {i} times." for i in N)), "plain_text", {"sample_by": "line"}),
    "paragraphs": ("a.txt", _lines(*(f"{STORY}\n{i} times.\n" for i in N)), "plain_text", {"sample_by": "paragraph"}),
    "documents": (
        "book",
        {f"{i}.txt": _lines(STORY, "", f"{i} times.") for i in N},
        "plain_text",
        {"sample_by": "document", "path": {"glob": "book/*.txt"}},
    ),
    "texts": ("a.jsonl", _jsonl([{"text": f"{STORY} {i}"} for i in N]), "plain_text", {"text_column": "text"}),
    "long texts": (
        "a.jsonl",
        _jsonl([{"id": i, "body": f"{STORY} {i}. " * 3} for i in N]),
        "plain_text",
        {"text_column": "body"},
    ),
}


def write_form(form: str, folder: Path) -> str:
    name, content, _, _ = FORMS[form]
    for file, part in {"": content}.items() if isinstance(content, bytes) else content.items():
        path = folder / name / file if file else folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(part)
    return name


@pytest.mark.parametrize("form", FORMS)
def test_recipes_for_all_forms_pass_check(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, task, options = FORMS[form]
    monkeypatch.chdir(tmp_path)
    name = write_form(form, tmp_path)
    registry = load_registry()
    best = complete_candidate(find_candidates(name, registry)[0], registry)
    assert best.name == task
    written = dict(best.match.options)
    assert {option: written.get(option) for option in options} == options
    others = {*FileOptions.FORMATS, "on_bad_row", "repair_tags"} - {*options, "sample_by"}
    assert not others & {*written}
    model = model_for(best.kind, registry)
    draft = draft_recipe("r", model, best, sensible_methods(model, best.kind, registry))
    Path("r.toml").write_text(draft.recipe, encoding="utf-8")
    report = check_recipe("r.toml", registry)
    assert [str(problem) for problem in report.errors] == []
    assert [str(problem) for problem in report.warnings if "rows of train are skipped" not in str(problem)] == []
    assert report.recipe is not None
    rows = report.recipe.task.load()
    assert sum(map(len, rows.values())) >= len(N)
    assert report.recipe.task.to_example(rows["train"][0]).source


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        ("conll", ['file_format = "conll"', 'name = "pocket-encoder"']),
        ("squad", ["allow_no_answer = true  # 40 of the questions have no answer"]),
        ("paragraphs", ['sample_by = "paragraph"', 'name = "pocket-decoder"']),
        ("invalid rows", ['on_bad_row = "skip"  # 2 of 42 rows are invalid; the first: ', 'max_bad = "6%"']),
    ],
)
def test_the_files_of_every_kind_are_written_without_questions(
    form: str, lines: list[str], peftkit: Peftkit, tmp_path: Path
) -> None:
    code, out, err = peftkit("init", write_form(form, tmp_path), "--name", "first", "--yes")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == ["peftkit run first.toml", "peftkit sweep first_sweep.toml"]
    text = (tmp_path / "first.toml").read_text(encoding="utf-8")
    assert [line for line in lines if line not in text] == []


def test_rows_that_the_model_cannot_represent_are_skipped(peftkit: Peftkit, tmp_path: Path) -> None:
    rows = [{"source": f"a bird {i}", "target": f"it sings {i}"} for i in range(300)]
    for number in (7, 8, 9, 100):
        rows[number]["target"] = "\u0301"
    (tmp_path / "a.jsonl").write_bytes(_jsonl(rows))
    assert peftkit("init", "a.jsonl", "--yes")[::2] == (0, "")
    text = (tmp_path / "a.toml").read_text(encoding="utf-8")
    assert re.search(
        r'on_bad_row = "skip"  # 4 rows are invalid with this model; the first: a.jsonl, row \d+: target: ', text
    )
    assert peftkit("task", "preview", "a.toml", "-n", "1")[0] == 0


def test_no_more_than_four_questions_are_asked(peftkit: Peftkit, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal("\n" * 9)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert peftkit("init", data, "--name", "first")[0] == 0
    assert 1 <= terminal.tell() <= 4


CHATS = [
    {"messages": [{"role": "user", "content": f"what is {i}"}, {"role": "assistant", "content": f"it is {i}"}]}
    for i in N
]


def test_a_base_model_gets_a_chat_template(peftkit: Peftkit, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_bytes(_jsonl(CHATS))
    assert peftkit("init", "chats.jsonl", "--model", "pocket-decoder", "--yes")[::2] == (0, "")
    text = (tmp_path / "chats.toml").read_text(encoding="utf-8")
    assert "# the tokenizer has none, as those of base models; " in text
    assert "chat_template = '''\n{%- for message in messages %}" in text
    assert peftkit("check", "chats.toml")[0] == 0
    code, out, _ = peftkit("task", "preview", "chats.toml", "-n", "1")
    assert code == 0
    assert "it is 0</s>" in out


@pytest.mark.parametrize("data", ["films.csv", "*.csv"])
@pytest.mark.parametrize("inside", [False, True])
def test_recipes_in_another_folder_find_the_data_and_name_commands_that_work(
    data: str, inside: bool, peftkit: Peftkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "films.csv").write_text(ROWS, encoding="utf-8")
    code, out, _ = peftkit("init", data, "--model", "pocket-encoder", "--yes", "--in", "to train", "--name", "films")
    assert code == 0
    assert out.splitlines()[-2:] == ["peftkit run 'to train/films.toml'", "peftkit sweep 'to train/films_sweep.toml'"]
    text = (tmp_path / "to train" / "films.toml").read_text(encoding="utf-8")
    assert "# Check it:  peftkit check 'to train/films.toml'\n" in text
    if inside:
        monkeypatch.chdir("to train")
    assert peftkit("check", "films.toml" if inside else "to train/films.toml")[0] == 0


def test_patterns_are_written_as_such(peftkit: Peftkit, tmp_path: Path) -> None:
    for part in "ab":
        (tmp_path / f"{part}.csv").write_text(ROWS, encoding="utf-8")
    code, out, _ = peftkit("init", "?.csv", "--model", "pocket-encoder", "--yes", "--name", "films")
    assert code == 0
    assert "in 120 rows" in out
    assert 'path = { "glob" = "?.csv" }' in (tmp_path / "films.toml").read_text(encoding="utf-8")


def test_a_time_that_is_typed_is_checked(peftkit: Peftkit, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("\n\nsoon\n"))
    code, _, err = peftkit("init", data)
    assert code == 2
    assert "soon" in err.splitlines()[-1]
    assert not Path("films.toml").exists()
