"""Every code block of the documents is run, unless a comment above it gives the reason why it is not.

``<!-- not run: REASON -->`` stands on the line above such a block; its commands must still parse. A part of a recipe
says what it belongs to: ``<!-- in [task] with model.name="pocket-encoder" -->`` is one of the table ``task``, in a
recipe with that model.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w

from peftkit.cli import main
from peftkit.cli.parser import build_parser
from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe
from peftkit.sweep.sweep_file import read_sweep
from tests.compare.conftest import Plant, plant  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?:^ *<!-- (?:not run: (?P<reason>.+?)|(?P<context>(?:in|with) .+?)) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w+).*?\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
RUN_ELSEWHERE = ("plugins.md", "python.md", "method_plugin.md")
"""Documents whose Python is run by ``test_docs.py`` or is one call of many that take long."""
LANGUAGES = {"console", "bash", "toml", "python", "py", "json", "jinja", "text", "mermaid"}
BASE = {"model": "pocket-t5", "task": "wordnet_topic", "method": "lora"}
"""The names in a recipe that a part does not give."""
CHATML = """
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}{{ eos_token if message.role == 'assistant' else ' ' }}
{%- endfor -%}
{{- '<|im_start|>assistant\n' if add_generation_prompt }}"""
REGISTRY = load_registry()


@dataclass(frozen=True)
class Block:
    """A code block of a document, why it is not run, if it is not, and what it is a part of."""

    document: str
    line: int
    language: str
    text: str
    reason: str
    context: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks() -> Iterator[Block]:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            indent = len(match["indent"])
            lines = "".join(line[indent:] if line.strip() else line for line in match["text"].splitlines(True))
            number = text.count("\n", 0, match.start("language")) + 1
            name = document.relative_to(ROOT).as_posix()
            yield Block(name, number, match["language"], lines, match["reason"] or "", match["context"] or "")


BLOCKS = list(blocks())
CONSOLE = [each for each in BLOCKS if each.language in ("console", "bash")]
TOML = [each for each in BLOCKS if each.language == "toml"]


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a block as words; of a block with prompts, the lines behind them."""
    lines = block.text.replace("\\\n", " ").splitlines()
    prompts = [line[2:] for line in lines if line.startswith("$ ")]
    for line in prompts or lines:
        words = shlex.split(line.split(" > ")[0].split(" | ")[-1], comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            yield words


def arguments_of_peftkit(words: list[str]) -> list[str] | None:
    """The arguments of peftkit in a command that calls it."""
    if words[0].endswith("peftkit"):
        return words[1:]
    if "-m" in words and words[words.index("-m") + 1] == "peftkit":
        return words[words.index("-m") + 2 :]
    return None


def test_every_language_is_known() -> None:
    assert {each.language for each in BLOCKS} <= LANGUAGES
    assert len(CONSOLE) > 20
    assert len(TOML) > 20


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_commands_parse(block: Block) -> None:
    for words in commands(block):
        arguments = arguments_of_peftkit(words)
        if arguments is not None:
            known = {*build_parser()._subparsers._group_actions[0].choices}  # type: ignore[union-attr, arg-type]
            build_parser().parse_args(arguments if arguments[0] in known else ["run", *arguments])
        elif words[0] in ("python", "python3", ".venv/bin/python") and words[1] != "-m":
            assert (ROOT / words[1]).is_file(), words


@pytest.mark.parametrize("block", [each for each in CONSOLE if not each.reason], ids=str)
def test_commands_run(
    block: Block,
    plant: Plant,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    for method, share in {"full": 0.7, "lora": 0.72, "ia3": 0.6}.items():
        for seed in (1, 2, 3):
            plant(method, seed, [0.1, share, share + 0.01 * seed])
    monkeypatch.chdir(tmp_path)
    for words in commands(block):
        arguments = arguments_of_peftkit(words)
        assert arguments is not None, f"tag the block: {words[0]} is not run by this test"
        assert main(arguments) == 0, words
    assert capsys.readouterr().out


@pytest.mark.parametrize("block", [each for each in TOML if not each.reason], ids=str)
def test_toml_is_valid(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = tomllib.loads(block.text)
    if "project" in values:
        assert values["project"]["entry-points"]["peftkit"]
        return
    if {"axes", "tune", "local", "slurm"} & values.keys():
        missing = {"name": "x", "recipe": "x.toml"} | ({} if "axes" in values else {"axes": {"seed": [1]}})
        file = tmp_path / "sweep.toml"
        file.write_text(tomli_w.dumps({key: each for key, each in missing.items() if key not in values} | values))
        read_sweep(file)
        return
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    table, overrides = re.fullmatch(r"(?:in \[(.+?)\])? ?(?:with (.+))?", block.context).groups()  # type: ignore[union-attr]
    text = f"[{table}]\n{block.text}" if table else block.text
    given = {*tomllib.loads(text)}
    set_names = [f'{key}.name="{name}"' for key, name in BASE.items() if key not in given and "extends" not in given]
    monkeypatch.chdir(tmp_path)
    Path("deepspeed.json").write_text("{}")
    Path("chatml.jinja").write_text(CHATML)
    (tmp_path / "recipes" / "documented.toml").write_text(text, encoding="utf-8")
    words = re.findall(r"\S+=(?:'[^']*'|\S+)", overrides or "")
    load_recipe(tmp_path / "recipes" / "documented.toml", REGISTRY, [*set_names, *words])


@pytest.mark.parametrize(
    "block",
    [b for b in BLOCKS if b.language in ("python", "py") and not b.reason and not b.document.endswith(RUN_ELSEWHERE)],
    ids=str,
)
def test_python_runs(block: Block) -> None:
    exec(block.text, {})  # noqa: S102 - our own document
