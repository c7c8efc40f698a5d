"""The verbs of a finished run: ``predict``, ``merge``, ``export`` and ``push``."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

from peftkit.data_files import read_inputs
from peftkit.errors import InputError
from peftkit.output import shows_all_characters
from peftkit.plugins import load_registry


def predict_lines(
    run: str, text: str | None, file: str | None, output: str | None, batch: int | None, *, stream: bool
) -> int:
    """Prints a JSON line for each line of text or row of a file.

    Raises:
        PeftkitError: the run cannot be opened, or a line is wrong.
    """
    if text is not None and file is not None:
        raise InputError("--text and --file are both given; keep one")
    from peftkit.runner.opened import open_run, predict  # torch: only for this verb

    _quiet_libraries()
    opened = open_run(Path(run), load_registry())
    with ExitStack() as files:
        try:
            out = files.enter_context(Path(output).open("w", encoding="utf-8")) if output else sys.stdout
        except OSError as error:
            raise InputError(f"{error.filename!r}: {error.strerror}") from error
        inputs = read_inputs(file) if text is None else [text]
        # What an output of another encoding cannot show is escaped as JSON does it.
        escaped = not shows_all_characters(out)
        for prediction in predict(opened, inputs, batch, stream=stream, name=file or ""):
            print(json.dumps(prediction, ensure_ascii=escaped), file=out, flush=True)
    return 0


def merge_run(run: str, out: str) -> int:
    """Writes a finished run's model with what was learnt in its own weights.

    Raises:
        PeftkitError: the run cannot be opened or merged.
    """
    from peftkit.runner.opened import merge, open_run

    _quiet_libraries()
    difference = merge(open_run(Path(run), load_registry()), Path(out))
    print(f"merged into {out}: logits within {difference:.1e} of those before")
    return 0


def push_run(run: str, repository: str, *, private: bool) -> int:
    """Uploads a finished run's checkpoint with a model card to a hub repository.

    Raises:
        PeftkitError: there is no token, the run cannot be read, or the hub refuses.
    """
    from peftkit.runner.publishing import push

    _quiet_libraries()
    print(f"pushed: {push(Path(run), load_registry(), repository, private=private)}")
    return 0


def export_run(run: str, out: str) -> int:
    """Copies a finished run's checkpoint in the form of the method's library, with a model card.

    Raises:
        PeftkitError: the run cannot be read, or the folder is not empty.
    """
    from peftkit.runner.opened import export

    _quiet_libraries()
    export(Path(run), load_registry(), Path(out))
    print(f"exported to {out}")
    return 0


def _quiet_libraries() -> None:
    from peftkit.runner.world import quiet_libraries

    quiet_libraries("warning")
