from __future__ import annotations

import math

import pytest

from peftkit import Example
from peftkit.testing import check_metric
from peftkit_preference import LogpsAccuracy, RewardAccuracy, RewardAuc, RewardMargin
from peftkit_preference.preference_tasks import DESIRABLE, UNDESIRABLE

EXAMPLES = [Example("p", "a", ("a", "b"))] * 4


def test_ties_count_half() -> None:
    score = RewardAccuracy().compute(["a", "b", "", "a"], [["a"]] * 4, EXAMPLES)
    assert score == {"reward_accuracy": 0.625}


def test_every_row_has_a_score_to_resample() -> None:
    rows = RewardAccuracy().compute_per_example(["a", "b", "", "a"], [["a"]] * 4, EXAMPLES)
    assert [row["reward_accuracy"] for row in rows] == [1.0, 0.0, 0.5, 1.0]
    values = [{"reward_margin": margin, "logps_margin": -margin} for margin in (1.0, -2.0, 0.0, 3.0)]
    margins = RewardMargin().compute_per_example(values, [["a"]] * 4, EXAMPLES)  # type: ignore[arg-type]
    assert [row["reward_margin"] for row in margins] == [1.0, -2.0, 0.0, 3.0]
    assert RewardMargin().compute(values, [["a"]] * 4, EXAMPLES) == {"reward_margin": 0.5}
    assert LogpsAccuracy().compute(values, [["a"]] * 4, EXAMPLES) == {"logps_accuracy": 0.375}


@pytest.mark.parametrize(
    ("rewards", "labels", "auc"),
    [
        ([2.0, 1.0, 0.0, -1.0], [1, 1, 0, 0], 1.0),
        ([2.0, 1.0, 1.0, -1.0], [1, 1, 0, 0], 0.875),
        ([0.0, 0.0, 0.0, 0.0], [1, 1, 0, 0], 0.5),
        ([3.0, 1.0, 2.0, 0.0], [1, 1, 1, 1], 0.5),
        ([math.nan, 1.0, 2.0, 0.0], [1, 1, 0, 0], math.nan),
    ],
)
def test_the_area_is_the_share_of_pairs_in_the_right_order(rewards: list[float], labels: list[int], auc: float) -> None:
    references = [[DESIRABLE if label else UNDESIRABLE] for label in labels]
    score = RewardAuc().compute([{"reward": reward} for reward in rewards], references, EXAMPLES)
    assert score["reward_auc"] == pytest.approx(auc, nan_ok=True)


def test_accuracy_conforms() -> None:
    check_metric(RewardAccuracy())
