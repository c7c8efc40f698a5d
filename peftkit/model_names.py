"""Options that name parts of a model: each entry has to match something in it, or the recipe is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from peftkit.errors import InputError, did_you_mean, listed

if TYPE_CHECKING:
    from torch import nn

SHOWN = 20
"""How many names a message has."""
NONE_NAMED = "names no token; leave it out"
"""Said of a list without ids."""


class NamesInModel:
    """Marks an option whose entries name parts of the model, as in ``Annotated[tuple[str, ...], ModuleNames()]``."""

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """What is wrong with each entry that matches nothing in the model.

        Args:
            value: the option's value.
            model: the model, before the method is applied to it.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ModuleNames(NamesInModel):
    """Names of modules, or a regular expression for whole names.

    Attributes:
        keywords: texts that mean something else than a name, in lower case.
        ending: whether a name may be any end of a module's, as in peft's ``modules_to_save``, and not a whole part.
    """

    keywords: tuple[str, ...] = ("all-linear",)
    ending: bool = False

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """What is wrong with each name."""
        modules = {key: module for key, module in model.named_modules(remove_duplicate=False) if key}
        if isinstance(value, str):
            if self.ending:
                yield f'is a list of names; write ["{value}"]'
            elif value.lower() not in self.keywords and not _matches(value, modules, re.fullmatch):
                yield f"no module's whole name matches the expression {value!r}; {_there(value, modules)}"
            return
        yield from _twice(value)
        for entry in value:
            named = [key for key in modules if is_named(key, entry, ending=self.ending)]
            if not named:
                yield f"no module is called {entry!r}{_there(entry, modules, guess=True)}"
            elif self.ending and not any(True for key in named for _ in modules[key].parameters()):
                yield f"{entry!r} has no parameters that could learn ({type(modules[named[0]]).__name__})"


@dataclass(frozen=True)
class ModulePatterns(NamesInModel):
    """A table whose keys are the ends of modules' names, or regular expressions for them.

    Attributes:
        form: the expression that a key is put into, which a module's name has to begin with.
    """

    form: str = r"(.*\.)?({key})$"

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """What is wrong with each key."""
        names = [key for key, _ in model.named_modules() if key]
        names += [key for key, _ in model.named_parameters()]
        for key in value:
            if not self.matches(key, names):
                yield f"no module's name ends with, or matches, {key!r}{_there(key, names, guess=True)}"

    def matches(self, key: str, names: Iterable[str]) -> list[str]:
        """The names that a key matches; none if it is no expression."""
        return _matches(self.form.replace("{key}", key), names, re.match) if key else []

    def unused(self, table: Iterable[str], changed: Sequence[str]) -> Iterator[str]:
        """What is wrong with each key that decides nothing, since the first that matches is taken.

        Args:
            table: the keys in their order.
            changed: the names of the modules that the method changes.
        """
        taken: dict[str, str] = {}
        for key in table:
            matched = self.matches(key, changed)
            if not matched:
                ends = sorted({name.rpartition(".")[2] for name in changed})
                yield f"{key!r} matches none of the modules that are changed; there are {_some(ends)}"
            elif all(name in taken for name in matched):
                yield f"{key!r} decides nothing, since {taken[matched[0]]!r} comes first; put it before that"
            taken |= {name: key for name in matched if name not in taken}


@dataclass(frozen=True)
class ParameterNames(NamesInModel):
    """Names of parameters, or their last parts."""

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """What is wrong with each name."""
        names = [key for key, _ in model.named_parameters()]
        entries = [value] if isinstance(value, str) else value
        yield from _twice(entries)
        for entry in entries:
            if not any(is_named(key, entry) for key in names):
                tails = sorted({".".join(key.split(".")[-2:]) for key in names})
                yield f"no parameter is called {entry!r}{did_you_mean(entry, tails)}; there are {_some(tails)}"


@dataclass(frozen=True)
class BlockNumbers(NamesInModel):
    """Numbers of the model's blocks, counted from 0."""

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """What is wrong with each number."""
        if isinstance(value, str):
            return
        there = {int(number) for key, _ in model.named_modules() if (number := _block(key)) is not None}
        first, last = min(there, default=0), max(there, default=0)
        numbers = [value] if isinstance(value, int) else list(value)
        if not numbers:
            yield "names no block; leave it out for all of them"
        yield from _twice(numbers)
        for wanted in numbers:
            if wanted not in there:
                yield f"there is no block {wanted}; the model has blocks {first} to {last}"


@dataclass(frozen=True)
class BlockLists(NamesInModel):
    """Names of the lists that hold the model's blocks."""

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """What is wrong with each name."""
        lists = sorted({key.rpartition(".")[0] for key, _ in model.named_modules() if re.search(r"\.\d+$", key)})
        for entry in [value] if isinstance(value, str) else value:
            if not entry or not _matches(rf"(?:^|.*\.){entry}$", lists, re.match):
                names = sorted({name.rpartition(".")[2] for name in lists})
                yield f"no list of blocks is called {entry!r}{did_you_mean(entry, names)}; there are {listed(names)}"


@dataclass(frozen=True)
class BlockRanges(NamesInModel):
    """Ranges of the model's blocks, each from its first to before its last."""

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """What is wrong with each range."""
        numbers = [int(number) for key, _ in model.named_modules() if (number := _block(key)) is not None]
        count = max(numbers, default=-1) + 1
        if not value:
            yield "names no block; leave it out"
        for start, end in value:
            if not 0 <= start < end <= count:
                yield f"[{start}, {end}] is no range of blocks; the model has {count}, so that [0, {count}] is all"


