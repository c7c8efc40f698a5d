"""Print the reference of what plugins are given and may override, from the code; --write updates the document.

python scripts/plugin_reference.py --write
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import FunctionType
from typing import Any

from pydantic import BaseModel

import peftkit
from peftkit.components import callback, family_services, objective, objective_context, preset, search_space, types
from peftkit.components.component import Component
from peftkit.components.lazy_number import ReadLater
from peftkit.components.model_parts import module_name_checks
from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.plugins import BASE_CLASSES
from peftkit.recipe.messages.type_names import describe_field
from peftkit.tasks import file_task

DOCUMENT = Path(__file__).parents[1] / "docs" / "plugin-reference.md"
INTRODUCTION = """# Plugin reference

Everything that a component is given, and everything that it may define. [Writing a plugin](plugins.md) has an example
of each kind. This page is generated from the code: `python scripts/plugin_reference.py --write`.

All names are imported from `peftkit`, except the types of `peftkit.components.family_services`,
`peftkit.components.objective`, `peftkit.components.objective_context` and `peftkit.components.types`, those of
`peftkit.components.search_space`, `peftkit.components.model_parts.module_name_checks` and `peftkit.testing`, and
[what built-in components share](#what-built-in-components-share). Other modules and names may change without notice.
"""
BEFORE_CLASSES = """## Base classes

A class attribute gets its value in the class body and is no option: `kind = "generation"`, without a type. A plugin is
rejected if an option, method, property or class attribute has the name of another kind of member of its base class, or
if a method has other arguments. One change is allowed: a class attribute may replace a property, or fix an option.
"""
DATASET_TASKS = ("DatasetTask", "TextClassification", "MultipleChoice", "TextGeneration", "DistractorGeneration")
SHARED: Mapping[str, tuple[str, ...]] = {
    "peftkit.tasks.columns": (
        *("get_value", "get_text", "get_nonblank_text", "get_texts", "has_column", "visible_columns"),
        *("match_choice", "check_choices", "short_repr", "AnswerFormat", "LETTERS", "EMPTY", "INTERNAL"),
    ),
    "peftkit.tasks.labels": ("read_label", "match_label", "feature_names", "check_label_names", "check_label_order"),
    "peftkit.tasks.prompt_templates": ("fields", "render"),
    "peftkit.objectives.loglikelihood_ranking": (
        "RankingObjective",
        "ClassificationObjective",
        "MultipleChoiceObjective",
    ),
    "peftkit.objectives.completions": ("Completion",),
    "peftkit.example_tables": ("NORM_SUFFIX",),
    "peftkit.candidate_choice": ("argmax_candidate",),
    "peftkit.metrics.base": ("EvaluateMetric", "mean"),
    "peftkit.answer_texts.text_normalization": ("normalize",),
    "peftkit.components.lazy_number": ("LateSum",),
    "peftkit.errors": ("did_you_mean", "comma_separated", "summarize_error"),
}
"""Public names that ``peftkit`` does not export, by module."""


def given_types() -> list[type]:
    """The dataclasses that components are given or make."""
    modules = (types, callback, objective, objective_context, preset, search_space)
    return [
        value
        for module in modules
        for value in vars(module).values()
        if is_dataclass(value) and isinstance(value, type) and value.__module__ == module.__name__
    ]


def errors() -> list[type[Exception]]:
    """The public exceptions."""
    public = (getattr(peftkit, name) for name in peftkit.__all__)
    return [value for value in public if isinstance(value, type) and issubclass(value, Exception)]


def markdown(text: str) -> str:
    """A docstring's text as one line of Markdown."""
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|")


def code(text: str) -> str:
    escaped = " ".join(text.split()).replace("|", "\\|")
    return f"`{escaped}`"


def section(docstring: str, name: str) -> str:
    """A section of a docstring in Google form, without its heading."""
    match = re.search(rf"^{name}:\n((?:[ ]+.*\n?|\n)*)", docstring, re.MULTILINE)
    return textwrap.dedent(match[1]) if match else ""


def entries(text: str) -> dict[str, str]:
    """The entries of such a section by name."""
    return {
        name: markdown(described)
        for name, described in re.findall(r"^\*{0,2}(\w+): ((?:.*\n?)(?:[ ]+.*\n?|\n)*)", text, re.MULTILINE)
    }


def paragraphs(docstring: str) -> str:
    """A docstring's text before its first section."""
    return markdown(re.split(r"^(?:Args|Attributes|Returns|Raises):$", docstring, maxsplit=1, flags=re.MULTILINE)[0])


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n" if rows else ""


def of_dataclass(given: type) -> str:
    docstring = inspect.getdoc(given) or ""
    described = entries(section(docstring, "Attributes"))
    rows = [
        (code(f.name), code("float" if f.type == ReadLater.__name__ else str(f.type)), _default(f), described[f.name])
        for f in fields(given)  # type: ignore[arg-type]
    ]
    rows += [
        (code(name), code(_returned(value.fget)), "", markdown(value.__doc__ or ""))
        for name, value in vars(given).items()
        if isinstance(value, property)
    ]
    head = ("attribute", "type", "default", "")
    text = f"### {given.__name__}\n\n{paragraphs(docstring)}\n\n{table(head, rows)}"
    methods = method_rows(given)
    return f"{text}\n{table(('method', 'returns', ''), methods)}" if methods else text


def method_rows(owner: type) -> list[tuple[str, ...]]:
    """The rows of the documented methods that a class defines."""
    functions = [value for name, value in vars(owner).items() if isinstance(value, FunctionType) and name[0] != "_"]
    return [
        (code(_signature(function)), code(_returned(function)), described_method(inspect.getdoc(function) or ""))
        for function in functions
    ]


def of_protocol(protocol: type) -> str:
    """The properties and methods of a protocol."""
    rows = [
        (code(name), f"property, {code(_returned(value.fget))}", markdown(value.__doc__ or ""))
        for name, value in vars(protocol).items()
        if isinstance(value, property)
    ]
    text = f"### {protocol.__name__}\n\n{paragraphs(inspect.getdoc(protocol) or '')}\n\n"
    return text + table(("method", "returns", ""), rows + method_rows(protocol))


def of_typed_dict(given: type) -> str:
    """The keys of a dictionary."""
    docstring = inspect.getdoc(given) or ""
    described = entries(section(docstring, "Attributes"))
    rows = [
        (code(key), code(getattr(kind, "__forward_arg__", str(kind))), described[key])
        for key, kind in inspect.get_annotations(given).items()
    ]
    return f"### {given.__name__}\n\n{paragraphs(docstring)}\n\n{table(('key', 'type', ''), rows)}"


def _default(field: Field[Any]) -> str:
    if field.default_factory is not MISSING:
        return code(repr(field.default_factory()))
    return "required" if field.default is MISSING else code(repr(field.default))


def _returned(function: Any) -> str:
    return str(inspect.signature(function).return_annotation)


def attribute_docstrings(owner: type) -> dict[str, tuple[str, str]]:
    """Type and documentation of the class attributes that a class declares."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(tree, ast.ClassDef)
    attributes = {}
    for statement, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            attributes[statement.target.id] = (ast.unparse(statement.annotation), str(text))
    return attributes


def own_classes(component: type[Component]) -> Iterator[type[BaseModel]]:
    """The classes whose members belong to the section of a component: itself, and bases without a section."""
    sections = {*BASE_CLASSES.values(), *(getattr(peftkit, name) for name in DATASET_TASKS)} - {component}
    for owner in component.__mro__:
        if owner in sections or owner is BaseModel:
            return
        yield owner


def of_component(component: type[Component]) -> str:
    attributes: dict[str, tuple[str, ...]] = {}
    options: dict[str, tuple[str, ...]] = {}
    methods: dict[str, tuple[str, ...]] = {}
    for owner in own_classes(component):
        for name, (kind, text) in attribute_docstrings(owner).items():
            if kind.startswith("ClassVar["):
                declared = kind.removeprefix("ClassVar[").removesuffix("]")
                value = repr(getattr(owner, name)) if hasattr(owner, name) else ""
                shown = code(value) if value and len(value) < 40 else "required" if not value else "see below"
                if text:
                    attributes.setdefault(name, (code(name), code(declared), shown, markdown(text)))
            elif name in component.model_fields and name != "name":
                texts = option_descriptions(component)
                field = component.model_fields[name]
                default = (
                    "required" if field.is_required() else code(repr(field.get_default(call_default_factory=True)))
                )
                options.setdefault(name, (code(name), describe_field(field), default, markdown(texts[name])))
        for name, value in vars(owner).items():
            documented = inspect.getdoc(value) or ""
            if name.startswith(("_", "model_")) or not documented:
                continue
            if isinstance(value, property):
                methods.setdefault(name, (code(name), f"property, {code(_returned(value.fget))}", markdown(documented)))
            elif isinstance(value, FunctionType):
                methods.setdefault(
                    name, (code(_signature(value)), code(_returned(value)), described_method(documented))
                )
    parts = [f"### {component.__name__}", paragraphs(inspect.getdoc(component) or "")]
    parts += [table(("class attribute", "type", "default", ""), list(attributes.values()))]
    parts += [table(("option", "type", "default", ""), list(options.values()))]
    parts += [table(("method", "returns", ""), list(methods.values()))]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def described_method(docstring: str) -> str:
    arguments = [f"`{name}`: {text}" for name, text in entries(section(docstring, "Args")).items()]
    returned = markdown(section(docstring, "Returns"))
    raised = [f"`{name}`: {text}" for name, text in entries(section(docstring, "Raises")).items()]
    parts = [
        paragraphs(docstring),
        *arguments,
        returned and f"Returns: {returned}",
        *(f"Raises {text}" for text in raised),
    ]
    return "<br>".join(filter(None, parts))


def _signature(function: Any) -> str:
    shown = []
    for name, parameter in inspect.signature(function).parameters.items():
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        if name != "self":
            shown.append(stars + name)
    return f"{function.__name__}({', '.join(shown)})"


def of_error(error: type[Exception]) -> str:
    docstring = inspect.getdoc(error) or ""
    arguments = entries(section(docstring, "Args"))
    shown = f"{error.__name__}({', '.join(arguments) or 'text'})"
    described = "<br>".join([paragraphs(docstring), *(f"`{name}`: {text}" for name, text in arguments.items())])
    return f"| {code(shown)} | {described} |"


def constants(module: Any) -> dict[str, str]:
    """The documentation of a module's constants by name."""
    documented = {}
    for statement, after in pairwise(ast.parse(inspect.getsource(module)).body):
        if isinstance(statement, ast.AnnAssign | ast.Assign) and isinstance(after, ast.Expr):
            target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            documented[ast.unparse(target)] = markdown(str(ast.literal_eval(after.value)))
    return documented


def of_module(name: str, names: Iterable[str]) -> str:
    """The functions, base classes and constants of a module."""
    module = importlib.import_module(name)
    rows = []
    for key in names:
        value = getattr(module, key)
        docstring = inspect.getdoc(value) or ""
        if inspect.isroutine(value):
            rows.append((code(_signature(value)), described_method(docstring)))
        elif inspect.isclass(value):
            methods = [cells[0] for cells in method_rows(value)]
            defined = f"<br>Defines {', '.join(methods)}" if methods else ""
            rows.append((code(key), f"{paragraphs(docstring)}{defined}"))
        else:
            rows.append((code(key), constants(module)[key]))
    return f"### {name}\n\n{table(('name', ''), rows)}"


def document() -> str:
    parts = [INTRODUCTION, "## What components are given\n", *map(of_dataclass, given_types())]
    protocols = (family_services.FamilyServices, family_services.ReferenceModel)
    parts += [*map(of_protocol, protocols), of_typed_dict(types.TokenizedRow)]
    kinds = [f"`{name}`: {', '.join(map(code, getattr(types, name).__args__))}" for name in ("ModelKind", "Side")]
    kinds += [f"`TaskKind`: {constants(types)['TaskKind']}"]
    names = (
        (family_services, "Batch"),
        (types, "Prediction"),
        (types, "Row"),
        (file_task, "DataPath"),
        (family_services, "ScoreCandidates"),
    )
    kinds += [f"`{name}`: {constants(module)[name]}" for module, name in names]
    kinds += [f"`SearchSpace`: {constants(search_space)['SearchSpace']}"]
    parts += ["### Names\n\n" + "\n".join(f"* {kind}" for kind in kinds) + "\n"]
    parts += [BEFORE_CLASSES, *map(of_component, BASE_CLASSES.values())]
    parts += ["## Base classes of tasks on files and hub datasets\n"]
    parts += [of_component(getattr(peftkit, name)) for name in DATASET_TASKS]
    parts += ["## What built-in components share\n", *map(of_module, SHARED, SHARED.values())]
    parts += ["## Errors\n\n| error | |\n| --- | --- |\n" + "\n".join(map(of_error, errors())) + "\n"]
    ranges = [(code(name), text) for name, text in constants(search_space).items() if name != "SearchSpace"]
    parts += [f"## Search ranges\n\nIn `peftkit.components.search_space`:\n\n{table(('name', ''), ranges)}"]
    markers = [
        (code(name), paragraphs(inspect.getdoc(value) or ""))
        for name, value in vars(module_name_checks).items()
        if isinstance(value, type) and issubclass(value, module_name_checks.NamesInModel)
    ]
    parts += ["## Options that name parts of a model\n\nIn `peftkit.components.model_parts.module_name_checks`:\n"]
    parts += [table(("name", ""), markers)]
    return "\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the reference to docs/plugin-reference.md")
    if parser.parse_args().write:
        DOCUMENT.write_text(document(), encoding="utf-8")
    else:
        print(document(), end="")
