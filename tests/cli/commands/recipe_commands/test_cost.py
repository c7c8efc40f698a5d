from __future__ import annotations

import json

import pytest

from peftkit.analysis.cost_estimate import format_number
from tests.cli.conftest import Peftkit

SMALL = (
    "--set",
    "model.name=pocket-encoder",
    "--set",
    "task={name = 'wordnet_topic'}",
    "--set",
    "train.batch_size=32",
)


def test_cost_of_one_recipe_is_a_page(peftkit: Peftkit) -> None:
    code, out, err = peftkit("cost", "x.toml", *SMALL)
    assert (code, err) == (0, "")
    rows = [line.split(maxsplit=1)[0] for line in out.splitlines()[1:]]
    assert rows == ["trainable", "per", "per", "total", "memory", "checkpoint"]
    assert "GMACs" in out


def test_numbers_have_five_digits_and_no_exponent() -> None:
    assert [format_number(n) for n in (172_012.4, 5.9758, 0.00012345678)] == ["172,010", "5.9758", "0.00012346"]


@pytest.mark.slow
@pytest.mark.parametrize("trial", [False, True])
def test_cost_of_several_recipes_is_a_line_each(peftkit: Peftkit, *, trial: bool) -> None:
    code, out, err = peftkit("cost", "x.toml", "x.toml", *SMALL, *(["--trial"] if trial else []))
    assert (code, err) == (0, "")
    head, first, second = out.splitlines()
    assert head.split()[-1] == ("total" if trial else "checkpoint")
    assert len(head) == len(first) == len(second)
    assert first.split()[:8] == second.split()[:8]
    assert "?" not in first


@pytest.mark.slow
def test_cost_json_has_all_numbers_and_a_trial_adds_seconds(peftkit: Peftkit) -> None:
    code, out, err = peftkit("cost", "x.toml", "--json", "--trial", *SMALL)
    [estimate] = json.loads(out)["recipes"]
    assert (code, err) == (0, "")
    assert estimate["gmacs_per_epoch"] == pytest.approx(estimate["gmacs_per_step"] * estimate["steps_per_epoch"])
    assert estimate["seconds_per_epoch"] == pytest.approx(estimate["seconds_per_step"] * estimate["steps_per_epoch"])
    parts = ("weight_bytes", "gradient_bytes", "optimizer_bytes", "activation_bytes")
    assert estimate["memory_bytes"] == sum(estimate[key] for key in parts)


def test_cost_of_an_invalid_recipe_is_an_error(peftkit: Peftkit) -> None:
    code, out, err = peftkit("cost", "x.toml", "--set", "train.batch_size=0")
    assert (code, out) == (2, "")
    assert "train.batch_size" in err


def test_what_fits_into_memory_is_a_table_with_the_remedy(peftkit: Peftkit) -> None:
    code, out, err = peftkit("cost", "x.toml", *SMALL, "--fits", "24GiB")
    assert (code, err) == (0, "")
    head, titles, *rows = out.splitlines()
    assert head.endswith("24 GiB of memory")
    assert titles.split() == [*("weights", "checkpointing", "rows", "microbatches", "memory", "GMACs/step", "fits")]
    assert [row.split()[-1] for row in rows[:-1]] == ["yes"] * 4
    assert rows[-1].startswith("  fits as written: ")
    code, out, err = peftkit("cost", "x.toml", *SMALL, "--set", "train.batch_size=2", "--fits", "1MB", "--json")
    [document] = json.loads(out)["recipes"]
    assert (code, document["remedy"]) == (0, None)
    assert document["limit_bytes"] == 1e6
    assert all(setup["memory_bytes"] > 1e6 for setup in document["setups"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--fits", "much"), "--fits: "),
        (("--fits", "0GiB"), "--fits: "),
        (("--fits", "24GiB", "--trial"), "--fits estimates memory; leave out --trial"),
        (("--fits", "24GiB", "--serving"), "--fits estimates memory; leave out --serving"),
    ],
)
def test_invalid_questions_about_memory_are_errors(peftkit: Peftkit, options: tuple[str, ...], words: str) -> None:
    code, out, err = peftkit("cost", "x.toml", *options)
    assert (code, out) == (2, "")
    assert words in err
