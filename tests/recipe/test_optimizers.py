from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from peftkit.recipe import optimizers
from peftkit.recipe.optimizers import optimizer_arguments, torch_optimizers, validate_optimizer_name


def test_the_optimizers_are_those_of_torch() -> None:
    theirs = {name for name, found in vars(torch.optim).items() if isinstance(found, type)} - {"Optimizer"}
    assert set(torch_optimizers()) == theirs


@pytest.mark.parametrize("name", ["adafactor", "adamw", "AdamW", "sgd", "RMSprop"])
def test_an_optimizer_in_any_case(name: str) -> None:
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
def test_an_optimizer_that_cannot_be_had(name: str, words: str) -> None:
    assert words in validate_optimizer_name(name)


@pytest.mark.parametrize("source", [None, "not Python"])
def test_without_torchs_source_any_optimizer_may_be_meant(
    source: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "optim").mkdir()
    if source is not None:
        (tmp_path / "optim/__init__.py").write_text(source, encoding="utf-8")
    read = torch_optimizers.__wrapped__
    monkeypatch.setattr(
        optimizers, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    )
    monkeypatch.setattr(optimizers, "torch_optimizers", read)
    assert read() == ()
    assert validate_optimizer_name("any") == ""
    for spec in (None, SimpleNamespace(submodule_search_locations=None)):
        monkeypatch.setattr(optimizers, "find_spec", lambda name, spec=spec: spec)
        assert read() == ()


@pytest.mark.parametrize("name", [name for name in torch_optimizers() if name != "Adafactor"])
def test_the_arguments_are_those_of_the_class(name: str) -> None:
    assert list(optimizer_arguments(name)) == list(inspect.signature(getattr(torch.optim, name)).parameters)


def test_the_types_of_arguments_are_those_of_annotations_or_defaults() -> None:
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
def test_arguments_that_cannot_be_read_are_unknown(
    source: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source is not None:
        (tmp_path / "optimization.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(optimizers.SourceLibrary, "folder", tmp_path)
    assert optimizer_arguments.__wrapped__("adafactor") == {}


def test_annotations_of_older_torch_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constructor = "def __init__(self, params, betas: Tuple[Union[float, Tensor], float] = (0.9, 1.0), *, x=Y): ..."
    (tmp_path / "optimization.py").write_text(f"class Adafactor:\n    {constructor}\n", encoding="utf-8")
    monkeypatch.setattr(optimizers.SourceLibrary, "folder", tmp_path)
    assert optimizer_arguments.__wrapped__("adafactor") == {"params": Any, "betas": tuple[float, float], "x": Any}
