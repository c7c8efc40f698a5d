"""Check that options that name parts of a model, such as ``target_modules``, match something in the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from peftkit.errors import InputError, comma_separated, did_you_mean

if TYPE_CHECKING:
    from torch import nn

MAX_NAMES = 20
"""The most names that an error message lists."""
EMPTY_TOKENS = "names no tokens; leave it out"


class NamesInModel:
    """Marks an option whose entries name parts of the model, as in ``Annotated[tuple[str, ...], ModuleNames()]``."""

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """Yield an error message for each entry that matches nothing in the model.

        Args:
            value: The value of the option.
            model: The model before the method is applied.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ModuleNames(NamesInModel):
    """Names of modules, or a regular expression that matches full names.

    Attributes:
        keywords: Special values that are not names, in lower case.
        ending: Whether the option applies to every module whose name ends with an entry, as peft's ``modules_to_save``
            does, and not only to those whose last components are the entry.
    """

    keywords: tuple[str, ...] = ("all-linear",)
    ending: bool = False

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """Yield an error message for each name that matches no module."""
        modules = {key: module for key, module in model.named_modules(remove_duplicate=False) if key}
        if isinstance(value, str):
            if self.ending:
                yield f'must be a list of names; write ["{value}"]'
            elif value.lower() not in self.keywords and not matching(value, modules, re.fullmatch):
                names = _join_names(_leaves(modules))
                yield f"no module's full name matches the regular expression {value!r}; modules: {names}"
            return
        for entry in value:
            matched = [key for key in modules if is_named(key, entry)]
            if not matched:
                yield f"no module is called {entry!r}{_suggest_modules(entry, modules)}"
            elif self.ending and not any(True for key in matched for _ in modules[key].parameters()):
                yield f"{entry!r} has no parameters to train ({type(modules[matched[0]]).__name__})"
            elif self.ending:
                yield from self._also_matched(entry, matched, [key for key in modules if not _is_any(key, value)])

    def _also_matched(self, entry: str, matched: Sequence[str], unnamed: Sequence[str]) -> Iterator[str]:
        """Yield an error message if an option would also apply to modules that no entry names.

        Args:
            entry: The entry.
            matched: The modules that it names.
            unnamed: The modules that no entry names.
        """
        if leaves := _leaves(key for key in unnamed if is_named(key, entry, ending=True)):
            full = comma_separated([repr(key) for key in matched if not any(other.endswith(key) for other in unnamed)])
            remedy = f"write {full}, or add {_join_names(leaves)}" if full else f"add {_join_names(leaves)}"
            yield f"{entry!r} is also the end of {_join_names(leaves)}, which peft would train too; {remedy}"


@dataclass(frozen=True)
class ModulePatterns(NamesInModel):
    """A table whose keys are suffixes of module names, or regular expressions for them.

    Attributes:
        template: The regular expression that a key is inserted into; it must match the start of a module's name.
    """

    template: str = r"(.*\.)?({key})$"

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """Yield an error message for each key that matches no module or parameter."""
        names = [key for key, _ in model.named_modules() if key]
        names += [key for key, _ in model.named_parameters()]
        for key in value:
            if not self.matches(key, names):
                yield f"no module's name ends with or matches {key!r}{_suggest_modules(key, names)}"

    def matches(self, key: str, names: Iterable[str]) -> list[str]:
        """Return the names that a key matches.

        Args:
            key: A suffix of a name, or a regular expression; an invalid one matches nothing.
            names: The names of modules and parameters.
        """
        return matching(self.template.replace("{key}", key), names, re.match) if key else []

    def unused(self, table: Iterable[str], changed: Sequence[str]) -> Iterator[str]:
        """Yield an error message for each key without effect; the first key that matches a module applies to it.

        Args:
            table: The keys in their order.
            changed: The names of the modules that the method changes.
        """
        first_key: dict[str, str] = {}
        for key in table:
            matched = self.matches(key, changed)
            if not matched:
                leaves = sorted({name.rpartition(".")[2] for name in changed})
                yield f"{key!r} matches none of the modules that the method changes: {_join_names(leaves)}"
            elif all(name in first_key for name in matched):
                yield f"{key!r} has no effect because {first_key[matched[0]]!r} comes first; put it before that key"
            first_key |= {name: key for name in matched if name not in first_key}


