"""Environment variables that a library cannot parse are errors before it is imported."""

from __future__ import annotations

import re

import pytest

import peftkit
from peftkit.cli import main
from peftkit.distributed.parsed_variables import PARSED_AT_IMPORT, check_parsed_variables
from peftkit.errors import InputError
from tests.distributed.test_environment_variables import names, variables_of_libraries


@pytest.mark.parametrize("name", PARSED_AT_IMPORT)
def test_a_variable_that_a_library_cannot_parse_is_one_error(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "garbage")
    assert main(["list", "meters"]) == 2
    allowed = "(true or false|a whole number of seconds|a number of bytes)"
    expected = f"peftkit: error: {name}: must be {allowed}, not 'garbage'; unset it"
    assert re.fullmatch(expected, capsys.readouterr().err.strip())
    with pytest.raises(InputError, match=f"{name}: must be "):
        peftkit.load_model("nowhere")


@pytest.mark.parametrize("name", PARSED_AT_IMPORT)
def test_values_that_libraries_can_parse_are_accepted_and_empty_ones_removed(name: str) -> None:
    variables = {name: "1"}
    check_parsed_variables(variables)
    assert variables == {name: "1"}
    variables[name] = " "
    check_parsed_variables(variables)
    assert variables == {}


def test_every_variable_that_is_parsed_at_import_is_checked() -> None:
    pattern = r"^\w+(?:: [^=]+)? = .*\b(?:int|float|_as_int|parse_flag_from_env|str_to_bool)\(.*?\"([A-Z_]+)\""
    files = {
        names.library_folder(module.split("/")[0]).parent / module
        for places in variables_of_libraries().values()
        for module in places
    }
    parsed = {name for file in files for name in re.findall(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)}
    assert "USE_TORCH_XLA" in parsed
    assert parsed <= PARSED_AT_IMPORT.keys()
