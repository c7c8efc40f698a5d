"""Loads and checks plugins: ``load_plugins`` calls their hooks, and ``registry`` has what they register."""

from peftkit.plugins.load_plugins import HOOKS, Plugin, list_plugins, load_registry
from peftkit.plugins.registry import BASE_CLASSES, FIRST_PARTY, Entry, Kind, PluginFailure, Registry

__all__ = [
    "BASE_CLASSES",
    "FIRST_PARTY",
    "HOOKS",
    "Entry",
    "Kind",
    "Plugin",
    "PluginFailure",
    "Registry",
    "list_plugins",
    "load_registry",
]
