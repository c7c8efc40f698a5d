"""The built-in methods, registered through the same hook as anybody's."""

from collections.abc import Sequence

from peftkit.components import Method
from peftkit.hookspecs import hookimpl
from peftkit.methods.full import Full
from peftkit.methods.parts import BitFit, HeadOnly, LayerNorm, TopLayers
from peftkit.methods.peft_types import peft_methods

__all__ = ["register_methods"]


@hookimpl
def register_methods() -> Sequence[type[Method]]:
    """The built-in methods."""
    return [Full, BitFit, LayerNorm, HeadOnly, TopLayers, *peft_methods()]
