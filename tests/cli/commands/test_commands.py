"""Checks of every command: examples, help, JSON and quiet output."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peftkit.cli.commands import COMMANDS
from peftkit.cli.parser import build_parser
from peftkit.cli.subcommand import SubCommand
from tests.cli.conftest import VALID, Peftkit

ROOT = Path(__file__).parents[3]
INTERNAL = "\x1f"
"""The first character of names of internal columns."""
INVOCATIONS = {
    "run": "run {tmp}/short.toml",
    "check": "check x.toml",
    "explain": "explain {tmp}/short.toml",
    "cost": "cost {tmp}/short.toml",
    "profile": "profile {tmp}/short.toml",
    "compare": "compare {runs}",
    "advise": "advise {runs} --budget 2gmacs",
    "report": "report {runs}",
    "verify": "verify {run} --no-model",
    "watch": "watch {run}",
    "serve": "serve {runs} --port 0",
    "import": "import peft-by-time {tmp}/FT_ag_news.json",
    "sweep": "sweep status {tmp}/sweep.toml",
    "list": "list methods",
    "show": "show lora --model pocket-t5",
    "predict": "predict {run} --text bird",
    "eval": "eval {run} --harness arc_easy",
    "bench": "bench {run} --prompt-tokens 4 --new-tokens 2 --batch 1 --rounds 1",
    "merge": "merge {run} merged",
    "export": "export {run} exported",
    "push": "push {run} owner/name",
    "new": "new task my_task",
    "init": "init {tmp}/rows.csv --model pocket-encoder --name mine --yes",
    "schema": "schema",
    "doctor": "doctor",
    "task preview": "task preview {tmp}/rows.toml -n 1",
    "completion": "completion bash",
}
WRITES_A_LINE = {"run", "report", "serve", "import", "merge", "export", "push", "new", "init"}
"""Commands whose quiet output is the path of their result."""
by_command = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)


@pytest.fixture
def rows_recipe(tmp_path: Path) -> Path:
    """A recipe on a file that is split at random, which adds an internal column."""
    rows = "".join(f"row {i},{'yes' if i % 2 else 'no'}\n" for i in range(60))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    task = f'name = "text_classification"\npath = "{(tmp_path / "rows.csv").as_posix()}"\n'
    task += "dev_fraction = 0.2\ntest_fraction = 0.2\n"
    path = tmp_path / "rows.toml"
    path.write_text(VALID.replace('name = "wordnet_mcq"\n', task), encoding="utf-8")
    return path


@pytest.fixture
def words(
    finished_run: Path,
    runs: Path,
    rows_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> list[str]:
    """The arguments of a successful invocation of the command."""
    from peftkit.analysis import step_profile
    from peftkit.harness import load_tasks
    from peftkit.inference import harness_evaluation, push

    monkeypatch.setattr(step_profile, "STEPS", 2)
    monkeypatch.setattr(step_profile, "PEAK_SIZES", (256,))
    result = {"values": {"acc": 0.5}, "num_examples": 2, "settings": {"num_fewshot": 0}}
    monkeypatch.setattr(load_tasks, "check_installed", lambda: None)  # the library is an extra
    monkeypatch.setattr(harness_evaluation, "evaluate_with_harness", lambda *args: {"arc_easy": result})
    monkeypatch.setattr(push, "push", lambda *args, **options: "https://hub/owner/name/commit/1")
    (tmp_path / "short.toml").write_bytes((finished_run.parents[1] / "x.toml").read_bytes())
    (tmp_path / "sweep.toml").write_text('name = "s"\nrecipe = "x.toml"\n[axes]\nseed = [1]\n', encoding="utf-8")
    scores = {f"{split}_MulticlassAccuracy": 0.5 for split in ("dev", "test")} | {"dev_loss": 1.0, "test_loss": 1.0}
    row = {**scores, "steps_done": 8, "epochs_done": 0, "time_in_train": 1.0, "GMACs": 2.0}
    (tmp_path / "FT_ag_news.json").write_text(json.dumps([row]), encoding="utf-8")
    monkeypatch.setattr("peftkit.live.server.ReportServer.serve_forever", lambda self: None)  # ends at once
    command: type[SubCommand] = request.getfixturevalue("command")
    return INVOCATIONS[command.name].format(tmp=tmp_path, runs=runs, run=finished_run).split()


def documented() -> dict[str, tuple[int, list[str]]]:
    """The format and the keys of each JSON document, from the documentation."""
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (\d+) \| (.*) \|$", text, re.MULTILINE)
    return {name: (int(number), re.findall(r"`(\w+)`", keys)) for name, number, keys in rows}


def test_every_command_has_a_tested_invocation() -> None:
    assert set(INVOCATIONS) == {command.name for command in COMMANDS}


@by_command
def test_the_documentation_names_every_command(command: type[SubCommand]) -> None:
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `peftkit {command.name}[` ]", text, re.MULTILINE)


@by_command
def test_the_two_examples_parse_and_name_files_that_exist(command: type[SubCommand]) -> None:
    assert len({example for _, example in command.examples}) == 2
    for comment, example in command.examples:
        assert comment[0].isupper() or comment[0].isdigit()
        pasted = re.sub(r'^eval "\$\((.*)\)"$', r"\1", example).split(" > ")[0]
        program, *rest = shlex.split(pasted)
        assert program == "peftkit"
        assert type(build_parser().parse_args(rest).command) is command
        assert all([*ROOT.glob(word)] for word in rest if word.startswith("recipes/"))


@by_command
def test_help_has_a_summary_and_the_examples(command: type[SubCommand], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([*command.name.split(), "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert command.help[0].isupper()
    assert command.help.endswith(".")
    assert "".join(f"  # {comment}\n  {example}\n" for comment, example in command.examples) in out
    assert "-q, --quiet" in out
    assert "--log-level" in out


@by_command
def test_json_is_valid_and_has_no_internal_column(
    command: type[SubCommand], words: list[str], peftkit: Peftkit
) -> None:
    if command.name in ("completion", "serve"):
        assert peftkit(*words, "--json")[0] == 2
        return
    code, out, err = peftkit(*words, "--json")
    assert code == 0, err
    document = json.loads(out, parse_constant=pytest.fail)
    if command.name != "schema":
        number, keys = documented()[{"sweep": "sweep status", "show": "show --model"}.get(command.name, command.name)]
        assert document["format"] == number
        assert keys[0] in document
    for text in _texts(document):
        assert INTERNAL not in text


@by_command
def test_quiet_prints_results_only(command: type[SubCommand], words: list[str], peftkit: Peftkit) -> None:
    code, out, err = peftkit(*words, "--quiet")
    assert (code, err) == (0, "")
    if command.name in WRITES_A_LINE:
        assert re.fullmatch(r"\S+\n", out)
    elif command.name == "check":
        assert out == ""
    else:
        assert out


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize(
    "override",
    ["task.text_column=texxt", "task.label_column=labl", "task.text_pair_column=a.b", "task.prompt='{texxt}'"],
)
def test_an_error_lists_no_internal_column(override: str, rows_recipe: Path, peftkit: Peftkit) -> None:
    code, out, err = peftkit("task", "preview", str(rows_recipe), "--set", override)
    assert (code, out) == (2, "")
    assert re.search("texxt|labl|a.b", err)
    assert INTERNAL not in err
