"""Numbers that are read from the device only if somebody asks for them, since reading waits for the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class ReadLater:
    """The type and default of a dataclass's number that may be given as a function, called when it is first read.

    The dataclass cannot have slots.

    Args:
        default: The number if none is given.
    """

    def __init__(self, default: float | None = None) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object | None, owner: type) -> float:
        if instance is None:  # the dataclass asks for the default
            if self._default is None:
                raise AttributeError(self._name)
            return self._default
        value: float | Callable[[], float] = vars(instance)[self._name]
        if callable(value):
            value = vars(instance)[self._name] = value()
        return value

    def __set__(self, instance: object, value: float | Callable[[], float]) -> None:
        vars(instance)[self._name] = value


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
