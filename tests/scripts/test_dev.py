"""What runs before a commit is what CI checks."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_hooks_before_a_commit_are_the_commands_of_lint() -> None:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "scripts/dev.py")
    assert spec is not None
    assert spec.loader is not None
    dev = importlib.util.module_from_spec(spec)
    sys.modules["dev"] = dev  # dataclasses look it up
    spec.loader.exec_module(dev)
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    hooks = [shlex.split(hook["entry"]) for hook in repository["hooks"]]
    own = f"{dev.MAIN.name}/bin/"
    assert all(hook[0].startswith(own) for hook in hooks)
    commands = [tuple(w for w in (hook[0].removeprefix(own), *hook[1:]) if w != "--force-exclude") for hook in hooks]
    assert commands == [tuple(word for word in command if word != "--check") for command in dev.LINT]
