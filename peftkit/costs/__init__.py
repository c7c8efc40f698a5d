"""The built-in meters."""

from __future__ import annotations

from peftkit.components import Meter
from peftkit.costs.clock import Clock
from peftkit.costs.memory import PeakMemory
from peftkit.costs.size import Size
from peftkit.costs.tokens import Tokens
from peftkit.costs.work import Macs
from peftkit.hookspecs import hookimpl


@hookimpl
def register_meters() -> list[type[Meter]]:
    """The meters that come with peftkit."""
    return [Clock, Macs, PeakMemory, Size, Tokens]
