"""The verb ``new``: a distribution with one component, which installs and passes its tests as it is written."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from pathlib import Path
from string import Template

from peftkit.errors import InputError
from peftkit.plugins import NAME, Kind, load_registry

TEMPLATES = Path(__file__).parent.parent / "assets" / "scaffold"


def write_distribution(kind: Kind, name: str, parent: str) -> int:
    """Writes the folder ``peftkit-NAME``: pyproject, module, tests, README and a workflow.

    Raises:
        InputError: the name cannot be one, is taken, or the folder is there already.
    """
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise InputError(f"a name is lower-case letters, digits and underscores, and no word of Python's, not {name!r}")
    if taken := load_registry().of(kind).get(name):
        raise InputError(f"the {kind} {name!r} is there already, in {taken.distribution}; choose another name")
    distribution = f"peftkit-{name.replace('_', '-')}"
    folder = Path(parent) / distribution
    if folder.exists():
        raise InputError(f"{str(folder)!r} is there already; choose another name or folder")
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
    print(f"{folder}: pip install -e '{folder}[dev]' && pytest {folder}")
    return 0


def _files(kind: Kind, words: Mapping[str, str]) -> dict[str, str]:
    return {
        "pyproject.toml": "pyproject.toml.in",
        "README.md": "README.md.in",
        f"{words['module']}.py": f"{kind}.py.in",
        f"tests/test_{words['name']}.py": f"test_{kind}.py.in",
        ".github/workflows/ci.yml": "ci.yml.in",
    }
