from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.macs.length_polynomial import LengthPolynomial

Shape = tuple[int, int]


def work(coefficients: list[int], shape: Shape) -> tuple[int]:
    s, t = shape
    return (sum(c * x for c, x in zip(coefficients, (1, s, t, s * s, s * t, t * t), strict=True)),)


@given(
    st.lists(st.integers(-(10**12), 10**12), min_size=6, max_size=6),
    st.lists(st.tuples(st.integers(1, 64), st.integers(1, 64)), min_size=1, max_size=40),
)
def test_interpolated_values_are_exact(coefficients: list[int], shapes: list[Shape]) -> None:
    found, counted = LengthPolynomial(), []
    for shape in shapes:
        interpolated = found.at(shape)
        if interpolated is None:
            found.add(shape, work(coefficients, shape))
            counted.append(shape)
        else:
            assert interpolated == work(coefficients, shape)
            assert all(min(of) <= own <= max(of) for own, of in zip(shape, zip(*counted, strict=True), strict=True))
    assert found.regular


def test_most_shapes_need_not_be_counted() -> None:
    rng = random.Random(1)
    shapes = [(8 * rng.randint(1, 60), 8 * rng.randint(1, 12)) for _ in range(400)]
    found, counted = LengthPolynomial(), 0
    for shape in shapes:
        if found.at(shape) is None:
            found.add(shape, work([3, 1, 4, 1, 5, 9], shape))
            counted += 1
    assert counted < 40


def test_a_constant_length_needs_no_more_counts() -> None:
    found = LengthPolynomial()
    for s in (8, 80, 40, 24, 56):
        assert found.at((s, 16)) is None
        found.add((s, 16), work([3, 1, 4, 1, 5, 9], (s, 16)))
    assert found.at((32, 16)) == work([3, 1, 4, 1, 5, 9], (32, 16))
    assert found.at((88, 16)) is None
    assert found.at((32, 24)) is None


@pytest.mark.parametrize("grown", [lambda s: s**3, lambda s: -(-s // 24) * 7, lambda s: s * s + 5 * max(0, s - 48)])
def test_growth_that_is_not_quadratic_is_detected(grown: object) -> None:
    found = LengthPolynomial()
    for s in (8, 96, 16, 80, 48, 64, 32):
        found.add((s,), (grown(s),))  # type: ignore[operator]
    assert not found.regular
    assert found.at((40,)) is None
