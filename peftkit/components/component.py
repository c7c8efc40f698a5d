"""The base class of all components: a frozen pydantic model whose fields are its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, ForwardRef

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from peftkit.components.options.repeated_entries import MISSING, repeated_entry
from peftkit.components.types import Incompatibility, RunSpec

if TYPE_CHECKING:
    from peftkit.components.preset import Preset


class Component(BaseModel):
    """Base class of methods, tasks, metrics, meters and callbacks.

    A component is named by a table of a recipe. Its fields are the options of that table; the docstring below a field
    describes the option.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        populate_by_name=True,
        protected_namespaces=(),  # an option named like a method is rejected at registration, not the plugin at import
        defer_build=True,  # a recipe uses only a few of about a hundred components
    )

    name: str

    overridable: ClassVar[bool] = False
    """Whether a plugin may replace this built-in component by one of the same name."""
    incompatibilities: ClassVar[tuple[Incompatibility, ...]] = ()
    """Combinations that the recipe check rejects."""
    repeatable_options: ClassVar[frozenset[str]] = frozenset()
    """Lists whose entries may be repeated because they are a sequence, such as the tokens of a text."""

    @field_validator("*")
    @classmethod
    def _check_repeated_entries(cls, value: Any, info: ValidationInfo) -> Any:
        option = str(info.field_name)
        if option not in cls.repeatable_options:
            entry = repeated_entry(value, cls.model_fields[option].annotation)
            if entry is not MISSING:
                raise ValueError(f"{entry!r} occurs twice; keep one")
        return value

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        annotations = vars(cls).get("__annotations__", {})
        # Evaluated already: pydantic evaluates the annotations of all base classes again for each subclass.
        for name in cls.__class_vars__ & annotations.keys():
            annotations[name] = ClassVar
        for name in cls.__pydantic_fields__.keys() & annotations.keys():
            option = cls.__pydantic_fields__[name]
            if isinstance(annotations[name], str) and not isinstance(option.annotation, ForwardRef | str):
                rules = option.metadata
                annotations[name] = Annotated[(option.annotation, *rules)] if rules else option.annotation

    @classmethod
    def class_for(cls, options: Mapping[str, Any]) -> type[Component]:
        """Return the class of a component with these options; by default the class itself.

        A component whose defaults depend on an option, such as the subset of a benchmark, has a class for each of its
        values.

        Args:
            options: The table of the recipe, which may be invalid.
        """
        return cls

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return the reasons why the component cannot be used in a recipe.

        The default evaluates ``incompatibilities``. Override it for reasons that depend on the options.

        Args:
            spec: The settings of the recipe and the model's config.

        Returns:
            One message per reason, with the remedy; empty if the component can be used.
        """
        return [str(conflict) for conflict in self.incompatibilities if conflict.applies(spec)]


class StatefulComponent(Component):
    """A component with state during a run, which is kept in pydantic private attributes."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, by default all private attributes.

        It is saved with each checkpoint, by the main process.

        Returns:
            JSON-serializable values by name.
        """
        return dict(self.__pydantic_private__ or {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that ``state_dict`` returned.

        Args:
            state: Values by name, as from ``state_dict``.
        """
        for key, value in state.items():
            setattr(self, key, value)


@dataclass(frozen=True, eq=False)
class LazyComponent:
    """Builds the class of a built-in component once, when it is used: a command uses a few of some sixty methods.

    Attributes:
        name: The component's name.
        summary: The first paragraph of the class's docstring.
        build: Builds the class.
        preset: The preset that the class stands for, if any.
    """

    name: str
    summary: str
    build: Callable[[], type[Component]]
    preset: Preset | None = None

    @cached_property
    def component(self) -> type[Component]:
        """The class."""
        return self.build()
