"""The built-in meters."""

from __future__ import annotations

from peftkit.components import Meter
from peftkit.hookspecs import hookimpl
from peftkit.meters.macs import Macs
from peftkit.meters.memory import PeakMemory
from peftkit.meters.parameters import ParameterCount
from peftkit.meters.tokens import Tokens
from peftkit.meters.train_time import TrainTime


@hookimpl
def register_meters() -> list[type[Meter]]:
    """Register the built-in meters."""
    return [TrainTime, Macs, PeakMemory, ParameterCount, Tokens]
