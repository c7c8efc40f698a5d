"""Failed writes are errors of the run, whichever library they come from, and keep the old content."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from peftkit.atomic_files import replace_folder
from peftkit.errors import RunError

SAVES = {
    "text": "(folder / 'file').write_text('x' * 10**6)",
    "tokenizers": """
    from tokenizers import Tokenizer, models
    words = {str(number): number for number in range(20000)}
    Tokenizer(models.WordLevel(words, unk_token='0')).save(str(folder / 'file'))""",
    "safetensors": """
    import numpy
    from safetensors.numpy import save_file
    save_file({'a': numpy.zeros(10**6)}, folder / 'file')""",
}
"""Statements that write a file of more than 50,000 bytes, by the library that writes it."""
PROGRAM = """
import json, resource, sys
from pathlib import Path
from peftkit.atomic_files import replace_folder
from peftkit.errors import RunError
resource.setrlimit(resource.RLIMIT_FSIZE, (50000, resource.RLIM_INFINITY))
def write(folder):
    {save}
try:
    replace_folder(Path(sys.argv[1]), write)
except RunError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.parametrize("library", SAVES)
def test_a_file_that_cannot_be_written_is_an_error_of_the_run(library: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "file").write_text("old")
    program = PROGRAM.format(save=SAVES[library])
    result = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout).startswith(f"{folder} cannot be written: ")
    assert (folder / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_other_errors_are_not_errors_of_writing(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        raise KeyError("a mistake")

    with pytest.raises(KeyError):
        replace_folder(tmp_path / "model", write)
    with pytest.raises(RunError, match=r"cannot be written: .*os error 28"):
        replace_folder(tmp_path / "model", lambda _: (_ for _ in ()).throw(Exception("No space left (os error 28)")))
