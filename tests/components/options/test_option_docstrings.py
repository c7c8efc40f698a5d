"""Descriptions of options."""

from __future__ import annotations

from pydantic import BaseModel, Field, create_model

from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.plugins import load_registry


class Base(BaseModel):
    first: int = 0
    """The first,
    on two lines."""
    second: int = Field(default=0, description="Declared.")
    """Not this one."""
    third: int = 0

    def method(self) -> None:
        """Not a field."""


class Derived(Base):
    third: int = 1
    """Of the derived class."""


def test_docstrings_are_those_of_the_nearest_class() -> None:
    assert option_descriptions(Base) == {"first": "The first,\non two lines.", "second": "Declared.", "third": ""}
    assert option_descriptions(Derived)["third"] == "Of the derived class."
    assert option_descriptions(Derived)["first"] == option_descriptions(Base)["first"]


def test_a_class_without_source_has_those_of_its_bases() -> None:
    built = create_model("Built", __base__=Derived, fourth=(int, Field(default=0, description="Given.")))
    assert option_descriptions(built) == {**option_descriptions(Derived), "fourth": "Given."}


def test_every_option_of_every_component_has_one() -> None:
    for entry in load_registry("").entries:
        assert [key for key, text in option_descriptions(entry.component).items() if key != "name" and not text] == []
