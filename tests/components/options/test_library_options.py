from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from peftkit.components.options.library_options import SourceLibrary, argument_descriptions, plain_summary, python_type

CONFIG = '''
from __future__ import annotations
from dataclasses import dataclass, field
from typing import List, Literal, Optional, Union
from .kinds import Kind, Nested

Names = Union[List[str], str]

@dataclass
class Base:
    ignored: int = 0

@dataclass
class Common(Base):
    r: int = 8
    names: Optional[Names] = field(default=None, metadata={"help": "The `names`."})
    several: int = field(
        default=1,
        metadata={
            "help": (
                "It's a number of (IA)³."
                "For example, 'q' or '.*decoder"
                ".*(q|v)$'."
                'This is "new", '
                "see https://x.y/"
                "z of torch."
                "nn. Words"
                "Whether not 'a"
                "B', in 0.1"
                "5."
            )
        },
    )

@dataclass
class Config(Common):
    """A config.

    Args:
        r (:obj:`int`): The rank.
    """
    kind: Kind = Kind.B
    nested: Nested | dict = None
    shape: tuple[int, float] = (1, 2.0)
    mode: Union[Literal["x", "y"], str] = "x"
    parts: List[str] = field(default_factory=lambda: ["q"])
    r: float = 16
'''
KINDS = """
from dataclasses import dataclass
from enum import Enum

class Kind(str, Enum):
    A = "a"
    B = "b"

@dataclass
class Nested:
    depth: int = 1
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SourceLibrary:
    folder = tmp_path / "declaring"
    folder.mkdir()
    for name, text in {"__init__": "raise RuntimeError('imported')", "config": CONFIG, "kinds": KINDS}.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return SourceLibrary("declaring", ignored_bases=("Base",))


def test_options_are_read_without_importing_the_library(library: SourceLibrary) -> None:
    config = library.module(library.folder / "config.py").find_class("Config")
    assert config is not None
    options = config.options()
    assert list(options) == ["r", "names", "several", "kind", "nested", "shape", "mode", "parts"]
    assert options["names"].help == "The names."
    assert options["several"].help == (
        "It's a number of (IA)³. For example, 'q' or '.*decoder.*(q|v)$'. This is \"new\", see https://x.y/z of "
        "torch.nn. Words Whether not 'aB', in 0.15."
    )
    defaults = {name: option.default for name, option in options.items()}
    assert defaults == {
        **{
            "r": 16,
            "names": None,
            "several": 1,
            "kind": "b",
            "nested": None,
            "shape": (1, 2.0),
            "mode": "x",
            "parts": ["q"],
        },
    }
    nested = {"name": "depth", "type": ["int"], "default": 1, "help": ""}
    assert options["nested"].type == ["union", ["config", "declaring.kinds", "Nested", [nested]]]
    types: dict[str, Any] = {n: python_type(o.type, lambda module, name, fields: name) for n, o in options.items()}
    assert types["r"] is float
    assert types["names"] == tuple[str, ...] | str | None
    assert types["kind"] == Literal["a", "b"]
    assert types["nested"] == "Nested"
    assert types["shape"] == tuple[int, float]
    assert types["mode"] == Literal["x", "y"], "any text would accept typos"
    assert plain_summary(config.docstring) == "A config."
    assert argument_descriptions(config.docstring) == {"r": "The rank."}


def test_a_missing_library_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="no_such_library is not installed"):
        SourceLibrary("no_such_library").folder  # noqa: B018 - the property raises
