from __future__ import annotations

from pathlib import Path

import pytest

from peftkit.errors import InputError
from peftkit.sweep.sweep_file import read_sweep
from tests.sweep.conftest import Written


def test_the_old_key_skip_refused_is_read(written: Written) -> None:
    assert read_sweep(written("skip_refused = true\n[axes]\nseed = [1]\n")).skip_incompatible


def test_defaults(written: Written) -> None:
    table = read_sweep(written("[axes]\nseed = [1]\n"))
    assert (table.name, table.skip_incompatible, table.tune, table.local.jobs) == ("s", False, None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"sweep.toml:1: axes: missing"),
        ("[axes]\nseed = [1]\n[tun]\n", r"sweep.toml:6: tun: unknown key; allowed: .*did you mean 'tune'"),
        ("[axes]\nseed = [1]\n[tune]\ntrial = 3\n", r"sweep.toml:7: tune.trial: .*did you mean 'trials'"),
        (
            "[axes]\nseed = [1]\n[tune]\ntrials = 3\ngmacs = 5\n",
            r"sweep.toml:8: tune.gmacs: was removed.*set tune.trials instead",
        ),
        ("[axes]\nseed = [1]\n[tune]\ntrials = 2\n", r"sweep.toml:7: tune.trials: .*greater than or equal to 3"),
        (
            "[axes]\nseed = [1]\n[tune.head]\ntrial = 3\n",
            r"sweep.toml:7: tune.head.trial: .*did you mean 'trials'",
        ),
        ("[axes]\nseed = [1]\n[tune.head]\ntrials = 2\n", r"sweep.toml:7: tune.head.trials: .*greater than"),
        ("[axes]\nseed = [1]\n[tune.head]\nlow = 1.0\n", r"sweep.toml:6: tune.head: low must be below high"),
        ("[axes]\nseed = [1]\n[tune]\ntrials = '3'\n", r"sweep.toml:7: tune.trials: "),
        ("[axes]\nseed = [1]\n[local]\njobs = 0\n", r"sweep.toml:7: local.jobs: .*greater than 0"),
        ("[axes\n", r"cannot be read"),
    ],
)
def test_errors_have_their_line(written: Written, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_sweep(written(text))


def test_a_missing_file_is_an_error_with_a_suggestion(written: Written) -> None:
    path = written("[axes]\nseed = [1]\n")
    with pytest.raises(InputError, match=r"no such file.*did you mean 'sweep.toml'"):
        read_sweep(path.with_name("sweeps.toml"))
    with pytest.raises(InputError, match="cannot be read"):
        read_sweep(Path(path.parent))
