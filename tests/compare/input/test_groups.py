"""Remarks on runs that were limited by time, or planned within one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from peftkit.compare.input.groups import group_runs
from peftkit.compare.input.load_runs import find_runs
from tests.compare.conftest import Plant

LIMITED = {"train": {"batch_size": 8, "learning_rate": 0.1, "budget": {"wall_seconds": 60.0}}}


def test_equal_waits_are_noted_with_the_time_that_each_method_trained(plant: Plant, tmp_path: Path) -> None:
    for seed, shares in ((1, [0.4, 0.5, 0.6]), (2, [0.4, 0.5])):
        plant("lora", seed, shares, tables=LIMITED)
        plant("full", seed, [0.4, 0.6], cost=2.0, tables=LIMITED)
    [group] = group_runs(find_runs([tmp_path / "runs"])[0])
    [remark] = [each for each in group.remarks if "equal waits" in each]
    assert "of 60 s, each run trained for full 4 s, lora 2–4 s; the rest was loading" in remark


def test_other_runs_have_no_such_remark(plant: Plant, tmp_path: Path) -> None:
    plant("lora", 1, [0.4, 0.5])
    [group] = group_runs(find_runs([tmp_path / "runs"])[0])
    assert not any("waits" in each or "planned within" in each for each in group.remarks)


def test_a_sweep_within_a_time_is_noted_with_what_it_left_out(plant: Plant, tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = tmp_path / "s" / "runs" / f"hash{seed}"
        folder.mkdir(parents=True)
        shutil.move(plant("lora", seed, [0.4, 0.5]), folder / "run")
    design = {"trials": 3, "seeds": 2, "budget_share": 0.42}
    plan = {"format": 1, "within": 1200.0, "design": design, "asked": {"trials": 5, "seeds": 3}}
    (tmp_path / "s" / "within.json").write_text(json.dumps(plan))
    [group] = group_runs(find_runs([tmp_path / "s"])[0])
    text = "planned within 20 min: 3 of 5 trials, 2 of 3 seeds and 0.42 of the budget, the same for all methods"
    assert text in group.remarks
