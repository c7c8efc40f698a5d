from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from peftkit.cli import costing

Peftkit = Callable[..., tuple[int, str, str]]
SMALL = (
    "--set",
    "model.name=pocket-encoder",
    "--set",
    "task={name = 'wordnet_topic'}",
    "--set",
    "train.batch_size=256",
)


@pytest.fixture(autouse=True)
def only_the_built_in(monkeypatch: pytest.MonkeyPatch, registry: object) -> None:
    monkeypatch.setattr(costing, "load_registry", lambda: registry)


def test_the_costs_of_a_recipe_are_a_page(peftkit: Peftkit) -> None:
    code, out, err = peftkit("cost", "x.toml", *SMALL)
    assert (code, err) == (0, "")
    rows = [line.split(maxsplit=1)[0] for line in out.splitlines()[1:]]
    assert rows == ["trainable", "a", "an", "the", "memory", "checkpoint"]
    assert "GMACs" in out


def test_large_numbers_are_written_out() -> None:
    assert [costing._number(n) for n in (172_012.4, 5.9758, 0.00012345678)] == ["172,010", "5.9758", "0.00012346"]


@pytest.mark.parametrize("trial", [False, True])
def test_the_costs_of_several_are_a_line_each(peftkit: Peftkit, *, trial: bool) -> None:
    code, out, err = peftkit("cost", "x.toml", "x.toml", *SMALL, *(["--trial"] if trial else []))
    assert (code, err) == (0, "")
    head, first, second = out.splitlines()
    assert head.split()[-1] == ("s/run" if trial else "checkpoint")
    assert len(head) == len(first) == len(second)
    assert first.split()[:8] == second.split()[:8]
    assert "?" not in first


def test_json_holds_the_same_and_a_trial_the_time(peftkit: Peftkit) -> None:
    code, out, err = peftkit("cost", "x.toml", "--json", "--trial", *SMALL)
    [told] = json.loads(out)["recipes"]
    assert (code, err) == (0, "")
    assert told["gmacs_per_epoch"] == pytest.approx(told["gmacs_per_step"] * told["steps_per_epoch"])
    assert told["seconds_per_epoch"] == pytest.approx(told["seconds_per_step"] * told["steps_per_epoch"])
    parts = ("weight_bytes", "gradient_bytes", "optimizer_bytes", "activation_bytes")
    assert told["memory_bytes"] == sum(told[key] for key in parts)


def test_a_wrong_recipe_among_them_costs_nothing(peftkit: Peftkit) -> None:
    code, out, err = peftkit("cost", "x.toml", "--set", "train.batch_size=0")
    assert (code, out) == (2, "")
    assert "train.batch_size" in err


def test_a_profile_is_printed_and_its_events_are_written(peftkit: Peftkit, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    code, out, _ = peftkit("profile", "x.toml", "--trace", str(trace), *SMALL, "--set", "train.batch_size=4")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[2:7]] == ["data", "forward", "backward", "optimizer", "other"]
    assert "GMAC/s" in out
    assert lines[-1] == f"  events: {trace}"
    assert trace.stat().st_size > 1000


def test_where_events_cannot_be_written_no_step_is_made(peftkit: Peftkit, tmp_path: Path) -> None:
    code, out, err = peftkit("profile", "x.toml", "--trace", str(tmp_path / "none" / "trace.json"), *SMALL)
    assert (code, out) == (2, "")
    assert "--trace" in err
    assert "No such file or directory" in err
