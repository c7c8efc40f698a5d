"""Lists and descriptions of components in Python."""

from __future__ import annotations

import pytest

import peftkit
from peftkit.errors import InputError
from peftkit.plugins import load_registry


def test_lists_are_sequences_of_names_and_show_summaries() -> None:
    methods = peftkit.list_methods()
    assert [*methods] == [*load_registry().all("method")]
    assert "lora" in methods
    assert [*methods[:2]] == [methods[0], methods[1]]
    assert repr(methods).splitlines()[0].split() == ["name", "distribution", "summary"]
    assert methods.table["name"].tolist() == [*methods]
    assert "<td>lora</td>" in methods._repr_html_()
    assert "wordnet_topic" in peftkit.list_tasks()
    assert [*peftkit.list_objectives()] == [*load_registry().all("objective")]
    assert "label_ranking" in peftkit.list_objectives()
    assert "accuracy" in peftkit.list_metrics()


def test_a_description_lists_the_options() -> None:
    lora = peftkit.describe("lora")
    assert repr(lora).startswith("lora (method, from peftkit ")
    options = lora.options.set_index("name")
    assert options.loc["r", "type"] == "a whole number, above 0"
    assert "<td>lora_alpha or alpha</td>" in lora._repr_html_()
    assert lora.document["search_space"]


def test_unknown_names_and_kinds() -> None:
    with pytest.raises(InputError, match=r"no component is called 'lorra' \(did you mean 'lora'\?\)"):
        peftkit.describe("lorra")
    assert peftkit.describe("lora", "method").document["kind"] == "method"
    with pytest.raises(InputError, match="'lora' is the name of a method; set kind to one of them"):
        peftkit.describe("lora", "task")
