from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from peftkit.recipe import optimizer_names
from peftkit.recipe.optimizer_names import optimizer_arguments, torch_optimizers, validate_optimizer_name


def test_torch_optimizers_are_the_classes_of_torch() -> None:
    classes = {name for name, value in vars(torch.optim).items() if isinstance(value, type)} - {"Optimizer"}
    assert set(torch_optimizers()) == classes


@pytest.mark.parametrize("name", ["adafactor", "adamw", "AdamW", "sgd", "RMSprop"])
def test_optimizer_names_ignore_case(name: str) -> None:
    assert validate_optimizer_name(name) == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("adam w", "no optimizer is called 'adam w'; available: adafactor, adamw, ASGD, "),
        ("adagard", "(did you mean 'Adagrad'?)"),
        ("sparseadam", "takes sparse gradients only"),
        ("Optimizer", "no optimizer is called 'Optimizer'"),
        ("", "no optimizer is called ''"),
    ],
)
def test_unknown_optimizers_are_reported(name: str, words: str) -> None:
    assert words in validate_optimizer_name(name)


@pytest.mark.parametrize("source", [None, "not Python"])
def test_without_torchs_source_any_optimizer_is_valid(
    source: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "optim").mkdir()
    if source is not None:
        (tmp_path / "optim/__init__.py").write_text(source, encoding="utf-8")
    read = torch_optimizers.__wrapped__
    monkeypatch.setattr(
        optimizer_names, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    )
    monkeypatch.setattr(optimizer_names, "torch_optimizers", read)
    assert read() == ()
    assert validate_optimizer_name("any") == ""
    for spec in (None, SimpleNamespace(submodule_search_locations=None)):
        monkeypatch.setattr(optimizer_names, "find_spec", lambda name, spec=spec: spec)
        assert read() == ()


@pytest.mark.parametrize("name", [name for name in torch_optimizers() if name != "Adafactor"])
def test_optimizer_arguments_are_those_of_the_class(name: str) -> None:
    assert list(optimizer_arguments(name)) == list(inspect.signature(getattr(torch.optim, name)).parameters)


def test_argument_types_come_from_annotations_or_defaults() -> None:
    adamw, adafactor = optimizer_arguments("AdamW"), optimizer_arguments("adafactor")
    assert (adamw["betas"], adamw["eps"], adamw["amsgrad"]) == (tuple[float, float], float, bool)
    assert adamw["fused"] == bool | None
    assert (adafactor["eps"], adafactor["decay_rate"], adafactor["beta1"]) == (tuple[float, float], float, Any)
    assert optimizer_arguments("Muon")["ns_steps"] is int


@pytest.mark.parametrize(
    "source",
    [None, "not Python", "class Adafactor:\n    pass\n", "def __init__(self, lr): ...\n"],
    ids=["missing", "broken", "without a constructor", "without the class"],
)
def test_unreadable_arguments_are_unknown(source: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if source is not None:
        (tmp_path / "optimization.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(optimizer_names.SourceLibrary, "folder", tmp_path)
    assert optimizer_arguments.__wrapped__("adafactor") == {}


def test_annotations_of_older_torch_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constructor = "def __init__(self, params, betas: Tuple[Union[float, Tensor], float] = (0.9, 1.0), *, x=Y): ..."
    (tmp_path / "optimization.py").write_text(f"class Adafactor:\n    {constructor}\n", encoding="utf-8")
    monkeypatch.setattr(optimizer_names.SourceLibrary, "folder", tmp_path)
    assert optimizer_arguments.__wrapped__("adafactor") == {"params": Any, "betas": tuple[float, float], "x": Any}
