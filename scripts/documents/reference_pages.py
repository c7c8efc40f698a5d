"""Writes the reference pages of the documentation site from the code, while mkdocs builds the site.

The plugin ``gen-files`` of mkdocs runs this module; ``pages`` can be called without mkdocs.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

import peftkit
from peftkit.analysis.component_description import describe_component
from peftkit.cli.parser import build_parser
from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.plugins import BASE_CLASSES, Entry, Registry, load_registry
from peftkit.recipe.messages.type_names import aliases, describe_field
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.tables.config_table import ConfigTable
from peftkit.sweep.sweep_file import SweepConfig

FACTS = {
    "task_kind": "Kind of task",
    "task_kinds": "Kinds of task",
    "model_kinds": "Kinds of model",
    "metrics": "Metrics",
    "selection_metric": "Selection metric",
    "source": "Source",
    "licence": "Licence",
    "preset_of": "Preset of",
    "loaded_by": "Loaded by",
}


def pages(registry: Registry) -> Iterator[tuple[str, str]]:
    """Yield the address of each page below ``reference/`` and its text.

    Args:
        registry: The installed components.
    """
    yield "cli.md", command_line()
    yield "recipe.md", recipe_tables()
    yield "sweep.md", sweep_tables()
    yield "python.md", python_api()
    for kind in BASE_CLASSES:
        entries = sorted(registry.all(kind).values(), key=lambda entry: entry.name)
        yield f"{kind}s/index.md", index(kind, entries)
        for entry in entries:
            yield f"{kind}s/{entry.name}.md", component(entry)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table of Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def prose(text: str) -> str:
    """Turn the double backquotes of docstrings into single ones, and paragraphs into lines of their own."""
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return re.sub(r"(?m)^(Args|Returns|Raises|Attributes|Example|Examples):$", r"**\1**\n", text)


def value(default: Any) -> str:
    """Write a default value as in TOML."""
    if default is None:
        return "not set"
    return f"`{json.dumps(default, ensure_ascii=False, default=str)}`"


def type_text(text: str) -> str:
    """Write the description of a type, with regular expressions as code."""
    return re.sub(r"(?<=matching )(\S+)", r"`\1`", text)


# -- the command line


def command_line() -> str:
    """The page of all commands."""
    text = [
        "# Command line",
        "Made from the program. `peftkit COMMAND --help` prints the same.",
        "`peftkit RECIPE` is short for `peftkit run RECIPE`. [More on output, JSON and exit codes](../cli.md).",
    ]
    text += [command(f"peftkit {name}", parser) for name, parser in sorted(_commands(build_parser()))]
    return "\n\n".join(text) + "\n"


def _commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups and name:
        yield name, parser
    for group in groups:
        for word, below in group.choices.items():
            yield from _commands(below, f"{name} {word}".strip())


def command(name: str, parser: argparse.ArgumentParser) -> str:
    """The section of one command: its usage, arguments and examples."""
    usage = " ".join(parser.format_usage().split()).removeprefix("usage: ")
    rows = []
    for action in parser._actions:
        names = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
        if action.option_strings and action.nargs != 0:
            metavar = action.metavar or (
                "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
            )
            names += f" `{metavar if isinstance(metavar, str) else ' '.join(metavar)}`"
        rows.append([names, (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")])
    parts = [f"## {name}", parser.description or "", f"```text\n{usage}\n```", table(["argument", "meaning"], rows)]
    if parser.epilog:
        examples = "\n".join(line.strip() for line in parser.epilog.splitlines()[1:])
        parts.append(f"```bash\n{examples}\n```")
    return "\n\n".join(parts)


# -- recipes and sweeps


def recipe_tables() -> str:
    """The page of all keys of a recipe."""
    text = [
        "# Recipe",
        "Every key of a recipe, made from its schema. `peftkit schema` prints the JSON Schema for editors.",
        table(
            ["table", "what it sets"],
            [[f"[`[{name}]`](#{name.replace('.', '')})", summary] for name, summary, _ in _tables(Recipe)]
            + [[f"`[{kind}]`", f"a component: [{kind}s]({kind}s/index.md)"] for kind in ("task", "method", "objective")]
            + [[f"`[[{kind}]]`", f"components: [{kind}s]({kind}s/index.md)"] for kind in ("metric", "callback")],
        ),
        "`extends` names a recipe to start from, relative to the recipe's file.",
    ]
    text += [_section(name, summary, model) for name, summary, model in _tables(Recipe)]
    return "\n\n".join(text) + "\n"


def sweep_tables() -> str:
    """The page of all keys of a sweep."""
    head = "# Sweep\n\nEvery key of a sweep's file, made from its schema. [How to run sweeps](../sweeps.md)."
    top = _section("", "", SweepConfig)
    return "\n\n".join([head, top, *(_section(*each) for each in _tables(SweepConfig))]) + "\n"


def _tables(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, type[BaseModel]]]:
    """The tables below a model: their names, summaries and classes."""
    texts = option_descriptions(model)
    for key, field in model.model_fields.items():
        for inner in _classes(field.annotation):
            name = f"{prefix}{key}"
            yield name, " ".join(prose(texts[key]).split()), inner
            yield from _tables(inner, f"{name}.")


def _classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, ConfigTable) else []
    return [each for argument in getattr(annotation, "__args__", ()) for each in _classes(argument)]


def _section(name: str, summary: str, model: type[BaseModel]) -> str:
    texts, rows = option_descriptions(model), []
    for key, field in model.model_fields.items():
        if not _classes(field.annotation):
            default = "required" if field.is_required() else value(field.get_default(call_default_factory=True))
            names = ", ".join(f"`{each}`" for each in aliases(key, field))
            rows.append([names, type_text(describe_field(field)), default, " ".join(prose(texts[key]).split())])
    parts = [f"## {name}" if name else "", summary, table(["key", "type", "default", "meaning"], rows) if rows else ""]
    return "\n\n".join(part for part in parts if part)


# -- components


def index(kind: str, entries: Sequence[Entry]) -> str:
    """The page that lists the components of a kind."""
    rows = [[f"[`{e.name}`]({e.name}.md)", prose(e.summary), e.distribution] for e in entries]
    return f"# {kind.capitalize()}s\n\n{table(['name', 'what it does', 'distribution'], rows)}\n"


def component(entry: Entry) -> str:
    """The page of one component: what it is, its options and what it is incompatible with."""
    described = describe_component(entry)
    text = [f"# {entry.name}", prose(described["description"])]
    facts = [[title, _listed(described[key])] for key, title in FACTS.items() if described.get(key)]
    facts.append(["Distribution", f"{entry.distribution} {entry.version}"])
    text.append(table(["", ""], facts))
    if described["options"]:
        rows = []
        for option in described["options"]:
            fixed = option["name"] in described.get("fixed", {})
            default = "required" if option["required"] else f"{'always ' if fixed else ''}{value(option['default'])}"
            names = ", ".join(f"`{each}`" for each in [option["name"], *option["aliases"]])
            rows.append([names, type_text(option["type"]), default, prose(option["description"])])
        text += ["## Options", table(["option", "type", "default", "meaning"], rows)]
    if described.get("search_space"):
        rows = [[f"`{key}`", f"`{json.dumps(space)}`"] for key, space in described["search_space"].items()]
        text += ["## Search space", table(["option", "values"], rows)]
    if rates := described.get("published_learning_rates"):
        rows = [
            [", ".join(f"{rate:g}" for rate in each["learning_rates"]), each["optimizer"], each["source"]]
            for each in rates
        ]
        text += ["## Published learning rates", table(["rates", "optimizer", "source"], rows)]
    if described["incompatibilities"]:
        text += ["## Incompatibilities", "\n".join(f"* {reason}" for reason in described["incompatibilities"])]
    return "\n\n".join(text) + "\n"


def _listed(fact: Any) -> str:
    return fact if isinstance(fact, str) else ", ".join(f"`{each}`" for each in fact)


# -- the Python API


def python_api() -> str:
    """The page of the public names, which mkdocstrings fills from the docstrings."""
    names = [name for name in peftkit.__all__ if not name.startswith("__")]
    functions = [name for name in names if name.islower()]
    classes = [name for name in names if not name.islower()]
    text = ["# Python API", "The functions and classes of `import peftkit`. [How to use them](../python.md)."]
    for title, members in (("Functions", functions), ("Classes", classes)):
        text += [f"## {title}", *(f"::: peftkit.{name}\n    options:\n      heading_level: 3" for name in members)]
    return "\n\n".join(text) + "\n"


def write_into_site() -> None:
    """Give the pages to mkdocs."""
    import mkdocs_gen_files

    for address, text in pages(load_registry()):
        with mkdocs_gen_files.open(f"reference/{address}", "w") as file:
            file.write(text)


if __name__ == "<run_path>":  # gen-files runs this file by runpy
    write_into_site()
