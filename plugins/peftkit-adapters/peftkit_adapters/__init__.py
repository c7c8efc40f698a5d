"""Methods of the adapters library (AdapterHub) for peftkit.

adapters is imported only when a method is applied: the library pins transformers 4.57, and what needs neither must
work beside any other version. Options, types, defaults and help are read from its sources.
"""

from __future__ import annotations

from collections.abc import Sequence

from peftkit import Method, hookimpl
from peftkit_adapters.family import ADAPTER, ALTERED, MODEL_TYPES, AdapterMethod, unusable
from peftkit_adapters.methods import METHODS, ParallelAdapters

__all__ = ["ADAPTER", "ALTERED", "METHODS", "MODEL_TYPES", "AdapterMethod", "ParallelAdapters", "unusable"]


@hookimpl
def register_methods() -> Sequence[type[Method]]:
    """The methods of this distribution."""
    return METHODS
