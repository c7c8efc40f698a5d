"""``peftkit new``."""

from __future__ import annotations

import argparse
import keyword
import shlex
from collections.abc import Mapping
from pathlib import Path
from string import Template

from peftkit import plugins
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError
from peftkit.plugins import Kind
from peftkit.plugins.class_checks import NAME

TEMPLATES = Path(__file__).parents[2] / "assets" / "scaffold"
KINDS = [kind for kind in plugins.BASE_CLASSES if (TEMPLATES / f"{kind}.py.in").is_file()]
"""The kinds of component that have a template."""


class NewCommand(SubCommand):
    """Writes a plugin that installs and passes its tests as written."""

    name = "new"
    help = "Create a plugin with a method, task, objective, metric, meter or callback, and tests that pass."
    examples = (
        ("Create the folder peftkit-my-method", "peftkit new method my_method"),
        ("Create a task elsewhere", "peftkit new task my_task --in plugins"),
    )
    writes_files = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("kind", choices=KINDS, help="Kind of component.")
        parser.add_argument("name", metavar="NAME", help="Name of the component.")
        parser.add_argument(
            "--in", dest="parent", metavar="FOLDER", default=".", help="Parent folder. [default: the current folder]"
        )

    def run(self, args: argparse.Namespace) -> int:
        folder = _write(args.kind, args.name, Path(args.parent))
        commands = [
            shlex.join(["pip", "install", "-e", f"{folder}[dev]"]),
            shlex.join(["pytest", str(folder)]),
        ]
        if args.json:
            self.print_json({"folder": str(folder), "commands": commands})
        elif args.quiet:
            print(folder)
        else:
            print(f"created {folder}; install and test it with:\n{' && '.join(commands)}")
        return 0


def _write(kind: Kind, name: str, parent: Path) -> Path:
    """Writes pyproject, module, tests, README and a CI workflow into a new folder.

    Args:
        kind: The kind of component.
        name: The component's name.
        parent: Where the folder is created.

    Returns:
        The folder ``peftkit-NAME``.

    Raises:
        InputError: The name is invalid or taken, or the folder exists.
    """
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise InputError(
            f"{name!r} is no valid name: a name has lower-case letters, digits and underscores, and is no keyword of "
            "Python"
        )
    if taken := plugins.load_registry().all(kind).get(name):
        raise InputError(f"the {kind} {name!r} already exists in {taken.distribution}; choose another name")
    distribution = f"peftkit-{name.replace('_', '-')}"
    folder = parent / distribution
    if folder.exists():
        raise InputError(f"{str(folder)!r} already exists; choose another name or folder")
    words = {
        "kind": kind,
        "name": name,
        "distribution": distribution,
        "module": f"peftkit_{name}",
        "Class": "".join(word.capitalize() for word in name.split("_")),
    }
    for target, template in _files(kind, words).items():
        path = folder / target
        text = Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(words)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{str(path)!r} cannot be written: {error.strerror}") from error
    return folder


def _files(kind: Kind, words: Mapping[str, str]) -> dict[str, str]:
    return {
        "pyproject.toml": "pyproject.toml.in",
        "README.md": "README.md.in",
        f"{words['module']}.py": f"{kind}.py.in",
        f"tests/test_{words['name']}.py": f"test_{kind}.py.in",
        ".github/workflows/ci.yml": "ci.yml.in",
    }