@dataclass(frozen=True)
class ParameterNames(NamesInModel):
    """Names of parameters, or their last components."""

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """Yield an error message for each name that matches no parameter."""
        names = [key for key, _ in model.named_parameters()]
        entries = [value] if isinstance(value, str) else value
        for entry in entries:
            if not any(is_named(key, entry) for key in names):
                tails = sorted({".".join(key.split(".")[-2:]) for key in names})
                yield f"no parameter is called {entry!r}{did_you_mean(entry, tails)}; available: {_join_names(tails)}"


@dataclass(frozen=True)
class BlockNumbers(NamesInModel):
    """Indices of the model's blocks, counted from 0."""

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """Yield an error message for each index that no block has."""
        if isinstance(value, str):
            return
        blocks = {int(number) for key, _ in model.named_modules() if (number := block_of(key)) is not None}
        first, last = min(blocks, default=0), max(blocks, default=0)
        indices = [value] if isinstance(value, int) else list(value)
        if not indices:
            yield "names no blocks; leave it out to select all of them"
        for index in indices:
            if index not in blocks:
                yield f"there is no block {index}; the model has blocks {first} to {last}"


@dataclass(frozen=True)
class BlockLists(NamesInModel):
    """Names of the module lists that hold the model's blocks."""

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """Yield an error message for each name that matches no module list."""
        lists = sorted({key.rpartition(".")[0] for key, _ in model.named_modules() if re.search(r"\.\d+$", key)})
        for entry in [value] if isinstance(value, str) else value:
            if not entry or not matching(rf"(?:^|.*\.){entry}$", lists, re.match):
                names = sorted({name.rpartition(".")[2] for name in lists})
                suggestion = did_you_mean(entry, names)
                yield f"no list of blocks is called {entry!r}{suggestion}; available: {comma_separated(names)}"


@dataclass(frozen=True)
class BlockRanges(NamesInModel):
    """Ranges ``[start, end]`` of the model's blocks; the end is excluded."""

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """Yield an error message for each range outside the model's blocks."""
        numbers = [int(number) for key, _ in model.named_modules() if (number := block_of(key)) is not None]
        count = max(numbers, default=-1) + 1
        if not value:
            yield "names no blocks; leave it out"
        for start, end in value:
            if not 0 <= start < end <= count:
                yield f"[{start}, {end}] is not a range of blocks; the model has {count} blocks, [0, {count}]"


@dataclass(frozen=True)
class TokenIds(NamesInModel):
    """Token ids, or a table of token ids by the name of the embedding."""

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """Yield an error message for each id outside the embedding."""
        transformer: Any = model
        if not value:
            yield EMPTY_TOKENS
        elif isinstance(value, Mapping):
            modules = {key: module for key, module in model.named_modules(remove_duplicate=False) if key}
            for name, ids in value.items():
                embeddings = [m for key, m in modules.items() if is_named(key, name) and num_rows(m)]
                if not embeddings:
                    yield f"no embedding is called {name!r}{_suggest_modules(name, modules)}"
                else:
                    yield from self._invalid_ids(ids, num_rows(embeddings[0]))
        else:
            yield from self._invalid_ids(value, num_rows(transformer.get_input_embeddings()))

    def _invalid_ids(self, ids: Sequence[int], rows: int) -> Iterator[str]:
        if not ids:
            yield EMPTY_TOKENS
        if invalid := [number for number in ids if not 0 <= number < rows]:
            yield f"{invalid[0]} is not a token id; the model's embedding has ids 0 to {rows - 1}"


PEFT_NAME_OPTIONS: Mapping[str, NamesInModel] = {
    "target_modules": ModuleNames(),
    **dict.fromkeys(("exclude_modules", "feedforward_modules"), ModuleNames(keywords=())),
    "modules_to_save": ModuleNames(ending=True),
    "layers_to_transform": BlockNumbers(),
    "layers_pattern": BlockLists(),
    "layer_replication": BlockRanges(),
    "target_parameters": ParameterNames(),
    **dict.fromkeys(("token_indices", "trainable_token_indices", "cpt_token_ids"), TokenIds()),
}
"""What options with peft's names refer to; methods need not annotate these."""


