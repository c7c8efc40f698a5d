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
from peftkit.compare.matched_methods import QUANTITIES, Match, match_runs, parse_match
from peftkit.compare.output.table_formats import FORMATS
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
def test_parse_match(text: str, match: Match) -> None:
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
def test_any_text_is_parsed_or_an_input_error(text: str) -> None:
    for match_option in (text, f"parameters={text}", f"parameters=1e5±{text}", f"memory={text}±10%"):
        try:
            match = parse_match(match_option)
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
    [group] = group_runs(find_runs([folder])[0])
    return group


@pytest.mark.parametrize(
    ("match_option", "kept", "outside"),
    [
        ("parameters=400±30%", {"lora (r=4)", "bottleneck (size=3)"}, "full (nearest: 10,000 parameters)"),
        ("parameters=410±30%", {"lora (r=4)", "bottleneck (size=5)"}, "full (nearest: 10,000 parameters)"),
        ("parameters=400±10%", {"lora (r=4)"}, "bottleneck (nearest: 300 parameters with size=3); full"),
        ("parameters=110±10%", {"lora (r=1)"}, "bottleneck (nearest: 300 parameters with size=3); full"),
        ("memory=4GiB±30%", {"lora (r=4)", "bottleneck (size=3)"}, "full (nearest: 100 GiB)"),
        ("parameters=10k±1%", {"full"}, "bottleneck (nearest: 500 parameters with size=5); lora"),
    ],
)
def test_the_nearest_variant_of_each_method_within_the_tolerance_is_kept(
    match_option: str, kept: set[str], outside: str, plant: Plant
) -> None:
    group = match_runs(section(ranks(plant)), parse_match(match_option))
    assert group.runs.keys() == kept
    assert outside in group.remarks[-1]
    assert all(sorted(seeds) == [1, 2] for seeds in group.runs.values())


@given(st.floats(1, 1e5), st.floats(0, 1))
def test_the_tolerance_is_a_share_of_the_target_and_includes_its_ends(target: float, tolerance: float) -> None:
    match = Match("parameters", target, tolerance)
    low, high = target * (1 - tolerance), target * (1 + tolerance)
    for value in (low, target, high):
        assert match.allows(value)
    assert not match.allows(high * 1.01 + 1)


def test_without_a_match_the_error_names_the_nearest(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(ranks(plant)), "--match", "parameters=5000±5%"]) == 2
    err = capsys.readouterr().err
    assert "no run of 't' with 'm' is within the match" in err
    assert "lora (nearest: 1,600 parameters with r=16)" in err


def test_methods_without_the_measurement_are_left_out_and_named(plant: Plant) -> None:
    folder = ranks(plant)
    path = plant("vera", 1, [0.1, 0.5])
    summary = json.loads((path / "summary.json").read_text())
    del summary["cost"]["trainable_parameters"]
    (path / "summary.json").write_text(json.dumps(summary))
    group = match_runs(section(folder), parse_match("parameters=400±10%"))
    assert "vera (not all its runs have measured trainable_parameters)" in group.remarks[-1]


def methods_of(output_format: str, data: bytes) -> str:
    if output_format == "parquet":
        return str(pq.read_table(io.BytesIO(data)).to_pylist())
    return data.decode()


@pytest.mark.parametrize("output_format", FORMATS)
def test_every_format_of_compare_shows_matched_and_unmatched_methods(
    output_format: str, plant: Plant, tmp_path: Path
) -> None:
    out = tmp_path / f"out.{output_format}"
    words = ["compare", str(ranks(plant)), "--match", "parameters=400±30%", "--format", output_format, "-o", str(out)]
    assert main(words) == 0
    text = methods_of(output_format, out.read_bytes())
    for expected in ("lora (r=4)", "bottleneck (size=3)", "full (nearest: 10,000 parameters)"):
        assert expected in text
    assert "r=16" not in text
    if output_format == "csv":
        assert len([*csv.DictReader(io.StringIO(text))]) == 2


def test_advise_and_report_take_match(plant: Plant, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, page = str(ranks(plant)), tmp_path / "page.html"
    assert main(["advise", folder, "--budget", "3gmacs", "--match", "parameters=400±30%"]) == 0
    out = capsys.readouterr().out
    assert "Use bottleneck (size=3) within 3 GMACs" in out
    assert "full (nearest: 10,000 parameters)" in out
    assert main(["report", folder, "--match", "parameters=400±30%", "-o", str(page)]) == 0
    text = page.read_text()
    assert "lora (r=4)" in text
    assert "lora (r=16)" not in text


def test_the_help_lists_every_quantity(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in QUANTITIES)
