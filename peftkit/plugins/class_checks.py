"""Checks of component classes at registration, so that mistakes do not wait for a recipe or a training step."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partialmethod
from types import FunctionType
from typing import Annotated, Any, Literal, TypeAlias, TypeGuard, cast, get_args, get_origin

from pydantic import BaseModel, PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError

import peftkit
from peftkit.components.component import Component
from peftkit.components.meter import Meter
from peftkit.components.metric import Metric
from peftkit.components.objective import Objective
from peftkit.components.task import Task
from peftkit.components.types import ModelKind
from peftkit.errors import PluginError, comma_separated, summarize_error

NAME = re.compile(r"[a-z][a-z0-9_]*")
"""The form of the names of components and presets."""
Routine: TypeAlias = "FunctionType | classmethod[Any, Any, Any] | staticmethod[Any, Any]"
MemberKind = Literal["option", "method", "property", "class attribute", "private attribute"]
REMEDIES: Mapping[tuple[MemberKind, MemberKind], str] = {
    ("option", "method"): "rename the option; Field(alias={name!r}) keeps its key in recipes",
    ("option", "property"): "rename the option and return it from the property; Field(alias={name!r}) keeps its key",
    ("option", "class attribute"): "remove its type or declare it as ClassVar, or rename the option",
    ("method", "property"): "put @property above it",
    ("method", "class attribute"): "assign a value in the class body",
    ("property", "class attribute"): "assign a value in the class body",
    ("property", "method"): "remove @property, or rename it",
    ("class attribute", "method"): "define it with def, or rename it",
}
"""What to do if the first kind of member has the name of the second kind in a base class."""


def component_name(where: str, component: type[Component]) -> str:
    """Return the name that a class declares.

    Args:
        where: The plugin and the class, for error messages.
        component: The class.

    Returns:
        The name in recipes.

    Raises:
        PluginError: The name is missing, is not declared as a ``Literal``, or is not valid.
    """
    annotation = component.model_fields["name"].annotation
    name = component.model_fields["name"].default
    if get_origin(annotation) is not Literal or get_args(annotation) != (name,):
        raise PluginError(f'{where} must declare its name as: name: Literal["x"] = "x"')
    check_name(where, name)
    return str(name)


def check_name(where: str, name: object) -> None:
    """Check the form of a component's or preset's name.

    Args:
        where: The plugin and the class or preset, for error messages.
        name: The name.

    Raises:
        PluginError: The name is not valid.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise PluginError(f"{where} has the name {name!r}; names have lower-case letters, digits and underscores")


def check_class(where: str, component: type[Component]) -> None:
    """Check the members of a component class against those of its base classes.

    Args:
        where: The plugin and the class, for error messages.
        component: The class.

    Raises:
        PluginError: A class attribute is missing or invalid, a member has the name of another kind of member in a base
            class, a method has the wrong arguments, or one that must be defined is not.
    """
    _check_attributes(where, component)
    inherited: dict[str, tuple[MemberKind, type]] = {}
    for owner in reversed(component.__mro__):
        members = dict(_own_members(owner, inherited))
        if not owner.__module__.startswith(("peftkit.components.", "pydantic.")):
            for name, kind in members.items():
                if name in inherited:
                    _check_member(where, owner, name, kind, *inherited[name])
        inherited |= {name: (kind, owner) for name, kind in members.items()}
    for name, (_, owner) in sorted(inherited.items()):
        member = vars(owner).get(name)
        # Its body is only `raise NotImplementedError`.
        if isinstance(member, FunctionType) and member.__code__.co_names == ("NotImplementedError",):
            raise PluginError(f"{where} must define {_signature(member)}")
    required = [key for key, field in component.model_fields.items() if field.is_required()]
    always_used = {Meter: "every installed meter measures every run", Objective: "recipes need not name an objective"}
    for base, reason in always_used.items():
        if required and issubclass(component, base):
            raise PluginError(f"{where}: the option {required[0]!r} needs a default, because {reason}")


