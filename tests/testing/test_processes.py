"""Children forked from the tests."""

from __future__ import annotations

import gc
import sys

from peftkit.testing.processes import fork_all


def test_children_do_not_look_through_the_objects_of_their_parent() -> None:
    marker: list[list[int]] = [[]]

    def is_collected() -> bool:
        return any(each is marker for each in gc.get_objects())

    assert is_collected()
    assert fork_all([lambda: sys.exit(is_collected())]) == [0]
