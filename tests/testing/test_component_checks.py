"""Checks of components detect faulty meters and classes that are not registered."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pytest
from pydantic import PrivateAttr

from peftkit import Meter, StepStats
from peftkit.meters.tokens import Tokens
from peftkit.plugins import load_registry
from peftkit.testing import check_meter, check_registered

METERS = {name: entry.component for name, entry in load_registry().all("meter").items()}


@pytest.mark.parametrize("name", METERS)
def test_every_registered_meter_passes(name: str) -> None:
    meter = METERS[name].model_validate({})
    assert isinstance(meter, Meter)
    check_meter(meter)
    check_registered(METERS[name])


class Counts(Meter):
    """Counts steps; subclasses add one fault each."""

    name: Literal["counts"] = "counts"
    budgets: ClassVar[tuple[str, ...]] = ("counts",)
    _count: Any = 0

    def update(self, record: StepStats) -> None:
        self._count += 1

    def totals(self) -> dict[str, float]:
        return {"counts": float(self._count)}


class Unnamed(Counts):
    """Has a budget that is no total."""

    budgets: ClassVar[tuple[str, ...]] = ("count",)


class Falls(Counts):
    """Has a budget that falls."""

    def totals(self) -> dict[str, float]:
        return {"counts": 10.0 - self._count}


class Unfinished(Counts):
    """Has a total that is not finite."""

    def totals(self) -> dict[str, float]:
        return {"counts": float("inf")}


class Forgets(Counts):
    """Loses its state."""

    def state_dict(self) -> dict[str, Any]:
        return {}


class Unwritable(Counts):
    """Has state that JSON cannot hold."""

    _seen: set[int] = PrivateAttr(default_factory=lambda: {1})


class Shared(Counts):
    """Keeps state in the class."""

    steps: ClassVar[list[int]] = []

    def update(self, record: StepStats) -> None:
        self.steps.append(1)

    def totals(self) -> dict[str, float]:
        return {"counts": float(len(self.steps))}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": len(self.steps)}

    def load_state_dict(self, state: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("meter", "words"),
    [
        (Unnamed, r"budgets names 'count', but totals returns \['counts'\]"),
        (Falls, "counts limits a budget, so it must not fall"),
        (Unfinished, "must be finite numbers"),
        (Forgets, r"a resumed meter has the totals {'counts': 0.0} instead of {'counts': 2.0}"),
        (Unwritable, "is not JSON: .*; override it"),
        (Shared, "meters share state"),
    ],
)
def test_faulty_meters_are_detected(meter: type[Meter], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_meter(meter())  # type: ignore[call-arg]


def test_a_correct_meter_passes() -> None:
    check_meter(Counts())


def test_a_class_that_is_not_registered_is_detected() -> None:
    with pytest.raises(AssertionError, match=r"no installed plugin registers the meter 'counts'; install it"):
        check_registered(Counts)

    class Other(Tokens):
        """Has the name of a built-in meter."""

    with pytest.raises(AssertionError, match="'tokens' is another class, of peftkit "):
        check_registered(Other)
