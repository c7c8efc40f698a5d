"""Classes that are rejected when a plugin registers them: for every member of the base classes."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, create_model

from peftkit import Callback, Meter, Method, Metric, Objective, Task
from peftkit.components import Component
from peftkit.errors import PluginError
from peftkit.methods.peft_base import PeftMethod
from peftkit.methods.peft_factory import method_class
from peftkit.methods.peft_schema import configurations
from peftkit.plugins import BASE_CLASSES, load_registry
from peftkit.plugins.class_checks import check_class, check_options, component_name
from tests.plugins.conftest import Install, component, methods, names, registry

if TYPE_CHECKING:
    from decimal import Decimal


class Apply(Method):
    """A complete method."""

    name: Literal["complete"] = "complete"

    def apply(self, model: Any, context: Any) -> Any:
        return model


class Data(Task):
    """A complete task."""

    name: Literal["complete"] = "complete"
    kind = "generation"
    metrics = ()
    selection_metric = "loss"

    def load(self) -> Any:
        return {}

    def to_example(self, row: Any) -> Any:
        return row


class Predict(Objective):
    """A complete objective."""

    name: Literal["complete"] = "complete"
    task_kind = "generation"
    families = ("decoder",)

    def tokenize(self, examples: Any, context: Any, *, training: bool) -> Any:
        return []

    def predict(self, model: Any, rows: Any, examples: Any, context: Any, *, has_targets: bool) -> Any:
        return []


class Score(Metric):
    """A complete metric."""

    name: Literal["complete"] = "complete"

    def compute(self, predictions: Any, references: Any, examples: Any) -> dict[str, float]:
        return {"complete": 1.0}


class Cost(Meter):
    """A complete meter."""

    name: Literal["complete"] = "complete"

    def totals(self) -> dict[str, float]:
        return {}


class Watch(Callback):
    """A complete callback."""

    name: Literal["complete"] = "complete"


COMPLETE: dict[str, type[Component]] = {
    "method": Apply,
    "task": Data,
    "objective": Predict,
    "metric": Score,
    "meter": Cost,
    "callback": Watch,
}


def members(base: type[Component]) -> list[tuple[str, str]]:
    """Public members of a base class by kind, from Python's own view of the class."""
    listed = []
    for name in dir(base):
        if not name.startswith(("_", "model_")):
            value = next(vars(owner)[name] for owner in base.__mro__ if name in vars(owner))
            kind = "property" if isinstance(value, property) else "method" if callable(value) else "class attribute"
            listed.append((name, "method" if isinstance(value, classmethod) else kind))
    return listed


MEMBERS = [(kind, *member) for kind, base in COMPLETE.items() for member in members(base)]


def make(base: type[Component], annotations: dict[str, Any] | None = None, **namespace: Any) -> type[Component]:
    body = {"__module__": __name__, "__annotations__": annotations or {}, **namespace}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of pydantic, that a field shadows an attribute
        return types.new_class("Mine", (base,), exec_body=lambda values: values.update(body))


def test_the_generated_members_are_those_of_the_base_classes() -> None:
    assert COMPLETE.keys() == BASE_CLASSES.keys()
    assert {
        ("method", "lr_multiplier", "method"),
        ("method", "search_space", "class attribute"),
        ("task", "labels", "property"),
        ("task", "copy", "method"),
        ("objective", "ranks", "class attribute"),
        ("objective", "loss", "method"),
        ("metric", "kinds", "class attribute"),
        ("meter", "state_dict", "method"),
    } <= set(MEMBERS)


@pytest.mark.parametrize("name", sorted({n for n in dir(BaseModel) if n[0] != "_"} - {"model_config"}))
def test_an_option_with_the_name_of_a_member_of_pydantic_is_rejected(name: str) -> None:
    with pytest.raises(PluginError, match=rf"the option '{name}' has the name of a [a-z ]+ of pydantic.BaseModel; "):
        check_class("d:p: Mine", make(COMPLETE["method"], {name: float}, **{name: 0.5}))


@pytest.mark.parametrize("kind", BASE_CLASSES)
@pytest.mark.parametrize("name", ["incompatible_with", "on_evaluate", "state_dict", "incompatibilities"])
def test_errors_name_the_public_base_class(kind: str, name: str) -> None:
    base = BASE_CLASSES[kind]
    if hasattr(base, name):
        with pytest.raises(PluginError, match=rf" of peftkit\.{base.__name__}; "):
            check_class("d:p: Mine", make(COMPLETE[kind], {name: float}, **{name: 0.5}))


