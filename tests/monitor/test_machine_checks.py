"""Checks of the machine, each with its remedy."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import InputError
from peftkit.monitor import machine_checks
from peftkit.monitor.machine_checks import MachineCheck, check_machine
from peftkit.plugins import Registry


@pytest.fixture
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables of a machine without a configuration, a key or a network."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    return {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}


def outcomes(registry: Registry, variables: dict[str, str], name: str) -> list[MachineCheck]:
    return [check for check in check_machine(registry, variables) if check.name == name]


def test_a_working_machine_has_no_problems(registry: Registry, variables: dict[str, str]) -> None:
    checks = [*check_machine(registry, variables)]
    assert [check for check in checks if check.status == "problem"] == []
    names = {
        "python",
        "packages",
        "torch",
        "plugins",
        "distributed",
        "cache",
        "disk",
        "disk of HF_HOME",
        "wandb",
        "hub",
    }
    assert names == {check.name for check in checks}
    assert all(check.text for check in checks)


@pytest.mark.parametrize(
    ("name", "status"), [("NVIDIA_TF32_OVERRIDE", "problem"), ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "note")]
)
def test_variables_that_would_change_a_run(
    name: str, status: str, registry: Registry, variables: dict[str, str]
) -> None:
    [check] = outcomes(registry, {**variables, name: "1"}, "environment")
    assert (check.status, check.remedy) == (status, f"unset {name}")
    assert name in check.text


def test_a_package_that_is_too_old_or_missing_is_a_problem(
    registry: Registry, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = ["torch>=999", "no-such-package>=1; extra == 'x'", "no-other-package"]
    monkeypatch.setattr(machine_checks, "requires", lambda name: needed)
    old, missing = [check for check in outcomes(registry, variables, "packages") if check.status == "problem"]
    assert old.text.startswith("torch is ")
    assert old.remedy == "pip install 'torch>=999'"
    assert missing.text == "no-other-package is not installed"


def test_the_file_of_accelerate_is_named(registry: Registry, variables: dict[str, str], tmp_path: Path) -> None:
    assert outcomes(registry, variables, "accelerate") == []
    file = tmp_path / "hub/accelerate/default_config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("num_processes: 2\n")
    [check] = outcomes(registry, variables, "accelerate")
    assert str(file) in check.text


def test_a_cache_that_cannot_be_written_is_a_problem(
    registry: Registry, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Any:
        raise InputError("no folder")

    monkeypatch.setattr(machine_checks, "cache_folder", fail)
    [check] = outcomes(registry, variables, "cache")
    assert (check.status, check.remedy) == ("problem", "set PEFTKIT_CACHE to a writable folder")


def test_keys_are_found_and_not_shown(registry: Registry, variables: dict[str, str], tmp_path: Path) -> None:
    [check] = outcomes(registry, variables, "wandb")
    assert (check.status, check.remedy) == ("note", "wandb login")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret-1\n")
    (tmp_path / ".netrc").chmod(0o600)
    for chosen in (variables, {**variables, "WANDB_API_KEY": "secret-2"}):
        checks = [*check_machine(registry, chosen)]
        [check] = [each for each in checks if each.name == "wandb"]
        assert check.status == "ok"
        assert "secret" not in str(checks)


@pytest.fixture
def server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_the_hub_is_tried_for_two_seconds(registry: Registry, variables: dict[str, str], server: str) -> None:
    del variables["HF_HUB_OFFLINE"]
    [check] = outcomes(registry, {**variables, "HF_ENDPOINT": server}, "hub")
    assert check.status == "ok"
    host, port = server.rsplit(":", 1)
    [check] = outcomes(registry, {**variables, "HF_ENDPOINT": f"{host}:{int(port) % 65_000 + 1}"}, "hub")
    assert check.status == "note"
    assert "cannot be reached" in check.text
    assert machine_checks.HUB_SECONDS == 2
