"""A failing output stream does not end a run; commands that only print end with one line."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.standard_streams import Output, OutputClosed, OutputError, safe_output, safe_streams, shows_all_characters

ROOT = Path(__file__).parents[1]
TEXTS = st.text(st.characters())  # surrogates too


class Failing(io.StringIO):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def flush(self) -> None:
        raise OSError(self.number, os.strerror(self.number))


@given(TEXTS, st.sampled_from(["ascii", "latin-1", "utf-8", "cp1252", "utf-16"]))
def test_any_text_is_written_in_any_encoding(text: str, encoding: str) -> None:
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, encoding=encoding, newline=""))
    print(text, file=output, flush=True)
    written = raw.getvalue().decode(encoding)
    shown = [c for c in text if _fits(c, encoding)]
    assert [c for c in shown if c not in written] == []


def _fits(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


@given(st.dictionaries(TEXTS, TEXTS), st.sampled_from(["ascii", "latin-1", "utf-8"]))
def test_json_is_valid_in_any_encoding(values: dict[str, str], encoding: str) -> None:
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, encoding=encoding, newline=""))
    print(json.dumps(values, ensure_ascii=not shows_all_characters(output)), file=output, flush=True)
    assert json.loads(raw.getvalue().decode(encoding)) == values


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EDQUOT])
def test_a_failed_stream_is_not_written_again(number: int) -> None:
    output = Output(Failing(number))
    print("one", file=output, flush=True)
    assert output.failure == os.strerror(number)
    output.writelines(["two", "three"])
    output.flush()


def test_a_failure_of_required_output_is_an_error() -> None:
    with pytest.raises(OutputError, match="standard output cannot be written: No space left on device"):
        Output(Failing(errno.ENOSPC), required=True).write("text")
    with pytest.raises(OutputClosed) as closed:
        Output(Failing(errno.EPIPE), required=True).write("text")
    assert closed.value.exit_code == 0


def test_streams_are_wrapped_once_and_restored() -> None:
    before = sys.stdout, sys.stderr
    with safe_streams() as streams:
        assert (sys.stdout, sys.stderr) == streams
        assert safe_output(sys.stdout) is streams[0]
        assert sys.stdout.encoding == before[0].encoding
    assert (sys.stdout, sys.stderr) == before
    assert safe_output(None).failure


QUERIES = {
    "full": ("list", "schema", "--help", "check recipes/quickstart.toml"),
    "pipe": ("show lora",),
    "ascii": ("list", "show lora"),
    "narrow": ("list", "show lora"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("place", "words"), [(place, words) for place, each in QUERIES.items() for words in each])
def test_printing_commands_exit_cleanly(place: str, words: str) -> None:
    command = [sys.executable, "-m", "peftkit", *words.split()]
    variables = {"PYTHONPATH": str(ROOT)}
    variables |= {"ascii": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, "narrow": {"COLUMNS": "1"}}.get(place, {})
    read, write = os.pipe()
    os.close(read)
    if place == "full":
        os.close(write)
        write = os.open("/dev/full", os.O_WRONLY)
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=write if place in ("full", "pipe") else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(write)
    if place == "full":
        expected = "peftkit: error: standard output cannot be written: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, expected)
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout or place == "pipe"


def test_an_unprintable_error_keeps_its_exit_code() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "peftkit", "nonsense"], cwd=ROOT, stdout=full, stderr=full)
    assert done.returncode == 2