@pytest.mark.parametrize(("kind", "name", "member"), MEMBERS)
@pytest.mark.parametrize("default", [True, False], ids=["default", "required"])
def test_an_option_with_the_name_of_a_member_is_rejected(kind: str, name: str, member: str, default: bool) -> None:
    options: dict[str, Any] = {name: 0.5} if default else {}
    with pytest.raises(PluginError) as caught:
        check_class("d:p: Mine", make(COMPLETE[kind], {name: float}, **options))
    text = str(caught.value)
    assert text.startswith("d:p: Mine")
    assert repr(name) in text or f" {name}" in text
    assert "; " in text or ": " in text.removeprefix("d:p: ")


@pytest.mark.parametrize(("kind", "name", "member"), [m for m in MEMBERS if m[2] == "method"])
def test_a_value_or_property_in_place_of_a_method_is_rejected(kind: str, name: str, member: str) -> None:
    for types_, value in ({name: ClassVar[Any]}, 3), ({}, property(lambda self: 3)):
        with pytest.raises(PluginError, match=f"'{name}' has the name of a method of "):
            check_class("d:p: Mine", make(COMPLETE[kind], types_, **{name: value}))


@pytest.mark.parametrize(("kind", "name", "member"), [m for m in MEMBERS if m[2] != "method"])
def test_a_method_in_place_of_a_value_is_rejected(kind: str, name: str, member: str) -> None:
    with pytest.raises(PluginError, match=rf"(put @property|assign a value|not an option\) {name}:)"):
        check_class("d:p: Mine", make(COMPLETE[kind], **{name: lambda self: 3}))


@pytest.mark.parametrize(
    ("kind", "name"), [(m[0], m[1]) for m in MEMBERS if m[2] == "method" and hasattr(BASE_CLASSES[m[0]], m[1])]
)
def test_a_method_without_the_arguments_of_its_base_is_rejected(kind: str, name: str) -> None:
    base = BASE_CLASSES[kind]  # type: ignore[index]
    replaced = next(vars(owner)[name] for owner in base.__mro__ if name in vars(owner))
    if not base.__module__.startswith("peftkit") or not isinstance(replaced, types.FunctionType):
        return
    accepted = make(COMPLETE[kind], **{name: lambda self, *args, **options: None})
    check_class("d:p: Mine", accepted)
    with pytest.raises(PluginError, match=rf"^d:p: Mine must define {name}\(self.*\), not .*\(\)$"):
        check_class("d:p: Mine", make(COMPLETE[kind], **{name: lambda: None}))


class Base(Apply):
    """Has a method of each form."""

    def positional(self, model: Any, factor: float = 1.0) -> Any: ...

    def keywords(self, *, size: int, shape: str = "") -> Any: ...

    @classmethod
    def of_class(cls, model: Any, *, strict: bool = False) -> Any: ...

    @staticmethod
    def static(model: Any) -> Any: ...


OVERRIDES: dict[str, tuple[str, Any, bool]] = {
    "same": ("keywords", lambda self, *, size, shape="": 0, True),
    "any keywords": ("keywords", lambda self, **options: 0, True),
    "keywords as positional": ("keywords", lambda self, size, shape="": 0, True),
    "further optional": ("keywords", lambda self, *, size, shape="", extra=0: 0, True),
    "one missing": ("keywords", lambda self, *, size: 0, False),
    "all missing": ("keywords", lambda self: 0, False),
    "renamed": ("keywords", lambda self, *, length, shape="": 0, False),
    "further required": ("keywords", lambda self, *, size, extra, shape="": 0, False),
    "required instead of optional": ("keywords", lambda self, *, size, shape: 0, False),
    "keyword instead of positional": ("positional", lambda self, *, model, factor=1.0: 0, False),
    "required instead of default": ("positional", lambda self, model, factor: 0, False),
    "keyword required": ("positional", lambda self, model, factor=1.0, *, extra: 0, False),
    "of the class": ("of_class", classmethod(lambda cls, model, *, strict=False: 0), True),
    "of the class, static": ("of_class", staticmethod(lambda model, *, strict=False: 0), True),
    "of the class, missing": ("of_class", classmethod(lambda cls, model: 0), False),
    "of the object": ("of_class", lambda self, model, *, strict=False: 0, False),
    "static": ("static", staticmethod(lambda model: 0), True),
    "static with self": ("static", staticmethod(lambda self, model: 0), False),
    "not static": ("static", lambda self, model: 0, False),
    "of the class instead of the object": ("positional", classmethod(lambda cls, model, factor=1.0: 0), True),
    "static instead of the object": ("positional", staticmethod(lambda model, factor=1.0: 0), True),
    "static with self instead of the object": ("positional", staticmethod(lambda self, model, factor: 0), False),
}


