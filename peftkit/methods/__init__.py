"""The built-in methods, registered through the same hook as anybody's."""

from collections.abc import Sequence

from peftkit.components import Method
from peftkit.hookspecs import hookimpl
from peftkit.methods.full import Full
from peftkit.methods.lora import Lora
from peftkit.methods.prefix_tuning import PrefixTuning
from peftkit.methods.vera import Vera

__all__ = ["Full", "Lora", "PrefixTuning", "Vera", "register_methods"]


@hookimpl
def register_methods() -> Sequence[type[Method]]:
    """The built-in methods."""
    return [Full, Lora, PrefixTuning, Vera]
