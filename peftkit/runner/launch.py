"""How this process was launched: what ``accelerate launch`` was asked for, on its command line and in its file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from peftkit.runner.variables import CONFIGURATION


@dataclass(frozen=True)
class Launch:
    """What ``accelerate launch`` was asked for.

    Attributes:
        processes: how many processes; 1 where nothing else started this process.
        file: its configuration file, empty where there is none.
        configuration: the keys of that file which may act on a run.
    """

    processes: int = 1
    file: str = ""
    configuration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def notice(self) -> str:
        """What of the file acts on the run; empty where there is none."""
        acting = [
            f"{key} = {value}"
            for key, value in self.configuration.items()
            if CONFIGURATION.get(key, ("recorded",))[0] == "recorded"
        ]
        return f"accelerate's configuration {self.file}: {', '.join(acting)}" if acting else ""


def read_launch() -> Launch:
    """What the launcher that started this process was asked for; with ``--cpu`` it starts one process, silently."""
    try:
        words = psutil.Process().parent().cmdline()  # type: ignore[union-attr]
    except (psutil.Error, AttributeError):
        return Launch()
    return launch_of(words, os.environ)


def launch_of(words: Sequence[str], variables: Mapping[str, str]) -> Launch:
    """What a command asks for, if it is ``accelerate launch``.

    Args:
        words: the command line of the process that started this one.
        variables: its environment.
    """
    if not all(any(part in word for word in words) for part in ("accelerate", "launch")):
        return Launch()
    # With --cpu the launcher does not read the default file either.
    file = _option(words, "config_file") or ("" if "--cpu" in words else str(default_file(variables)))
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    known = content if isinstance(content, dict) else {}
    acting = {
        key: value
        for key, value in known.items()
        if value not in (None, "", {}, []) and CONFIGURATION.get(key, ("recorded",))[0] != "irrelevant"
    }
    asked = _option(words, "num_processes") or str(acting.get("num_processes", ""))
    return Launch(int(asked) if asked.isdigit() else 1, file if known else "", acting)


def default_file(variables: Mapping[str, str]) -> Path:
    """The file that ``accelerate config`` writes, which its launcher reads where no file is named."""
    cache = Path(variables.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(variables.get("HF_HOME") or cache).expanduser() / "accelerate" / "default_config.yaml"


def _option(words: Sequence[str], name: str) -> str:
    """The value of a launcher's option; empty where it is not given."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        key, _, value = word.partition("=")
        if key in (f"--{name}", f"--{name.replace('_', '-')}"):
            return value or following
    return ""
