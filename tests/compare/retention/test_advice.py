"""Only methods that surely forget at most so much are ranked; the others are named with their probabilities."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftkit.cli import main
from peftkit.compare.input.groups import RunGroup
from peftkit.compare.retention.advice import SURE, rank_within_forgetting


def test_methods_that_may_forget_more_are_not_ranked(probed_group: RunGroup) -> None:
    everything = rank_within_forgetting(probed_group, "samples", 1e6, "texts", 100.0)
    assert everything.ranking is not None
    assert {each.method for each in everything.ranking.candidates} == {"full", "ia3"}
    amounts = {name: each.score for name, each in everything.forgetting.posterior.estimates.items()}
    nothing = rank_within_forgetting(probed_group, "samples", 1e6, "texts", -100.0)
    assert nothing.ranking is None
    assert nothing.sentences[0].startswith("No method forgets at most")
    between = rank_within_forgetting(probed_group, "samples", 1e6, "texts", sum(amounts.values()) / 2)
    ranked = {each.method for each in between.ranking.candidates} if between.ranking else set()
    assert ranked == {name for name, probability in between.within.items() if probability >= SURE}


def test_forgetting_is_that_of_the_checkpoint_within_the_budget(probed_group: RunGroup) -> None:
    """Within the first three steps, of 8 rows each, dev selects one of the first two evaluations."""
    advice = rank_within_forgetting(probed_group, "samples", 24, "texts", 100.0)
    for label, by_seed in probed_group.runs.items():
        for seed, run in by_seed.items():
            rows = [row for row in run.evaluations if row["step"] <= 3]
            best = max(rows, key=lambda row: row["dev"]["accuracy"])
            selected = best["step"] == run.summary["selected"]["step"]
            values = run.summary["selected"] if selected else best
            assert advice.forgetting.runs[label][seed].value == values["texts"]["bits_per_byte"]


@pytest.mark.parametrize("limit", ["1000%", "0"])
def test_the_command_says_what_is_forgotten(limit: str, probed_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["advise", str(probed_runs), "--budget", "1e6samples", "--probe", "texts", "--forget", limit]
    assert main(arguments) in (0, 1)
    text = capsys.readouterr().out
    assert "of bits_per_byte on texts" in " ".join(text.split())
    assert main([*arguments, "--json"]) in (0, 1)
    [advice] = json.loads(capsys.readouterr().out)["advice"]
    assert advice["forgetting"]["limit"] == float(limit.strip("%")) / 100
    assert {each["method"] for each in advice["forgetting"]["methods"]} == {"full", "ia3"}


def test_a_probe_without_a_limit_is_refused(probed_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", str(probed_runs), "--budget", "1e6samples", "--probe", "texts"]) == 2
    assert "--forget 2%" in capsys.readouterr().err
