from __future__ import annotations

from collections.abc import Callable

import pytest

from peftkit.errors import PeftkitError
from peftkit.plugins import Registry
from peftkit.sweep.grid import Grid
from peftkit.sweep.tuning import check_tuning

AXES = """
[axes]
method = ["lora", "full"]
seed = [1, 2]
"""
TUNE = """
[tune]
trials = 3
"""


@pytest.mark.parametrize(
    ("axes", "tune", "words"),
    [
        ("train.learning_rate = [0.1]", "", "train.learning_rate is an axis and tuned, too"),
        ("", '[tune.space.lara]\n"method.r" = [2, 4]', r"tune.space.lara: there is no method 'lara'.*mean 'lora'"),
        ("", '[tune.space.lora]\n"train.learning_rate" = { low = 1, high = 0.1 }', "tune.space.lora"),
        ("", '[tune.space.lora]\n"train.learning_rte" = [0.1, 0.2]', "learning_rte.*learning_rate"),
        ("", '[tune.space.lora]\n"method.r" = [0, 2]', "method.r"),
        ("", '[tune.space.lora]\n"method.r" = []', r"tune.space.lora: method.r needs at least one value"),
        ("", '[tune.head]\nmethod = "hed_only"', r"tune.head.method: there is no method 'hed_only'.*mean 'head_only'"),
        ("", "[tune.set]\ntrain.budgit.steps = 2", "budgit.*budget"),
    ],
)
def test_tuning_that_would_go_wrong_is_refused_before_anything_is_run(
    axes: str, tune: str, words: str, grid: Callable[..., Grid], registry: Registry
) -> None:
    made = grid(f"{AXES}{axes}\n{TUNE}{tune}\n")
    with pytest.raises(PeftkitError, match=words):
        check_tuning(made, registry)


def test_tuning_that_is_right_is_right_of_a_part_of_the_sweep_too(
    grid: Callable[..., Grid], registry: Registry
) -> None:
    text = AXES + TUNE + '[tune.space.lora]\n"method.r" = [2, 4]\n[tune.set]\ntrain.budget.steps = 2\n'
    check_tuning(grid(text), registry)
    check_tuning(grid(text, only=("method=full",)), registry)
    check_tuning(grid(AXES), registry)
