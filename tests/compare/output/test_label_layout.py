"""Labels of points: they do not overlap, whatever the points."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from peftkit.compare.output.label_layout import spread


@given(st.lists(st.floats(0, 1), max_size=60), st.floats(0.001, 0.05))
def test_positions_are_apart_in_order_and_within_bounds(wanted: list[float], distance: float) -> None:
    placed = spread(wanted, distance, 0.0, 1.0)
    assert len(placed) == len(wanted)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(placed[order]) >= distance - 1e-9).all()
    assert (placed >= -1e-9).all()
    if (len(wanted) - 1) * distance <= 1:
        assert (placed <= 1 + 1e-9).all()


def test_positions_move_as_little_as_needed() -> None:
    assert spread([0.2, 0.8], 0.1, 0.0, 1.0).tolist() == [0.2, 0.8]
    assert np.allclose(spread([0.5, 0.5, 0.9], 0.1, 0.0, 1.0), [0.45, 0.55, 0.9])
    assert np.allclose(spread([1.0, 0.99], 0.1, 0.0, 1.0), [1.0, 0.9])