def check_options(where: str, component: type[Component]) -> None:
    """Check that pydantic can validate a component's options, and that their defaults are valid.

    Args:
        where: The plugin and the class, for error messages.
        component: The class.

    Raises:
        PluginError: A type does not exist at run time or is not supported by pydantic, or a default is invalid.
    """
    try:
        component.model_rebuild()
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        reason = str(error).partition("\n")[0]
        raise PluginError(f"{where}: {reason}; import the types of options outside of TYPE_CHECKING") from error
    for key, field in component.model_fields.items():
        if field.is_required() or field.default_factory:
            continue
        annotation: Any = field.annotation
        if field.metadata:
            annotation = Annotated[(annotation, *field.metadata)]
        try:
            TypeAdapter(annotation).validate_python(field.default, strict=True)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise PluginError(f"{where}: the default {field.default!r} of the option {key!r}: {message}") from error


def describe_class_error(error: BaseException) -> str:
    """Describe an error of pydantic while a module defined a class, which only the traceback names.

    Args:
        error: What the import raised.

    Returns:
        The class and what is wrong; empty for any other error.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name, members = frame.f_locals.get("cls_name"), frame.f_locals.get("namespace")
        if frame.f_globals.get("__name__", "").startswith("pydantic.") and name and isinstance(members, Mapping):
            if not isinstance(members.get("model_config", {}), Mapping):
                return f"{name}: an option must not have the name 'model_config', which pydantic uses; rename it"
            return f"{name}: {error.message if isinstance(error, PydanticUserError) else summarize_error(error)}"
    return ""


def _own_members(owner: type, inherited: Mapping[str, object]) -> Iterator[tuple[str, MemberKind]]:
    """Yield the members that a class defines, but not the options and private attributes that it redefines."""
    for name in getattr(owner, "__class_vars__", ()):
        if name not in inherited:  # declared without a value
            yield name, "class attribute"
    for name, value in vars(owner).items():
        if not name.startswith("__") and name not in ("model_config", "_abc_impl"):
            yield name, _kind(value)
    if issubclass(owner, BaseModel):
        bases = [base for base in owner.__mro__[1:] if issubclass(base, BaseModel)]
        options = {key for base in bases for key in base.model_fields}
        private = {key for base in bases for key in getattr(base, "__private_attributes__", ())}
        yield from ((key, "option") for key in owner.model_fields.keys() - options)
        # pydantic takes a property or method with the name of an inherited option for its default.
        redefined = {key: _kind(owner.model_fields[key].default) for key in owner.model_fields.keys() & options}
        yield from ((key, kind) for key, kind in redefined.items() if kind != "class attribute")
        yield from ((key, "private attribute") for key in {*getattr(owner, "__private_attributes__", ())} - private)


def _kind(value: Any) -> MemberKind:
    value = getattr(value, "wrapped", value)  # of pydantic's decorators
    if isinstance(value, property | cached_property):
        return "property"
    is_method = isinstance(value, FunctionType | classmethod | staticmethod | partialmethod)
    return "method" if is_method else "class attribute"


def _check_member(where: str, owner: type, name: str, kind: MemberKind, base_kind: MemberKind, base: type) -> None:
    """Check that a member may replace the one of a base class."""
    if kind == base_kind:
        member, replaced = vars(owner).get(name), vars(base).get(name)
        if _is_routine(member) and _is_routine(replaced) and not _accepts(member, replaced):
            raise PluginError(f"{where} must define {_signature(replaced)}, not {_signature(member)}")
        return
    # A class attribute may give a property its value, and fix an option, which recipes then no longer have.
    if kind == "class attribute" and base_kind in ("property", "option"):
        return
    article = "an" if base_kind == "option" else "a"
    remedy = REMEDIES.get((kind, base_kind), "rename it").format(name=name)
    owner_name = _public_name(base, owner)
    raise PluginError(f"{where}: the {kind} {name!r} has the name of {article} {base_kind} of {owner_name}; {remedy}")


def _public_name(base: type, owner: type) -> str:
    """Return the name under which authors know a base class of ``owner``: ``Component`` is a part of public classes."""
    if base is BaseModel:
        return "pydantic.BaseModel"
    if not base.__module__.startswith("peftkit."):
        return base.__name__
    public = [each.__name__ for each in owner.__mro__ if issubclass(each, base) and each.__name__ in peftkit.__all__]
    return f"peftkit.{(public or [base.__name__])[-1]}"


def _is_routine(member: object) -> TypeGuard[Routine]:
    return isinstance(member, FunctionType | classmethod | staticmethod)


def _accepts(member: Routine, replaced: Routine) -> bool:
    """Return whether a method can be called like the one that it replaces, with and without the optional arguments."""
    if isinstance(member, FunctionType) and not isinstance(replaced, FunctionType):
        return False  # it needs an object, and is called on the class
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.signature(_function(member))
    parameters = [*inspect.signature(_function(replaced)).parameters.values()][_num_bound(replaced) :]
    for arguments in (parameters, [p for p in parameters if p.default is inspect.Parameter.empty]):
        positional = [None for _ in range(_num_bound(member))] + [None for p in arguments if p.kind in kinds]
        try:
            signature.bind(*positional, **{p.name: None for p in arguments if p.kind is inspect.Parameter.KEYWORD_ONLY})
        except TypeError:
            return False
    return True


def _function(routine: Routine) -> FunctionType:
    return routine if isinstance(routine, FunctionType) else cast("FunctionType", routine.__func__)


def _num_bound(routine: Routine) -> int:
    """Return the number of arguments that are not passed: ``self`` or ``cls``."""
    return 0 if isinstance(routine, staticmethod) else 1


def _signature(method: Routine) -> str:
    """Format a method with its parameters, without types: ``load(self, *, download=False)``."""
    decorator = "" if isinstance(method, FunctionType) else f"@{type(method).__name__} "
    signature = inspect.signature(_function(method))
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    text = signature.replace(parameters=plain, return_annotation=inspect.Signature.empty)
    return f"{decorator}{_function(method).__name__}{text}"


def _check_attributes(where: str, component: type[Component]) -> None:
    """Check the class attributes, so that errors do not wait for a recipe that uses the class."""
    families = get_args(ModelKind)
    rules: list[tuple[str, str, Callable[[Any], bool]]] = []
    if issubclass(component, Task):
        rules += [
            ("kind", "the kind of task, such as classification", _is_kind),
            ("metrics", "a tuple of the names of metrics", _are_texts),
            ("selection_metric", "the name of a metric's value", lambda v: isinstance(v, str)),
        ]
    if issubclass(component, Metric):
        rules += [
            (
                "kinds",
                "a tuple of kinds of task, such as classification",
                lambda v: _are_texts(v) and all(map(_is_kind, v)),
            ),
            ("values", "a tuple of texts", _are_texts),
        ]
    if issubclass(component, Objective):
        rules += [
            ("task_kind", "the kind of task, such as regression", _is_kind),
            (
                "families",
                f"a tuple of {comma_separated(families)}",
                lambda v: _are_texts(v) and bool(v) and set(v) <= set(families),
            ),
            ("prediction_suffixes", 'a tuple of texts that starts with ""', lambda v: _are_texts(v) and v[:1] == ("",)),
        ]
    for attribute, form, is_valid in rules:
        value = getattr(component, attribute, None)
        if attribute in component.model_fields or not is_valid(value):
            raise PluginError(f"{where} must have the class attribute (not an option) {attribute}: {form}")


def _is_kind(value: Any) -> bool:
    """Return whether a value is a kind of task; a method or property is none."""
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(v, str) for v in value)