@pytest.mark.parametrize(("name", "override", "is_valid"), OVERRIDES.values(), ids=OVERRIDES)
def test_an_override_can_be_called_like_the_method_that_it_replaces(name: str, override: Any, is_valid: bool) -> None:
    component = make(Base, **{name: override})
    if is_valid:
        check_class("d:p: Mine", component)
        return
    with pytest.raises(PluginError, match=rf"^d:p: Mine must define (@\w+ )?{name}\(.*\), not "):
        check_class("d:p: Mine", component)


def test_the_message_of_a_missing_keyword_has_both_signatures() -> None:
    with pytest.raises(PluginError) as caught:
        check_class("d:p: Mine", make(Data, find_data_problems=lambda self: []))
    assert str(caught.value) == (
        "d:p: Mine must define find_data_problems(self, *, download=False), not <lambda>(self)"
    )


def test_every_registered_class_rejects_an_option_with_the_name_of_a_member() -> None:
    for entry in load_registry("").entries:
        check_class(entry.name, entry.component)
        check_options(entry.name, entry.component)
        of_base = {name for name, _ in members(BASE_CLASSES[entry.kind])}  # which the tests above have
        names = [name for name, _ in members(entry.component)]
        for name in (names[0], *(name for name in names if name not in of_base)):
            with pytest.raises(PluginError, match=name):
                check_class("d:p: Mine", make(entry.component, {name: float}, **{name: 0.5}))


def test_an_option_that_was_a_method_names_class_option_and_remedy() -> None:
    with pytest.raises(PluginError) as caught:
        check_class("d:p: Mine", make(Apply, {"lr_multiplier": float}, lr_multiplier=0.5))
    assert str(caught.value) == (
        "d:p: Mine: the option 'lr_multiplier' has the name of a method of peftkit.Method; rename the option; "
        "Field(alias='lr_multiplier') keeps its key in recipes"
    )


class Renamed(Apply):
    """Follows the remedy."""

    factor: float = Field(default=0.5, alias="lr_multiplier")
    """A factor."""


class FixedLabels(Data):
    """Gives a property its value, and overrides an option with a constant."""

    labels: ClassVar[Any] = ("a", "b")


class Counting(Cost):
    """Has private state, a validator's name and a cached value."""

    _count: int = PrivateAttr(default=0)


class Mixin:
    """Is not a component."""

    def lr_multiplier(self, parameter: str) -> float:
        return 0.5


class Mixed(Mixin, Apply):
    """Overrides a method with one of a mixin."""


class Flexible(Apply):
    """Takes more than it must."""

    def apply(self, model: Any, context: Any, extra: int = 0) -> Any:
        return model


class Renaming(Apply):
    """Gives arguments other names."""

    def apply(self, base: Any, run: Any) -> Any:
        return base


class Configured(Apply):
    """Changes pydantic's configuration."""

    model_config = ConfigDict(use_attribute_docstrings=False)


@pytest.mark.parametrize("component", [Renamed, FixedLabels, Counting, Mixed, Flexible, Renaming, Configured])
def test_a_valid_class_passes(component: type[Component]) -> None:
    check_class("x", component)
    check_options("x", component)


def test_an_option_keeps_its_recipe_key_by_an_alias() -> None:
    method = Renamed.model_validate({"lr_multiplier": 2.0})
    assert method.factor == 2.0
    assert method.lr_multiplier("weight") == 1.0


class ByMixin:
    """Hides a method by a value."""

    lr_multiplier = 0.5


class Forgetful(Task):
    """Defines only half of a task."""

    name: Literal["forgetful"] = "forgetful"
    kind = "generation"
    metrics = ()
    selection_metric = "loss"

    def load(self) -> Any:
        return {}


class Private(Score):
    """Has state with the name of a private method."""

    _compute: int = 0


class Computed(Renamed):
    """Has a property with the name of an option."""

    @property
    def factor(self) -> float:  # type: ignore[override]
        return 1.0


class Defined(Renamed):
    """Has a method with the name of an option."""

    def factor(self) -> float:  # type: ignore[override]
        return 1.0


class Needy(Cost):
    """Cannot be created without options."""

    interval: int
    """Seconds."""


class Choosy(Predict):
    """Cannot be created without options."""

    weight: float
    """A weight."""


