"""Shell completion, by the protocol of argcomplete's scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from peftkit.cli.completers import component_names, metric_names, model_names
from peftkit.plugins import Registry
from tests.cli.conftest import Peftkit

ROOT = Path(__file__).parents[2]
Complete = Callable[[str], set[str]]


@pytest.fixture
def complete(tmp_path: Path) -> Complete:
    """Completes a line in a process in which importing torch fails."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')", encoding="utf-8")

    def run(line: str) -> set[str]:
        answer = tmp_path / "answer"
        variables = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "fish", "COMP_LINE": line, "COMP_POINT": str(len(line))}
        variables |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_IFS": "\n"}
        path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, **variables, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-m", "peftkit"], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        return {word.strip() for word in answer.read_text().splitlines()}

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("peftkit sh", {"show"}),
        ("peftkit task pr", {"preview"}),
        ("peftkit show prefix_t", {"prefix_tuning"}),
        ("peftkit show wordnet_", {"wordnet_distractors", "wordnet_glosses", "wordnet_mcq", "wordnet_topic"}),
        ("peftkit show lora --model pocket", {"pocket-t5", "pocket-decoder", "pocket-encoder"}),
        ("peftkit show lora --model pocket-t5 --set lora_al", {"lora_alpha="}),
        ("peftkit compare runs --baseline prefix_t", {"prefix_tuning"}),
        ("peftkit compare runs --metric answer_l", {"answer_leakage"}),
        ("peftkit run recipes/quickstart.toml --set train.batch", {"train.batch_size="}),
        ("peftkit run recipes/quickstart.toml --set method.lora_al", {"method.lora_alpha="}),
        ("peftkit run recipes/quickstart.toml --set method.name=prefix_t", {"method.name=prefix_tuning"}),
        ("peftkit check recipes/quickstart.toml --set task.name=wordnet_m", {"task.name=wordnet_mcq"}),
        ("peftkit run recipes/quickstart.toml --set train.mixed_precision=bf", {"train.mixed_precision=bf16"}),
        ("peftkit run recipes/quickstart.toml --set train.optimizer=adamw", {"train.optimizer=adamw"}),
        ("peftkit check recipes/quickstart.toml --set method.lora_al", {"method.lora_alpha="}),
        ("peftkit check recipes/quick", {"recipes/quickstart.toml"}),
    ],
)
def test_commands_components_and_keys_complete(line: str, expected: set[str], complete: Complete) -> None:
    assert complete(line) == expected


def test_every_component_completes_with_its_summary(peftkit: Peftkit, registry: Registry) -> None:
    assert component_names()("") == {entry.name: entry.summary for entry in registry.entries}
    assert set(component_names("method")("")) == set(registry.all("method"))
    assert {"loss", "accuracy"} <= set(metric_names(""))
    Path("models/mine").mkdir(parents=True)
    assert set(model_names("mod")) == {"models/"}
    assert set(model_names("models/")) == {"models/mine/"}
    assert model_names("nowhere/") == {}


@pytest.mark.usefixtures("rich")
def test_a_plugin_s_components_complete() -> None:
    assert component_names("method")("rich") == {"rich": "A method with options of every type."}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_has_installation_instructions(shell: str, peftkit: Peftkit) -> None:
    code, out, err = peftkit("completion", shell)
    assert (code, err) == (0, "")
    assert "# To install, " in out
    assert f"peftkit completion {shell}" in out
    if program := shutil.which(shell):
        assert subprocess.run([program, "-n"], input=out, text=True, capture_output=True).stderr == ""


def test_an_unsupported_shell_is_rejected(peftkit: Peftkit) -> None:
    code, _, err = peftkit("completion", "tcsh")
    assert code == 2
    assert "'tcsh'" in err
