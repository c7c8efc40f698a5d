"""Environment variables do not change results: they are recorded, ignored or rejected."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peftkit.cli import main
from peftkit.distributed.accelerator import AcceleratorOptions, init_accelerator, make_accelerator, shutdown
from peftkit.distributed.environment_variables import (
    BOOLEANS,
    CONFIGURATION_KEYS,
    FRAMEWORKS,
    VARIABLES,
    environment_notice,
    ignore_environment_variables,
    ignored_environment_variables,
    is_main_process,
    read_world_size,
    recorded_environment_variables,
    restore_environment_variables,
    rule_for,
)
from peftkit.distributed.launch_config import parse_launch
from peftkit.errors import InputError, RunError
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from tests.tiny_runs import Make

spec = importlib.util.spec_from_file_location(
    "environment_names", Path(__file__).parents[2] / "scripts" / "environment_names.py"
)
assert spec
assert spec.loader
names = importlib.util.module_from_spec(spec)
spec.loader.exec_module(names)

VALUES = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "inductor",
    "ACCELERATE_TORCH_DEVICE": "cpu",
    "ACCELERATE_FP8_BACKEND": "TE",
    "ACCELERATE_CONFIG_DS_FIELDS": "zero_stage,gradient_clipping",
    "ACCELERATE_LOG_LEVEL": "debug",
    "ACCELERATE_DEBUG_RDV_FILE": "/nowhere",
    "OMP_NUM_THREADS": "1",
}
"""Values of variables that are neither booleans nor numbers."""


@cache
def variables_of_libraries() -> dict[str, set[str]]:
    """The variables that the installed libraries read, with the modules that read them."""
    return names.environment_names()  # type: ignore[no-any-return]


def other_value(name: str) -> str:
    return VALUES.get(name) or ("4" if name.endswith(("STEPS", "STAGE", "CLIPPING", "THREADS", "SIZE")) else "true")


def may_act(name: str) -> bool:
    rule = rule_for(name)
    return name.startswith(("ACCELERATE_", "FSDP_")) or (rule is not None and rule.treatment in ("ignored", "rejected"))


# Two variables select another kind of launch, which must agree with the recipe.
LAUNCHES = {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"}
REFUSED = sorted({n for rule in VARIABLES if rule.treatment == "rejected" for n in rule.names.split()})


def acting_variables() -> list[str]:
    """The variables that could change a step."""
    return sorted(n for n in variables_of_libraries() if "*" not in n and may_act(n) and n not in LAUNCHES)


def test_every_variable_of_the_libraries_is_classified() -> None:
    read = variables_of_libraries()
    unknown = {name: places for name, places in read.items() if rule_for(name) is None}
    assert not unknown
    assert not names.configuration_keys().keys() - CONFIGURATION_KEYS.keys()
    assert len(read) > 200


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('os.environ["A"]', {"A"}),
        ('os.environ.get("A", 1) or os.getenv("B")', {"A", "B"}),
        ('P = "A_"\nos.environ[P + "X"]', {"A_X"}),
        ('def f(p):\n    return os.environ[p + "X"]', {"*X"}),
        ('for n in ["A", "B"]:\n    os.environ.pop(n)', {"A", "B"}),
        ('e = os.environ.copy()\ne["A"] = "1"', {"A"}),
        ('"A" in os.environ', {"A"}),
        ('parse_flag_from_env("A") or get_int_from_env(["B", "C"], 1)', {"A", "B", "C"}),
        ('from os import environ\nenviron[f"A_{x}"]', {"A_*"}),
        ('os.environ["A" if x else "B"]', {"A", "B"}),
    ],
)
def test_names_are_extracted_from_source(source: str, expected: set[str]) -> None:
    assert names.names_in(source) == expected


@pytest.fixture
def without_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ending an Accelerator collects garbage, which takes half a second."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


def gradient() -> torch.Tensor:
    """The weights after one step of a plain Accelerator with a fixed loss."""
    accelerator = make_accelerator(cpu=True)
    try:
        torch.manual_seed(0)
        layer = nn.Linear(3, 1)
        model, optimizer = accelerator.prepare(layer, torch.optim.SGD(layer.parameters(), lr=1.0))
        accelerator.backward(model(torch.ones(2, 3)).square().sum())
        accelerator.clip_grad_norm_(layer.parameters(), 100.0)
        optimizer.step()
        return layer.weight.detach().clone()
    finally:
        shutdown(accelerator)


@pytest.mark.usefixtures("without_collection")
def test_no_variable_changes_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gradient()
    acting = acting_variables()
    assert len(acting) > 100
    for name in acting:
        with monkeypatch.context() as changed:
            changed.setenv(name, other_value(name))
            before = dict(os.environ)
            if rule_for(name).treatment == "rejected":  # type: ignore[union-attr]
                with pytest.raises(InputError, match=rf"{name}=.*unset {name}"):
                    gradient()
            else:
                assert gradient().equal(expected), name
            assert dict(os.environ) == before, name


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_rejects_variables_that_change_numbers(
    name: str, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(InputError, match=rf"{name}=1 is not supported: .*unset {name}"):
        run(make("decoder"), registry)
    monkeypatch.setenv(name, "0")
    ignore_environment_variables()
    restore_environment_variables()


def test_a_run_under_all_variables_is_bit_identical(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make("decoder", "train.gradient_accumulation_steps=2", "train.optimizer=sgd")
    plain = run(recipe, registry)
    for name in acting_variables():
        if rule_for(name).treatment == "ignored":  # type: ignore[union-attr]
            monkeypatch.setenv(name, other_value(name))
    monkeypatch.setenv("ACCELERATE_OF_A_LATER_VERSION", "4")
    under = run(recipe, registry)
    assert plain
    assert under
    assert losses(plain) == losses(under)
    environment = RunDirectory(under).environment()
    assert environment["ignored_environment_variables"]["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] == "4"
    assert environment["ignored_environment_variables"]["ACCELERATE_OF_A_LATER_VERSION"] == "4"
    assert environment["environment_variables"]["OMP_NUM_THREADS"] == os.environ["OMP_NUM_THREADS"]
    assert "ignored environment variables (the recipe decides): " in capsys.readouterr().out


def losses(path: Path) -> list[Any]:
    return [(row["step"], row["train"], row["dev"], row["test"]) for row in RunDirectory(path).evaluations()]


def test_secrets_are_not_recorded() -> None:
    secrets = {"HF_TOKEN": "a", "WANDB_API_KEY": "b", "AWS_SECRET_ACCESS_KEY": "c", "UNKNOWN": "d"}
    assert recorded_environment_variables(secrets) == {}


def test_default_values_of_launchers_are_not_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MIXED_PRECISION": "no", "DYNAMO_BACKEND": "NO", "DYNAMO_MODE": "default"}.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    ignore_environment_variables()
    try:
        assert len(ignored_environment_variables()) >= 3
        assert environment_notice() == ""
    finally:
        restore_environment_variables()


def test_the_launcher_s_configuration_is_read(tmp_path: Path) -> None:
    file = tmp_path / "accelerate" / "default_config.yaml"
    file.parent.mkdir()
    file.write_text("num_processes: 2\nmixed_precision: bf16\nmain_process_port: 1\ngpu_ids: null\nof_later: 3\n")
    launcher, here = ["python", "/bin/accelerate", "launch"], {"HF_HOME": str(tmp_path)}
    launch = parse_launch([*launcher, "-m", "peftkit"], here)
    assert launch.processes == 2
    assert launch.configuration == {"num_processes": 2, "mixed_precision": "bf16", "of_later": 3}
    assert launch.notice == f"accelerate's configuration {file}: num_processes = 2, of_later = 3"
    assert parse_launch([*launcher, "--num_processes=1"], here).processes == 1
    assert parse_launch([*launcher, "--num-processes", "3"], here).processes == 3
    assert parse_launch([*launcher, "--num_processes", "3"], here).processes == 3
    assert parse_launch([*launcher, "--cpu"], here).file == ""  # ignored by accelerate too
    assert parse_launch([*launcher, "--cpu", "--config_file", str(file)], {}).processes == 2
    assert parse_launch(["bash"], here) == parse_launch([*launcher], {"HF_HOME": str(tmp_path / "none")})
    file.write_text("- no mapping")
    assert parse_launch(launcher, here).configuration == {}


@pytest.mark.parametrize("value", ["x", "-1", "0", "1.5", "²"])
def test_a_world_size_that_is_no_number_of_processes_is_rejected(value: str) -> None:
    with pytest.raises(InputError, match=f"WORLD_SIZE: must be a number of processes, not '{value}'; unset it"):
        read_world_size({"WORLD_SIZE": value, "RANK": "0"})


def test_a_world_size_without_a_launcher_is_rejected() -> None:
    with pytest.raises(InputError, match="WORLD_SIZE: it is 2, but no launcher started this process"):
        read_world_size({"WORLD_SIZE": "2"})
    assert read_world_size({"WORLD_SIZE": "2", "RANK": "0"}) == 2
    assert read_world_size({"WORLD_SIZE": "1"}) == read_world_size({"WORLD_SIZE": ""}) == read_world_size({}) == 1


@pytest.mark.parametrize("name", sorted(BOOLEANS))
def test_a_boolean_that_accelerate_cannot_read_is_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "perhaps")
    with pytest.raises(InputError, match=f"{name}: must be true or false, not 'perhaps'; unset it"):
        init_accelerator(AcceleratorOptions())


LEFT_OVER = {
    **dict.fromkeys(sorted(BOOLEANS), "perhaps"),
    **{"ACCELERATE_TORCH_DEVICE": "meta", "LOCAL_RANK": "0", "WORLD_SIZE": "x", "OMPI_COMM_WORLD_SIZE": "2"},
    "PMI_SIZE": "4",
}
"""Values of another launch, with which Accelerate fails or uses another device."""


@pytest.mark.usefixtures("without_collection")
@pytest.mark.parametrize("name", LEFT_OVER)
def test_a_single_process_does_not_depend_on_variables_of_a_launch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, LEFT_OVER[name])
    before = dict(os.environ)
    accelerator = make_accelerator(cpu=True)
    try:
        assert (str(accelerator.device), accelerator.num_processes) == ("cpu", 1)
        assert not ignored_environment_variables()
    finally:
        shutdown(accelerator)
    assert dict(os.environ) == before


@pytest.mark.usefixtures("without_collection")
@pytest.mark.parametrize("name", ["ACCELERATE_USE_CPU", "ACCELERATE_DEBUG_MODE", "ACCELERATE_TORCH_DEVICE"])
def test_an_empty_option_of_a_launch_is_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    shutdown(init_accelerator(AcceleratorOptions()))
    assert os.environ[name] == ""


def test_what_fails_in_accelerate_is_an_error_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCELERATE_USE_CPU": "true", "OMPI_COMM_WORLD_SIZE": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match="the launch failed in Accelerate: ValueError: invalid literal"):
        init_accelerator(AcceleratorOptions())


def test_a_local_rank_without_a_launcher_is_rejected() -> None:
    with pytest.raises(InputError, match="LOCAL_RANK: it is 0, but no launcher started this process, as RANK is not"):
        read_world_size({"LOCAL_RANK": "0"})
    with pytest.raises(InputError, match="LOCAL_RANK: must be the number of a process, not 'x'; unset it"):
        read_world_size({"LOCAL_RANK": "x"})
    assert read_world_size({"LOCAL_RANK": "-1"}) == 1


def test_a_rank_without_a_launch_is_the_main_process() -> None:
    assert is_main_process({"RANK": "3"})
    assert is_main_process({})
    assert is_main_process({"RANK": "0", "WORLD_SIZE": "2"})
    assert not is_main_process({"RANK": "1", "WORLD_SIZE": "2"})


@pytest.mark.parametrize("name", FRAMEWORKS.names.split())
@pytest.mark.parametrize("value", ["0", "1"])
def test_commands_remove_what_hides_torch(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert main(["list", "tasks"]) == 0
    assert name not in os.environ
