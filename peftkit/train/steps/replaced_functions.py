"""Replaces functions of ``torch.nn.functional`` for the threads that ask for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn import functional


class ReplacedFunctions:
    """Functions of ``torch.nn.functional`` that are replaced while any thread asks for it.

    A replacement calls ``original`` wherever ``active`` is false, which it is for all other threads.

    Args:
        functions: The replacements, by the names of the functions.
    """

    def __init__(self, **functions: Callable[..., Any]) -> None:
        self._functions = functions
        self._originals: dict[str, Callable[..., Any]] = {}
        self._lock = threading.Lock()
        self._threads: set[int] = set()

    @property
    def active(self) -> bool:
        """Whether this thread asked for the replacements."""
        return threading.get_ident() in self._threads

    def original(self, name: str) -> Callable[..., Any]:
        """Return the function of torch, while it is replaced."""
        return self._originals[name]

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Replace the functions for this thread, within this context."""
        thread = threading.get_ident()
        if thread in self._threads:
            yield
            return
        with self._lock:
            if not self._threads:
                for name, function in self._functions.items():
                    self._originals[name] = getattr(functional, name)
                    setattr(functional, name, function)
            self._threads.add(thread)
        try:
            yield
        finally:
            with self._lock:
                self._threads.remove(thread)
                if not self._threads:
                    for name, function in self._originals.items():
                        setattr(functional, name, function)
