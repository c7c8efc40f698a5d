from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from peftkit.cli import main
from tests.cli.conftest import Peftkit


@pytest.mark.slow
def test_predict_reads_text_lines_and_files(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(finished_run)
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

    Path("rows.csv").write_bytes(b"\xef\xbb\xbfgloss,note\na bird,1\na stone,2\n")
    assert main(["predict", run, "--file", "rows.csv"]) == 0
    assert [json.loads(line)["source"] for line in capsys.readouterr().out.splitlines()] == [
        "topic: a bird",
        "topic: a stone",
    ]
    Path("other.csv").write_bytes("gloss;note\na café;1\n".encode("cp1252"))
    assert main(["predict", run, "--file", "other.csv", "--delimiter", ";", "--encoding", "cp1252"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == "topic: a café"
    for words, message in (
        (["--file", "other.csv", "--delimiter", ";;"], "--delimiter: must be one character"),
        (["--text", "x", "--encoding", "cp1252"], "--encoding: needs --file"),
    ):
        assert main(["predict", run, *words]) == 2
        assert f"peftkit: error: {message}" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'\xef\xbb\xbf{"gloss": "a bird"}\n'), "ascii"))
    assert main(["predict", run]) == 0
    assert json.loads(capsys.readouterr().out) == prediction
    for name, content, words in (
        ("latin", b"a bird\ncaf\xe9\n", "latin, line 2: is not UTF-8 (byte 0xe9); convert it from its encoding"),
        ("lacks.csv", b"glos\na bird\n", "lacks.csv, row 1: gloss: missing; there is 'glos' (did you mean 'gloss'?);"),
        ("ragged.csv", b"gloss,note\na bird\n", "ragged.csv, row 1: has 1 cell, but the header has 2"),
        ("bad.jsonl", b'{"gloss": \n', "bad.jsonl, line 1: is not valid JSON"),
    ):
        Path(name).write_bytes(content)
        assert main(["predict", run, "--file", name]) == 2
        assert f"peftkit: error: {words}" in capsys.readouterr().err

    assert main(["predict", run, "--file", "none"]) == 2
    assert "'none': No such file or directory" in capsys.readouterr().err
    assert main(["predict", run, "--file", "lines", "--text", "x"]) == 2
    assert "argument --text: not allowed with argument --file" in capsys.readouterr().err
    assert main(["predict", "nowhere"]) == 2
    assert "'nowhere' is not a run directory" in capsys.readouterr().err


def test_predict_json_is_one_document(finished_run: Path, peftkit: Peftkit) -> None:
    Path("lines").write_text("a bird\na stone\n", encoding="utf-8")
    code, lines, _ = peftkit("predict", str(finished_run), "--file", "lines")
    assert code == 0
    code, out, _ = peftkit("predict", str(finished_run), "--file", "lines", "--json")
    assert code == 0
    assert json.loads(out) == {"format": 1, "predictions": [json.loads(line) for line in lines.splitlines()]}


def test_the_output_is_replaced_only_by_predictions(finished_run: Path, peftkit: Peftkit) -> None:
    run = str(finished_run)
    Path("rows.csv").write_text("gloss\na bird\n", encoding="utf-8")
    Path("lacks.csv").write_text("glos\na bird\n", encoding="utf-8")
    Path("old").write_text("a long old result\n" * 1000, encoding="utf-8")
    old = Path("old").read_text()

    code, _, error = peftkit("predict", run, "--file", "rows.csv", "-o", "rows.csv")
    assert (code, error) == (2, "peftkit: error: --output: 'rows.csv' is the file that is read; write to another one\n")
    assert Path("rows.csv").read_text() == "gloss\na bird\n"

    for output in ("old", "new"):
        assert peftkit("predict", run, "--file", "lacks.csv", "-o", output)[0] == 2
    assert Path("old").read_text() == old
    assert not Path("new").exists()

    for options in ([], ["--stream"], ["--json"]):
        Path("old").write_text(old, encoding="utf-8")
        printed = peftkit("predict", run, "--file", "rows.csv", *options)[1]
        assert peftkit("predict", run, "--file", "rows.csv", "-o", "old", *options) == (0, "", "")
        assert Path("old").read_text() == printed

    full = peftkit("predict", run, "--file", "rows.csv", "-o", "/dev/full")
    assert full == (1, "", "peftkit: error: /dev/full cannot be written: No space left on device\n")
    assert peftkit("predict", run, "--file", "rows.csv", "-o", ".")[::2] == (2, "peftkit: error: '.': Is a directory\n")


def test_an_output_file_needs_no_standard_output(
    finished_run: Path, peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert main(["predict", str(finished_run), "--text", "a bird", "-o", "out.jsonl"]) == 0
    assert len(Path("out.jsonl").read_text().splitlines()) == 1