@pytest.mark.parametrize(
    ("component", "words"),
    [
        (lambda: type("Mine", (ByMixin, Apply), {"__module__": __name__}), "'lr_multiplier' has the name of a method"),
        (lambda: Forgetful, r"must define to_example\(self, row\)$"),
        (lambda: Private, "the private attribute '_compute' has the name of a method of peftkit.Metric; rename it"),
        (lambda: Computed, "the property 'factor' has the name of an option of Renamed; rename it"),
        (lambda: Defined, "the method 'factor' has the name of an option of Renamed; rename it"),
        (lambda: Needy, "the option 'interval' needs a default, because every installed meter measures every run"),
        (lambda: Choosy, "the option 'weight' needs a default, because recipes need not name an objective"),
        (
            lambda: make(Objective, {"name": Literal["a"]}, name="a", task_kind="ages", families=("encoder",)),
            r"must define predict\(self, model, rows, examples, context, \*",
        ),
        (lambda: make(Method, {"name": Literal["a"]}, name="a"), r"must define apply\(self, model, context\)"),
        (lambda: make(Metric, {"name": Literal["a"]}, name="a"), r"must define compute\(self, predictions, "),
    ],
)
def test_an_invalid_class_is_rejected(component: Callable[[], type[Component]], words: str) -> None:
    with pytest.raises(PluginError, match=f"^d:p: Mine.*{words}"):
        check_class("d:p: Mine", component())


@pytest.mark.parametrize(("annotation", "default"), [(Literal["a"], "b"), (str, "a"), (Literal["a", "b"], "a")])
def test_a_name_that_is_not_its_literal_is_rejected(annotation: Any, default: str) -> None:
    with pytest.raises(PluginError, match="must declare its name as"):
        component_name("d:p: Mine", make(Method, {"name": annotation}, name=default))


@pytest.mark.parametrize(
    ("annotation", "default", "words"),
    [
        (int, "eight", "Input should be a valid integer"),
        (int, "8", "valid integer"),
        (int, None, "valid integer"),
        (tuple[str, ...], "query", "valid tuple"),
        (Literal["a", "b"], "c", "Input should be 'a' or 'b'"),
        (int, Field(default=0, gt=0), "greater than 0"),
        (float, Field(default=float("nan"), allow_inf_nan=False), "finite"),
        (int, 8, ""),
        (float, 1, ""),
        (int | None, None, ""),
        (Path, Path("x"), ""),
        (list[int], Field(default_factory=list), ""),
        (tuple[str, ...], ("q", "v"), ""),
    ],
)
def test_defaults_of_the_wrong_type_are_rejected(annotation: Any, default: Any, words: str) -> None:
    component = create_model("Mine", __base__=Apply, option=(annotation, default))
    if not words:
        check_options("d:p: Mine", component)
        return
    with pytest.raises(PluginError, match=f"^d:p: Mine: the default .* of the option 'option': .*{words}"):
        check_options("d:p: Mine", component)


class Unresolved(Apply):
    """Has an option whose type is imported for type checkers only."""

    rate: Decimal | None = None
    """A rate."""


def test_a_type_that_does_not_exist_at_run_time_is_rejected() -> None:
    with pytest.raises(
        PluginError, match=r"^d:p: Mine: .*Decimal.*; import the types of options outside of TYPE_CHECK"
    ):
        check_options("d:p: Mine", Unresolved)


def test_an_option_of_a_later_peft_does_not_replace_a_method() -> None:
    from dataclasses import replace

    lora = configurations()["lora"]
    option = replace(next(o for o in lora.options if o.name == "lora_dropout"), name="merge")
    method = method_class(replace(lora, options=(*lora.options, option)))
    assert "merge" not in method.model_fields
    assert method.merge is PeftMethod.merge


@pytest.mark.parametrize(
    ("option", "error"),
    [
        (
            "model_config: float = 1.0",
            "an option must not have the name 'model_config', which pydantic uses; rename it",
        ),
        ("_size: float = Field(1.0)", "Fields must not use names with leading underscores; e.g., use 'size' instead"),
    ],
)
def test_an_option_that_pydantic_rejects_is_an_error_that_names_the_class(
    option: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"rejected_option{abs(hash(option))}"
    text = f"from pydantic import Field\nfrom peftkit import Method\nclass Mine(Method):\n    {option}\n"
    (tmp_path / f"{module}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    (failure,) = registry(EntryPoint("x", module, "peftkit")).failures
    assert failure.error.startswith(f"Mine: {error}")


def test_an_option_like_a_method_of_pydantic_leaves_the_other_components(install: Install) -> None:
    bad = create_model("Bad", __base__=component("bad"), model_dump=(float, 1.0))
    loaded = registry(install("d", register_methods=methods(component("good"), bad)))
    assert names(loaded) == ["method good"]
    assert "Bad: the option 'model_dump' has the name of a method of pydantic.BaseModel; rename" in str(
        loaded.failures[0]
    )
