"""Numbers that are read from the device only if somebody asks for them, since reading waits for the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)


def read_later(*names: str) -> Callable[[Class], Class]:
    """Let fields of a dataclass with slots be given as functions, which are called when the field is first read.

    Args:
        names: The fields.
    """

    def decorate(cls: Class) -> Class:
        for name in names:
            setattr(cls, name, _reading_property(getattr(cls, name)))
        return cls

    return decorate


def _reading_property(slot: Any) -> property:
    def read(instance: Any) -> Any:
        value = slot.__get__(instance)
        if callable(value):
            value = value()
            slot.__set__(instance, value)
        return value

    return property(read, slot.__set__)


class LateSum:
    """A sum of numbers that are not read before the sum is, or before many more have been added.

    Args:
        total: The first number.
    """

    MAX_UNREAD = 64

    def __init__(self, total: float = 0.0) -> None:
        self._total = total
        self._unread: deque[Callable[[], float]] = deque()

    def add(self, read: Callable[[], float]) -> None:
        """Add a number.

        Args:
            read: Returns the number; it may wait for the device.
        """
        self._unread.append(read)
        if len(self._unread) > self.MAX_UNREAD:  # the oldest has long been computed
            self._total += self._unread.popleft()()

    @property
    def total(self) -> float:
        """The sum."""
        while self._unread:
            self._total += self._unread.popleft()()
        return self._total

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LateSum) and self.total == other.total

    __hash__ = None  # type: ignore[assignment]  # it changes

    def copy(self) -> LateSum:
        """Return a sum that is not changed with this one."""
        other = LateSum(self._total)
        other._unread.extend(self._unread)
        return other
