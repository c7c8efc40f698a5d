"""Comparisons at matched parameters or memory."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.cli import main
from peftkit.compare.input.groups import RunGroup, group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.matching import QUANTITIES, Match, match_runs, parse_match
from peftkit.compare.output.render import FORMATS
from peftkit.errors import InputError
from tests.compare.conftest import Plant


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("parameters=1e5±20%", Match("parameters", 1e5, 0.2)),
        ("parameters=1e5+-20%", Match("parameters", 1e5, 0.2)),
        ("parameters = 1e+5 +/- 20 %", Match("parameters", 1e5, 0.2)),
        ("parameters=100k±0%", Match("parameters", 1e5, 0.0)),
        ("parameters=1.2M±12.5%", Match("parameters", 1.2e6, 0.125)),
        ("memory=2GiB±10%", Match("memory", 2.0**31, 0.1)),
        ("memory=500MB+-100%", Match("memory", 5e8, 1.0)),
    ],
)
def test_a_match_is_read_as_it_is_written(text: str, match: Match) -> None:
    assert parse_match(text) == match


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("paramters=1e5±20%", "did you mean 'parameters'"),
        ("gmacs=1e5±20%", "allowed are parameters, memory"),
        ("parameters", "a target and a tolerance from 0 to 100 % are required"),
        ("parameters=1e5", "a target and a tolerance from 0 to 100 % are required"),
        ("parameters=1e5±20", "a target and a tolerance from 0 to 100 % are required"),
        ("parameters=1e5±120%", "tolerance from 0 to 100 %"),
        ("parameters=1e5±20%±3%", "a target and a tolerance from 0 to 100 % are required"),
        ("parameters=-1±20%", "must be a number above zero"),
        ("parameters=many±20%", "must be a number above zero"),
        ("memory=2±10%", "must be a number above zero with a unit"),
        ("memory=2GiG±10%", "did you mean 'gib'"),
    ],
)
def test_invalid_matches_are_errors_that_list_valid_ones(
    text: str, words: str, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plant("lora", 1, [0.1, 0.5])
    assert main(["compare", str(path.parent), "--match", text]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


@given(st.text(max_size=20))
def test_nothing_that_is_typed_ends_in_anything_but_words(text: str) -> None:
    for asked in (text, f"parameters={text}", f"parameters=1e5±{text}", f"memory={text}±10%"):
        try:
            match = parse_match(asked)
        except InputError:
            continue
        assert match.target > 0
        assert 0 <= match.tolerance <= 1


def ranks(plant: Plant) -> Path:
    """LoRA of 100, 400 and 1,600 parameters, bottlenecks of 300 and 500, and full fine-tuning of 10,000."""
    for seed in (1, 2):
        for cost in (1, 4, 16):
            plant("lora", seed, [0.1, 0.5 + cost / 100], cost=float(cost), options={"r": cost})
        for cost in (3, 5):
            plant("bottleneck", seed, [0.1, 0.6 + cost / 100], cost=float(cost), options={"size": cost})
        path = plant("full", seed, [0.1, 0.7], cost=100.0)
    return path.parent


def section(folder: Path) -> RunGroup:
    [found] = group_runs(find_runs([folder])[0])
    return found


@pytest.mark.parametrize(
    ("asked", "kept", "outside"),
    [
        ("parameters=400±30%", {"lora (r=4)", "bottleneck (size=3)"}, "full (nearest: 10,000 parameters)"),
        ("parameters=410±30%", {"lora (r=4)", "bottleneck (size=5)"}, "full (nearest: 10,000 parameters)"),
        ("parameters=400±10%", {"lora (r=4)"}, "bottleneck (nearest: 300 parameters with size=3); full"),
        ("parameters=110±10%", {"lora (r=1)"}, "bottleneck (nearest: 300 parameters with size=3); full"),
        ("memory=4GiB±30%", {"lora (r=4)", "bottleneck (size=3)"}, "full (nearest: 100 GiB)"),
        ("parameters=10k±1%", {"full"}, "bottleneck (nearest: 500 parameters with size=5); lora"),
    ],
)
def test_of_each_method_the_nearest_variant_within_the_tolerance_is_kept(
    asked: str, kept: set[str], outside: str, plant: Plant
) -> None:
    found = match_runs(section(ranks(plant)), parse_match(asked))
    assert found.runs.keys() == kept
    assert outside in found.remarks[-1]
    assert all(sorted(of) == [1, 2] for of in found.runs.values())


@given(st.floats(1, 1e5), st.floats(0, 1))
def test_the_tolerance_is_a_share_of_the_target_and_its_ends_are_inside(target: float, tolerance: float) -> None:
    match = Match("parameters", target, tolerance)
    low, high = target * (1 - tolerance), target * (1 + tolerance)
    for value in (low, target, high):
        assert match.allows(value)
    assert not match.allows(high * 1.01 + 1)


def test_where_no_method_is_inside_the_nearest_are_named(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(ranks(plant)), "--match", "parameters=5000±5%"]) == 2
    err = capsys.readouterr().err
    assert "no run of 't' with 'm' is within the match" in err
    assert "lora (nearest: 1,600 parameters with r=16)" in err


def test_a_method_that_has_not_measured_it_is_left_out_by_name(plant: Plant) -> None:
    folder = ranks(plant)
    path = plant("vera", 1, [0.1, 0.5])
    summary = json.loads((path / "summary.json").read_text())
    del summary["cost"]["trainable_parameters"]
    (path / "summary.json").write_text(json.dumps(summary))
    found = match_runs(section(folder), parse_match("parameters=400±10%"))
    assert "vera (not all its runs have measured trainable_parameters)" in found.remarks[-1]


def methods_of(form: str, data: bytes) -> str:
    if form == "parquet":
        return str(pq.read_table(io.BytesIO(data)).to_pylist())
    return data.decode()


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_of_compare_has_the_matched_variants_and_what_is_outside(
    form: str, plant: Plant, tmp_path: Path
) -> None:
    out = tmp_path / f"out.{form}"
    words = ["compare", str(ranks(plant)), "--match", "parameters=400±30%", "--format", form, "-o", str(out)]
    assert main(words) == 0
    text = methods_of(form, out.read_bytes())
    for there in ("lora (r=4)", "bottleneck (size=3)", "full (nearest: 10,000 parameters)"):
        assert there in text
    assert "r=16" not in text
    if form == "csv":
        assert len([*csv.DictReader(io.StringIO(text))]) == 2


def test_advise_and_report_match_too(plant: Plant, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, page = str(ranks(plant)), tmp_path / "page.html"
    assert main(["advise", folder, "--budget", "3gmacs", "--match", "parameters=400±30%"]) == 0
    out = capsys.readouterr().out
    assert "Use bottleneck (size=3) within 3 GMACs" in out
    assert "full (nearest: 10,000 parameters)" in out
    assert main(["report", folder, "--match", "parameters=400±30%", "-o", str(page)]) == 0
    text = page.read_text()
    assert "lora (r=4)" in text
    assert "lora (r=16)" not in text


def test_every_quantity_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in QUANTITIES)
