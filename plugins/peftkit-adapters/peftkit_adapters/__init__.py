"""Methods and presets of the adapters library (AdapterHub) for peftkit.

adapters is imported only when a method is applied, because it requires transformers 4.57 and listing methods must work
with any version. Options, types, defaults and descriptions are read from its sources.
"""

from __future__ import annotations

from collections.abc import Sequence

from peftkit import Method, Preset, hookimpl
from peftkit_adapters.adapter_method import ADAPTER, ALTERED, MODEL_TYPES, AdapterMethod, why_unavailable
from peftkit_adapters.methods import METHODS, PRESETS, ParallelAdapters

__all__ = [
    "ADAPTER",
    "ALTERED",
    "METHODS",
    "MODEL_TYPES",
    "PRESETS",
    "AdapterMethod",
    "ParallelAdapters",
    "why_unavailable",
]


@hookimpl
def register_methods() -> Sequence[type[Method]]:
    """Register the methods of this distribution."""
    return METHODS


@hookimpl
def register_presets() -> Sequence[Preset]:
    """Register the presets of this distribution."""
    return PRESETS
