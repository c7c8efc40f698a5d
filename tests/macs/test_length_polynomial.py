from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.macs.length_polynomial import LengthPolynomial

Shape = tuple[int, int]


def macs(coefficients: list[int], shape: Shape) -> tuple[int]:
    s, t = shape
    return (sum(c * x for c, x in zip(coefficients, (1, s, t, s * s, s * t, t * t), strict=True)),)


@given(
    st.lists(st.integers(-(10**12), 10**12), min_size=6, max_size=6),
    st.lists(st.tuples(st.integers(1, 64), st.integers(1, 64)), min_size=1, max_size=40),
)
def test_interpolated_values_are_exact(coefficients: list[int], shapes: list[Shape]) -> None:
    polynomial, counted = LengthPolynomial(), []
    for shape in shapes:
        interpolated = polynomial.at(shape)
        if interpolated is None:
            polynomial.add(shape, macs(coefficients, shape))
            counted.append(shape)
        else:
            assert interpolated == macs(coefficients, shape)
            assert all(
                min(lengths) <= length <= max(lengths)
                for length, lengths in zip(shape, zip(*counted, strict=True), strict=True)
            )
    assert polynomial.regular


def test_most_shapes_are_interpolated() -> None:
    rng = random.Random(1)
    shapes = [(8 * rng.randint(1, 60), 8 * rng.randint(1, 12)) for _ in range(400)]
    polynomial, counted = LengthPolynomial(), 0
    for shape in shapes:
        if polynomial.at(shape) is None:
            polynomial.add(shape, macs([3, 1, 4, 1, 5, 9], shape))
            counted += 1
    assert counted < 40


def test_a_constant_length_needs_no_additional_counts() -> None:
    polynomial = LengthPolynomial()
    for s in (8, 80, 40, 24, 56):
        assert polynomial.at((s, 16)) is None
        polynomial.add((s, 16), macs([3, 1, 4, 1, 5, 9], (s, 16)))
    assert polynomial.at((32, 16)) == macs([3, 1, 4, 1, 5, 9], (32, 16))
    assert polynomial.at((88, 16)) is None
    assert polynomial.at((32, 24)) is None


@pytest.mark.parametrize("grown", [lambda s: s**3, lambda s: -(-s // 24) * 7, lambda s: s * s + 5 * max(0, s - 48)])
def test_non_quadratic_growth_is_detected(grown: object) -> None:
    polynomial = LengthPolynomial()
    for s in (8, 96, 16, 80, 48, 64, 32):
        polynomial.add((s,), (grown(s),))  # type: ignore[operator]
    assert not polynomial.regular
    assert polynomial.at((40,)) is None


def test_a_polynomial_is_trusted_after_two_confirmations() -> None:
    polynomial = LengthPolynomial()
    trusted = []
    for s in (2, 10, 5, 8, 4, 7):
        trusted.append(polynomial.at((6,)) is not None)
        polynomial.add((s,), (s * s,))
    assert trusted == [False] * 5 + [True], "three counts determine it, two confirm it"
    assert polynomial.at((6,)) == (36,)
    assert [polynomial.at((s,)) for s in (2, 10)] == [(4,), (100,)], "bounds are included"
    assert [polynomial.at((s,)) for s in (1, 11)] == [None, None]


def test_another_determining_count_must_be_confirmed_anew() -> None:
    polynomial = LengthPolynomial()
    for shape in ((8, 8), (80, 8), (40, 8), (24, 8), (64, 8)):
        polynomial.add(shape, (shape[0] * shape[1],))
    assert polynomial.at((32, 8)) == (256,)
    polynomial.add((80, 16), (80 * 16,))
    assert polynomial.at((32, 8)) is None
    polynomial.add((16, 8), (128,))
    assert polynomial.at((32, 8)) is None
    polynomial.add((48, 8), (48 * 8,))
    assert polynomial.at((32, 8)) == (256,)


def test_several_values_are_interpolated_at_once() -> None:
    polynomial = LengthPolynomial()
    for s in (3, 9, 5, 7, 4):
        polynomial.add((s,), (s * s, 2 * s + 1, 7))
    assert polynomial.at((6,)) == (36, 13, 7)


def test_values_may_have_a_part_that_is_proportional_to_the_rows() -> None:
    def value(length: int, rows: int) -> int:
        return 7 + 3 * length + rows * (length * length + 5)

    polynomial = LengthPolynomial()
    for length, rows in ((3, 1), (9, 4), (5, 2), (7, 3), (4, 4), (9, 1), (6, 2), (3, 4)):
        polynomial.add((length,), (value(length, rows),), (rows,))
    assert polynomial.regular
    assert polynomial.at((8,), (3,)) == (value(8, 3),)
    assert polynomial.at((8,), (5,)) is None, "nothing is extrapolated"


def test_values_between_counts_that_are_not_whole_are_counted() -> None:
    polynomial = LengthPolynomial()
    for s in (2, 4, 8, 10, 12):
        polynomial.add((s,), (s // 2,))
    assert polynomial.at((6,)) == (3,)
    assert polynomial.at((5,)) is None


def test_one_length_alone_is_interpolated_too() -> None:
    polynomial = LengthPolynomial()
    for _ in range(3):
        assert polynomial.at((8,)) is None
        polynomial.add((8,), (64, 3))
    assert polynomial.at((8,)) == (64, 3)


def test_equal_lengths_count_once_until_they_differ() -> None:
    polynomial = LengthPolynomial()
    for s in (3, 9, 5, 7, 4):
        polynomial.add((s, 2, s), (s * s + 1,))
    assert polynomial.at((6, 2, 6)) == (37,), "three counts determine it although there are three lengths"
    assert polynomial.at((6, 2, 5)) is None, "which of them counts is not known"
    for shape in ((3, 2, 9), (9, 2, 3), (5, 2, 3), (7, 2, 8), (4, 2, 6), (8, 2, 3)):
        polynomial.add(shape, (shape[0] ** 2 + 1,))
    assert polynomial.at((6, 2, 5)) == (37,)


def test_predicted_values_determine_it_but_do_not_widen_its_range() -> None:
    polynomial = LengthPolynomial()
    for s in (4, 8):
        polynomial.add((s,), (s * s,))
    for s in (1, 100, 6, 0):
        polynomial.add((s,), (s * s,), counted=False)
    assert polynomial.at((5,)) == (25,)
    assert [polynomial.at((s,)) for s in (3, 9)] == [None, None]
