"""The design of trials, for any search space and any scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.components import Range, SearchSpace
from peftkit.plugins import load_registry
from peftkit.recipe import Recipe, load_recipe
from peftkit.sweep.sweep_file import TuneConfig
from peftkit.sweep.tuning.samplers import Axis, Space
from peftkit.sweep.tuning.trial_design import TrialDesign
from peftkit.sweep.tuning.trial_selection import Stage, TrialResult
from peftkit.sweep.tuning.tuning_stages import TuningResult, TuningTarget, tune
from tests.sweep.conftest import BASE

RATE = "train.learning_rate"
Score = Callable[[Mapping[str, Any]], float | None]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("base") / "base.toml"
    path.write_text(BASE)
    return load_recipe(path, load_registry())


def tuned(
    recipe: Recipe, search: SearchSpace, score: Score, *, trials: int = 5, transfer: int = 0, seed: int = 0
) -> TuningResult:
    """Tunes with trials scored by a function; None is a diverged run."""

    def attempt(settings: Mapping[str, Any], seed: int, stage: Stage) -> TrialResult | None:
        value = score(settings)
        return TrialResult(value, None if value is None else -value, 1.0, "run")

    subject = TuningTarget("s", (), recipe, search, trials, "s")
    return tune(subject, TuneConfig(trials=trials, seed=seed), TrialDesign(trials, transfer), attempt, valid)


def valid(values: Mapping[str, Any]) -> bool:
    return (
        all(value > 0 for key, value in values.items() if key in (RATE, "method.r"))
        and values.get("method.dropout", 0) >= 0
    )


def peak(best: float) -> Score:
    return lambda values: -abs(math.log10(values[RATE] / best))


rates = st.builds(lambda low, width: Range(10**low, 10 ** (low + width), True), st.floats(-6, -1), st.floats(0.5, 4))
searches = st.one_of(
    st.builds(lambda rate: {RATE: rate}, rates),
    st.builds(lambda rate, high: {RATE: rate, "method.r": Range(1, high, True)}, rates, st.integers(2, 64)),
    st.builds(lambda rate: {RATE: rate, "method.dropout": Range(0.0, 0.2), "method.bias": ["a", "b", "c"]}, rates),
    st.builds(lambda values: {"method.r": values}, st.lists(st.integers(1, 64), min_size=1, max_size=9, unique=True)),
    st.just({"method.r": Range(1, 3)}),
)


@settings(max_examples=200, deadline=None)
@given(searches, st.integers(3, 20), st.sampled_from([0, 2]), st.randoms(use_true_random=False), st.floats(0, 0.9))
def test_the_number_of_trials_does_not_depend_on_scores(
    recipe: Recipe, search: SearchSpace, trials: int, transfer: int, random: Any, failing: float
) -> None:
    """With random scores and diverged runs, the number of trials is fixed and no run is repeated."""
    succeeded = False

    def score(values: Mapping[str, Any]) -> float | None:
        nonlocal succeeded
        if succeeded and random.random() < failing:
            return None
        succeeded = True
        return float(random.choice([0.1, 0.2, 0.5]))

    result = tuned(recipe, search, score, trials=trials, transfer=transfer)
    design = TrialDesign(trials, transfer)
    assert len(result.trials) == design.total
    stages = [trial.stage for trial in result.trials]
    assert stages.count("design") + stages.count("model") in (trials, trials + 2)  # + 2: lists have no follow-ups
    assert stages.count("model") == trials - design.evenly_spaced
    assert stages.count("repeat") == 2
    assert stages.count("transfer") == transfer
    runs = [(sorted(t.settings.items()), t.seed, t.stage == "transfer") for t in result.trials]
    assert all(runs.count(run) == 1 for run in runs)
    assert any(trial.settings == result.settings and trial.score is not None for trial in result.trials)
    assert all(valid(trial.settings) for trial in result.trials)


@settings(max_examples=100, deadline=None)
@given(rates, st.integers(3, 15))
def test_the_first_trials_are_log_spaced_over_the_range(search_range: Range, number: int) -> None:
    space = Space.from_search_space({RATE: search_range})
    tried = [space.settings(point)[RATE] for point in space.start(number, seed=0)]
    assert (tried[0], tried[-1]) == (search_range.low, search_range.high)
    steps = [math.log(b / a) for a, b in pairwise(tried)]
    assert steps == pytest.approx(
        [math.log(search_range.high / search_range.low) / (number - 1)] * (number - 1), rel=0.02, abs=2e-3
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 16), st.integers(0, 2**31 - 1))
def test_several_axes_start_with_a_seeded_sobol_sequence(number: int, seed: int) -> None:
    space = Space.from_search_space({RATE: Range(1e-4, 1e-2, True), "method.r": Range(1, 64, True)})
    points = space.start(number, seed)
    assert points == space.start(number, seed)
    assert points != space.start(number, seed + 1)
    full = 2 ** math.floor(math.log2(number))
    for axis in (0, 1):  # a power-of-two number of points has one in each interval of every axis
        assert {math.floor(point[axis] * full) for point in points[:full]} == set(range(full))


@settings(max_examples=150, deadline=None)
@given(st.floats(0, 1), rates)
def test_any_peak_in_the_range_is_found_within_half_the_spacing(recipe: Recipe, at: float, search_range: Range) -> None:
    best = Axis(RATE, search_range).value(at)
    result = tuned(recipe, {RATE: search_range}, peak(best))
    spacing = math.log10(search_range.high / search_range.low) / 4
    inside = 0.126 < at < 0.874  # an inner point of the design wins and is bisected on both sides
    assert abs(math.log10(result.settings[RATE] / best)) <= spacing / (4 if inside else 2) + 5e-3
    outermost = min(t.settings[RATE] for t in result.trials), max(t.settings[RATE] for t in result.trials)
    assert result.at_edge == () or result.settings[RATE] in outermost


@settings(max_examples=100, deadline=None)
@given(rates, st.sampled_from(["low", "high"]), st.floats(0.1, 6))
def test_a_range_is_extended_at_a_winning_end_and_reported_at_edge(
    recipe: Recipe, search_range: Range, end: str, decades: float
) -> None:
    direction = 1 if end == "high" else -1
    best = (search_range.high if direction > 0 else search_range.low) * 10 ** (direction * decades)
    result = tuned(recipe, {RATE: search_range}, peak(best))
    extension = [trial.settings[RATE] for trial in result.trials if trial.stage == "extension"]
    spacing = math.log10(search_range.high / search_range.low) / 4
    assert extension == pytest.approx(
        [
            (search_range.high if direction > 0 else search_range.low) * 10 ** (direction * spacing * step)
            for step in (1, 2)
        ],
        rel=1e-3,
    )
    if decades >= 2 * spacing:
        assert [(each["key"], each["end"]) for each in result.at_edge] == [(RATE, end)]
        assert result.at_edge[0]["value"] == result.settings[RATE] == extension[-1]
    elif decades < 1.4 * spacing:
        assert result.at_edge == ()
        assert abs(math.log10(result.settings[RATE] / best)) <= spacing / 2 + 5e-3


def test_a_peak_inside_is_bisected_on_both_sides(recipe: Recipe) -> None:
    result = tuned(recipe, {RATE: Range(1e-4, 1e-2, True)}, peak(8e-4))
    bisected = [trial.settings[RATE] for trial in result.trials if trial.stage == "bisection"]
    assert bisected == pytest.approx([1e-3 * 10**-0.25, 1e-3 * 10**0.25], rel=1e-3)


@pytest.mark.parametrize("trials", [3, 5, 8, 16, 24])
def test_equal_responses_give_equal_settings(recipe: Recipe, trials: int) -> None:
    """A regression test: random trials made equal methods differ, as only one of them tried 0.0087."""
    search = {RATE: Range(1e-4, 1e-2, True)}
    first, second = (tuned(recipe, search, peak(8.7e-3), trials=trials) for _ in range(2))
    assert first == second
    assert abs(math.log10(first.settings[RATE] / 8.7e-3)) < 0.2


def test_trials_span_a_wide_range(recipe: Recipe) -> None:
    """A regression test: random trials of 1e-3 to 0.3 were all close to 1e-3, and the best rate was 0.1."""
    result = tuned(recipe, {RATE: Range(1e-3, 0.3, True)}, peak(0.1))
    design = [trial.settings[RATE] for trial in result.trials if trial.stage == "design"]
    assert max(design) / min(design) == pytest.approx(300)
    assert 0.05 <= result.settings[RATE] <= 0.2


@settings(max_examples=50, deadline=None)
@given(searches, st.integers(3, 20), st.integers(0, 1000), st.floats(-6, 0))
def test_tuning_is_deterministic(recipe: Recipe, search: SearchSpace, trials: int, seed: int, best: float) -> None:
    def score(values: Mapping[str, Any]) -> float:
        return -sum(abs(math.log10(value + 1e-3) - best) for value in values.values() if not isinstance(value, str))

    first, second = (tuned(recipe, search, score, trials=trials, seed=seed) for _ in range(2))
    assert first == second


def test_the_limit_of_valid_values_is_no_edge(recipe: Recipe) -> None:
    result = tuned(recipe, {"method.r": Range(1, 16)}, lambda values: -values["method.r"])
    assert result.settings == {"method.r": 1}
    assert result.at_edge == ()
    assert "extension" not in {trial.stage for trial in result.trials}
    result = tuned(recipe, {"method.r": Range(1, 16)}, lambda values: values["method.r"])
    assert result.at_edge == ({"key": "method.r", "end": "high", "value": 24},)


def test_all_values_of_a_list_are_tried(recipe: Recipe) -> None:
    result = tuned(recipe, {"method.r": [2, 4, 8, 16, 32]}, lambda values: -abs(values["method.r"] - 4), trials=3)
    first = [trial.settings["method.r"] for trial in result.trials if trial.stage == "design"]
    assert sorted(first) == [2, 4, 8, 16, 32]
    assert result.settings == {"method.r": 4}
    assert result.at_edge == ()


def test_second_seeds_decide_between_the_leading_two(recipe: Recipe) -> None:
    """The leader of the first seed was lucky: its second seed is far worse."""

    def attempt(values: Mapping[str, Any], seed: int, stage: Stage) -> TrialResult:
        lucky = values[RATE] == 1e-3
        score = (1.0 if seed == 0 else 0.0) if lucky else 0.9 - abs(math.log10(values[RATE]) + 3)
        return TrialResult(score, 1.0, 1.0, "run")

    subject = TuningTarget("s", (), recipe, {RATE: Range(1e-4, 1e-2, True)}, 5, "s")
    result = tune(subject, TuneConfig(), TrialDesign(5), attempt)
    repeats = [trial for trial in result.trials if trial.stage == "repeat"]
    assert [trial.seed for trial in repeats] == [1, 1]
    assert repeats[0].settings == {RATE: 1e-3}
    assert result.settings == repeats[1].settings != {RATE: 1e-3}


@pytest.mark.parametrize("trials", [5, 16])
def test_diverged_trials_never_win(recipe: Recipe, trials: int) -> None:
    def score(values: Mapping[str, Any]) -> float | None:
        return None if values[RATE] > 1.1e-4 else 0.0

    result = tuned(recipe, {RATE: Range(1e-4, 1e-2, True)}, score, trials=trials)
    assert result.settings[RATE] <= 1.1e-4
    assert len(result.trials) == trials + 4
