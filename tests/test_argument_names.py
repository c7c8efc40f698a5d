"""Messages name arguments as the caller writes them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import peftkit as peftkit_package
from peftkit.argument_names import command_line, format_argument

PACKAGE = Path(peftkit_package.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z]")
OTHERS = {
    "argument_names.py": "writes the options",
    "distributed/accelerator.py": "options of accelerate, which starts several processes",
    "distributed/launch_config.py": "options of accelerate, which it reads",
    "monitor/collect_env.py": "options of git",
    "run_directory/run_directory.py": "the command that resumes a run; in Python it is a call",
    "sweep/process_executor.py": "the command of a run",
    "train/trainer.py": "an option of accelerate, which starts several processes",
}
"""Modules outside of the command line with options in their texts, and why."""


def texts(tree: ast.AST) -> list[str]:
    """The strings of a module that are not docstrings."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
    ]


def test_no_message_outside_of_the_command_line_names_an_option() -> None:
    flags = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        named = [text for text in texts(ast.parse(path.read_text(encoding="utf-8"))) if FLAG.search(text)]
        if named and not name.startswith(("cli/", "assets/", "testing/")):
            flags[name] = named
    assert {name: named for name, named in flags.items() if name not in OTHERS} == {}
    assert OTHERS.keys() - {"argument_names.py"} <= flags.keys()


@pytest.mark.parametrize(
    ("arguments", "repeatable", "in_python", "on_command_line"),
    [
        (("resume",), False, "resume", "--resume"),
        (("set",), False, "overrides", "--set"),
        (("match", "parameters=1e5±2%"), False, 'match="parameters=1e5±2%"', "--match 'parameters=1e5±2%'"),
        (("pool", "hardware"), True, 'pool=["hardware"]', "--pool hardware"),
        (("pool", "hardware", "plugins"), True, 'pool=["hardware", "plugins"]', "--pool hardware --pool plugins"),
        (("only", "method=a b"), True, 'only=["method=a b"]', "--only 'method=a b'"),
    ],
)
def test_an_argument_is_an_option_or_a_parameter(
    arguments: tuple[str, ...], repeatable: bool, in_python: str, on_command_line: str
) -> None:
    assert format_argument(*arguments, repeatable=repeatable) == in_python
    with command_line():
        assert format_argument(*arguments, repeatable=repeatable) == on_command_line
    assert format_argument(*arguments, repeatable=repeatable) == in_python
