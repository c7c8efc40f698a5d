"""Public functions of two arguments or more describe them, and every tensor with its shape.

ruff's D417 checks that an ``Args`` section lists all arguments; these tests ask for the section.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted(
    file
    for folder in ("peftkit", "plugins")
    for file in (ROOT / folder).rglob("*.py")
    if not {"assets", "tests", "build"} & set(file.relative_to(ROOT).parts)
)

EXTERNAL_METHODS = {"forward", "write"}
"""Methods that override one of a base class of another library."""

IN_LIBRARIES = {
    "Args",
    "MulticlassF1Score",
    "RankAllocator",
    *("CoSENTLoss", "CosineSimilarityLoss", "MultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss"),
}
"""Names in docstrings that do not exist in the code."""

TENSOR = re.compile(r"\bTensor\b")
SHAPE = re.compile(r"\(.*\)|shape|scalar")

INCOMPLETE: set[str] = set()
"""Files in which public functions still lack their ``Args``; a file that is complete must leave the list."""


@dataclass(frozen=True)
class Function:
    """A public function or method of two arguments or more that overrides nothing."""

    file: str
    name: str
    line: int
    annotations: dict[str, str]
    docstring: str
    returns: str = ""
    """The annotation of what it returns."""

    @property
    def args(self) -> str:
        """The ``Args`` section without its heading."""
        return self.section("Args")

    def section(self, name: str) -> str:
        """A section of the docstring without its heading."""
        section = re.search(rf"^{name}:\n((?:[ ]+.*\n?|\n)*)", self.docstring, re.MULTILINE)
        return section[1] if section else ""

    def description(self, argument: str) -> str:
        """The description of an argument in the ``Args`` section, in one line."""
        entry = re.search(rf"^ +\*{{0,2}}{argument}(?: \(.*?\))?: (.*(?:\n {{8,}}.*)*)", self.args, re.MULTILINE)
        return " ".join(entry[1].split()) if entry else ""


@cache
def methods_by_class() -> dict[str, tuple[list[str], set[str]]]:
    """Base classes and methods of every class of the source, by the class's name."""
    result: dict[str, tuple[list[str], set[str]]] = {}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]
                names = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
                names |= {ast.unparse(n.target) for n in node.body if isinstance(n, ast.AnnAssign)}
                old_bases, old_names = result.get(node.name, ([], set()))
                result[node.name] = ([*old_bases, *bases], old_names | names)
    return result


def inherited(class_name: str) -> set[str]:
    """Methods that the base classes of a class have."""
    classes = methods_by_class()
    names, waiting, seen = set(EXTERNAL_METHODS), [*classes[class_name][0]], {class_name}
    while waiting:
        base = waiting.pop()
        if base in classes and base not in seen:
            seen.add(base)
            names |= classes[base][1]
            waiting += classes[base][0]
    return names


def public_functions(file: Path) -> Iterator[Function]:
    """Yields the functions that need an ``Args`` section."""
    name = file.relative_to(ROOT).as_posix()
    if any(re.match(r"_(?!_)", part) for part in Path(name).with_suffix("").parts):
        return

    def walk(body: list[ast.stmt], owner: str) -> Iterator[Function]:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from walk(node.body, node.name)
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            decorators = {ast.unparse(d).partition("(")[0].rpartition(".")[2] for d in node.decorator_list}
            spec = node.args
            arguments = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
            arguments = arguments[1 if owner and "staticmethod" not in decorators else 0 :]
            if len(arguments) < 2 or "overload" in decorators or (owner and node.name in inherited(owner)):
                continue
            types = {a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in arguments}
            returns = ast.unparse(node.returns) if node.returns else ""
            label = f"{owner}.{node.name}".lstrip(".")
            yield Function(name, label, node.lineno, types, ast.get_docstring(node) or "", returns)

    yield from walk(ast.parse(file.read_text(encoding="utf-8")).body, "")


@cache
def all_functions() -> list[Function]:
    """The public functions of all files."""
    return [function for file in FILES for function in public_functions(file)]


def problems(functions: list[Function]) -> list[str]:
    """Missing sections and shapes in the docstrings of functions."""
    result = []
    for function in functions:
        place = f"{function.file}:{function.line}: {function.name}"
        if not function.args:
            result.append(f"{place}: no Args section")
            continue
        tensors = {
            f"the tensor {name!r}": function.description(name)
            for name, t in function.annotations.items()
            if TENSOR.search(t)
        }
        if TENSOR.search(function.returns):
            tensors["the tensor that it returns"] = function.section("Returns")
        result += [f"{place}: no shape of {name}" for name, text in tensors.items() if not SHAPE.search(text)]
    return result


def test_public_functions_describe_their_arguments() -> None:
    assert problems([function for function in all_functions() if function.file not in INCOMPLETE]) == []


def test_the_list_of_incomplete_files_only_names_incomplete_ones() -> None:
    lacking = {text.partition(":")[0] for text in problems(all_functions())}
    assert sorted(INCOMPLETE - lacking) == []


def test_a_missing_section_and_a_missing_shape_are_reported() -> None:
    types = {"x": "Tensor | None", "n": "int"}
    docstring = "Does it.\n\nArgs:\n    x: Token ids{}.\n    n: How many."
    without = Function("f.py", "f", 1, types, docstring.format(""))
    assert problems([without]) == ["f.py:1: f: no shape of the tensor 'x'"]
    wrapped = "Does it.\n\nArgs:\n    x: Token ids\n        of shape (batch, length).\n    n: How many."
    assert problems([Function("f.py", "f", 1, types, text) for text in (docstring.format(" (batch,)"), wrapped)]) == []
    assert problems([Function("f.py", "f", 1, types, "Does it.")]) == ["f.py:1: f: no Args section"]
    returning = Function(
        "f.py", "f", 1, {"n": "int"}, "Does it.\n\nArgs:\n    n: How many.\n\nReturns:\n    It.", "Tensor"
    )
    assert problems([returning]) == ["f.py:1: f: no shape of the tensor that it returns"]


def test_overrides_and_functions_of_one_argument_need_no_section() -> None:
    names = {(function.file, function.name) for function in all_functions()}
    assert ("peftkit/components/method.py", "Method.save") in names
    assert ("peftkit/methods/full.py", "Full.apply") not in names, "it overrides Method.apply"
    assert ("peftkit/components/method.py", "Method.lr_multiplier") not in names, "it has one argument"


def test_names_in_docstrings_exist() -> None:
    """Exceptions of ``Raises`` and names of classes and constants are those of the code, or of a library."""
    code = "\n".join(re.sub(r'"""(?:.|\n)*?"""', "", file.read_text(encoding="utf-8")) for file in FILES)
    names = set(re.findall(r"\w+", code)) | set(dir(builtins))
    stale = []
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        sections = "".join(re.findall(r"^ +Raises:\n((?:[ ]+.*\n|\n)*)", text, re.MULTILINE))
        references = re.findall(r"``(?:\w+\.)*([A-Z]\w+)``", text)
        exceptions = re.findall(r"^ +(?:\w+\.)*([A-Z]\w+): ", sections, re.MULTILINE)
        stale += [f"{file.relative_to(ROOT)}: {name}" for name in {*references, *exceptions} - names - IN_LIBRARIES]
    assert stale == []
