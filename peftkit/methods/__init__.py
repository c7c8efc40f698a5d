"""The built-in methods and presets, registered through the same hooks as those of plugins."""

from collections.abc import Sequence

from peftkit.components import Method, Preset
from peftkit.components.component import LazyComponent
from peftkit.hookspecs import hookimpl
from peftkit.methods.full import Full
from peftkit.methods.peft_factory import peft_methods
from peftkit.methods.presets import presets
from peftkit.methods.selective import BitFit, HeadOnly, LayerNorm, TopLayers

__all__ = ["register_methods", "register_presets"]


@hookimpl
def register_methods() -> Sequence[type[Method] | LazyComponent]:
    """Register the built-in methods."""
    return [Full, BitFit, LayerNorm, HeadOnly, TopLayers, *peft_methods()]


@hookimpl
def register_presets() -> Sequence[Preset]:
    """Register the built-in presets."""
    return presets()