def naming_options(component: type[BaseModel]) -> dict[str, NamesInModel]:
    """Return the options of a component that name parts of a model, with what they name.

    Options are annotated with a ``NamesInModel``, or have a name that peft uses.
    """
    options: dict[str, NamesInModel] = {}
    for name, field in component.model_fields.items():
        markers = [marker for marker in field.metadata if isinstance(marker, NamesInModel)]
        if markers:
            options[name] = markers[0]
        elif name in PEFT_NAME_OPTIONS:
            options[name] = PEFT_NAME_OPTIONS[name]
        elif name.endswith("_pattern") and "dict" in str(field.annotation):
            options[name] = ModulePatterns()
    return options


def check_names(component: BaseModel, model: nn.Module, path: str = "method") -> None:
    """Reject options whose entries match nothing in the model.

    Args:
        component: A method with its options; methods nested in it are checked too.
        model: The model before the method is applied.
        path: The recipe key of the method.

    Raises:
        InputError: An entry matches nothing; the message has the option, the entry and the available names.
    """
    if problems := list(_find_problems(component, model, path)):
        raise InputError("\n".join(problems))


def _find_problems(component: BaseModel, model: nn.Module, path: str) -> Iterator[str]:
    for name, marker in naming_options(type(component)).items():
        value = getattr(component, name)
        if value is not None:
            yield from (f"{path}.{name}: {text}" for text in marker.unmatched(value, model))
    for name, value in component:
        if isinstance(value, BaseModel):
            yield from _find_problems(value, model, f"{path}.{name}")
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from _find_problems(item, model, f"{path}.{name}[{index}]")


def is_named(key: str, entry: str, *, ending: bool = False) -> bool:
    """Return whether an entry matches the name of a module or parameter.

    Args:
        key: The full name of the module or parameter.
        entry: The full name, or its last components.
        ending: Whether any suffix matches, and not only whole components.
    """
    return bool(entry) and (key == entry or key.endswith(entry if ending else f".{entry}"))


def _is_any(key: str, entries: Collection[str]) -> bool:
    return any(is_named(key, entry) for entry in entries)


def format_changed_options(component: BaseModel) -> str:
    """Format the options that differ from their defaults; empty if there are none."""
    fields = type(component).model_fields
    values = {name: value for name, value in component if name != "name"}
    return ", ".join(
        f"{name} = {_shorten(value)}"
        for name, value in values.items()
        if value != fields[name].get_default(call_default_factory=True)
    )


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def matching(pattern: str, names: Iterable[str], match: Callable[[str, str], Any]) -> list[str]:
    """Return the names that a regular expression matches; an invalid one matches none.

    Args:
        pattern: The regular expression.
        names: The names.
        match: ``re.match`` or ``re.fullmatch``.
    """
    try:
        return [name for name in names if match(pattern, name)]
    except re.error:
        return []


def block_of(key: str) -> str | None:
    """Return the index of the block that contains a module, by peft's rule: the first number in its name."""
    match = re.match(r"(?:.*?\.)??[^.]*\.(\d+)(?:\.|$)", key)
    return match[1] if match else None


def num_rows(module: Any) -> int:
    """Return the number of rows of a module's weight, or 0 if it has no matrix."""
    weight = weight_of(module)
    return int(weight.shape[0]) if weight is not None and weight.ndim == 2 else 0


def weight_of(module: Any) -> Any:
    """Return the weight of a module, or None."""
    return getattr(module, "weight", None)


def _leaves(names: Iterable[str]) -> list[str]:
    return sorted({leaf for name in names if not (leaf := name.rpartition(".")[2]).isdigit()})


def _suggest_modules(entry: str, names: Iterable[str]) -> str:
    leaves = _leaves(names)
    return f"{did_you_mean(entry.rpartition('.')[2], leaves)}; available: {_join_names(leaves)}"


def _join_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return comma_separated(names[:MAX_NAMES]) + more