@dataclass(frozen=True)
class TokenIds(NamesInModel):
    """Ids of tokens, or a table of them by the name of the embedding.

    Attributes:
        repeated: whether an id may come twice, as in a text.
    """

    repeated: bool = False

    def unmatched(self, value: Any, model: nn.Module) -> Iterator[str]:
        """What is wrong with each id."""
        either: Any = model
        if not value:
            yield NONE_NAMED
        elif isinstance(value, Mapping):
            modules = {key: module for key, module in model.named_modules(remove_duplicate=False) if key}
            for name, ids in value.items():
                named = [m for key, m in modules.items() if name and key.endswith(name) and _rows(m)]
                if not named:
                    yield f"no embedding is called {name!r}{_there(name, modules, guess=True)}"
                else:
                    yield from self._beyond(ids, _rows(named[0]))
        else:
            yield from self._beyond(value, _rows(either.get_input_embeddings()))

    def _beyond(self, ids: Sequence[int], rows: int) -> Iterator[str]:
        if not ids:
            yield NONE_NAMED
        if not self.repeated:
            yield from _twice(ids)
        if wrong := [number for number in ids if not 0 <= number < rows]:
            yield f"{wrong[0]} is no id of a token; the model's embedding has the ids 0 to {rows - 1}"


KNOWN: Mapping[str, NamesInModel] = {
    **dict.fromkeys(("target_modules", "exclude_modules", "feedforward_modules"), ModuleNames()),
    "modules_to_save": ModuleNames(ending=True),
    "layers_to_transform": BlockNumbers(),
    "layers_pattern": BlockLists(),
    "layer_replication": BlockRanges(),
    "target_parameters": ParameterNames(),
    **dict.fromkeys(("token_indices", "trainable_token_indices"), TokenIds()),
    "cpt_token_ids": TokenIds(repeated=True),
}
"""What options are known to name by what they are called in peft: a method need not mark these."""


def naming_options(component: type[BaseModel]) -> dict[str, NamesInModel]:
    """The options of a component that name parts of a model, with what they name.

    An option says so by a marker in its type; those of the names that peft uses need none.
    """
    options: dict[str, NamesInModel] = {}
    for name, field in component.model_fields.items():
        marked = [each for each in field.metadata if isinstance(each, NamesInModel)]
        if marked:
            options[name] = marked[0]
        elif name in KNOWN:
            options[name] = KNOWN[name]
        elif name.endswith("_pattern") and "dict" in str(field.annotation):
            options[name] = ModulePatterns()
    return options


def check_names(component: BaseModel, model: nn.Module, path: str = "method") -> None:
    """Refuses options whose entries match nothing in the model.

    Args:
        component: a method with its options; those of methods inside it are checked too.
        model: the model, before the method is applied to it.
        path: where the options stand in a recipe.

    Raises:
        InputError: an entry matches nothing; the message names option, entry, and what there is.
    """
    if problems := list(_problems(component, model, path)):
        raise InputError("\n".join(problems))


def _problems(component: BaseModel, model: nn.Module, path: str) -> Iterator[str]:
    for name, marker in naming_options(type(component)).items():
        value = getattr(component, name)
        if value is not None:
            yield from (f"{path}.{name}: {text}" for text in marker.unmatched(value, model))
    for name, value in component:
        if isinstance(value, BaseModel):
            yield from _problems(value, model, f"{path}.{name}")
        elif isinstance(value, tuple):
            for number, each in enumerate(value):
                if isinstance(each, BaseModel):
                    yield from _problems(each, model, f"{path}.{name}[{number}]")


def is_named(key: str, entry: str, *, ending: bool = False) -> bool:
    """Whether an entry means a module or parameter, by its whole name or the last parts of it."""
    return bool(entry) and (key == entry or key.endswith(entry if ending else f".{entry}"))


def changed_options(component: BaseModel) -> str:
    """Write the options that are not as by default as text; empty where all are."""
    fields = type(component).model_fields
    values = {name: value for name, value in component if name != "name"}
    return ", ".join(
        f"{name} = {_short(value)}"
        for name, value in values.items()
        if value != fields[name].get_default(call_default_factory=True)
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _matches(pattern: str, names: Iterable[str], match: Callable[[str, str], Any]) -> list[str]:
    try:
        return [name for name in names if match(pattern, name)]
    except re.error:
        return []


def _block(key: str) -> str | None:
    """The number of the block that a module lies in, by peft's rule: the first number in its name."""
    match = re.match(r"(?:.*?\.)??[^.]*\.(\d+)(?:\.|$)", key)
    return match[1] if match else None


def _rows(module: Any) -> int:
    weight = getattr(module, "weight", None)
    return int(weight.shape[0]) if weight is not None and weight.ndim == 2 else 0


def _twice(entries: Collection[Any]) -> Iterator[str]:
    seen: set[Any] = set()
    for entry in entries:
        if entry in seen:
            yield f"{entry!r} is named twice"
        seen.add(entry)


def _there(entry: str, names: Iterable[str], *, guess: bool = False) -> str:
    leaves = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()})
    near = did_you_mean(entry.rpartition(".")[2], leaves) if guess else ""
    return f"{near}; there are {_some(leaves)}" if guess else f"modules are {_some(leaves)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return listed(names[:SHOWN]) + more
