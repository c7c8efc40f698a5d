"""Reads how this process was launched: the command line and the configuration file of ``accelerate launch``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from peftkit.distributed.environment_variables import CONFIGURATION_KEYS


@dataclass(frozen=True)
class Launch:
    """What ``accelerate launch`` was configured to start.

    Attributes:
        processes: The number of processes; 1 without a launcher.
        file: The launcher's configuration file; empty if there is none.
        configuration: The keys of that file that may affect a run.
    """

    processes: int = 1
    file: str = ""
    configuration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def notice(self) -> str:
        """The keys of the file that affect the run, in one line; empty if there are none."""
        effective = [
            f"{key} = {value}"
            for key, value in self.configuration.items()
            if CONFIGURATION_KEYS.get(key, ("recorded",))[0] == "recorded"
        ]
        return f"accelerate's configuration {self.file}: {', '.join(effective)}" if effective else ""


def read_launch() -> Launch:
    """Read the launch from the command line of the parent process.

    It may ask for more processes than there are: with ``--cpu`` the launcher silently starts one.
    """
    try:
        arguments = psutil.Process().parent().cmdline()  # type: ignore[union-attr]
    except (psutil.Error, AttributeError):
        return Launch()
    return parse_launch(arguments, os.environ)


def parse_launch(words: Sequence[str], variables: Mapping[str, str]) -> Launch:
    """Parse a command line of ``accelerate launch``.

    Args:
        words: The command line of the parent process.
        variables: The environment variables.

    Returns:
        The launch; one process if the command is another one.
    """
    if not all(any(part in word for word in words) for part in ("accelerate", "launch")):
        return Launch()
    # With --cpu the launcher ignores its default file.
    file = _option(words, "config_file") or ("" if "--cpu" in words else str(default_file(variables)))
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    known = content if isinstance(content, dict) else {}
    effective = {
        key: value
        for key, value in known.items()
        if value not in (None, "", {}, []) and CONFIGURATION_KEYS.get(key, ("recorded",))[0] != "irrelevant"
    }
    processes = _option(words, "num_processes") or str(effective.get("num_processes", ""))
    return Launch(int(processes) if processes.isdigit() else 1, file if known else "", effective)


def default_file(variables: Mapping[str, str]) -> Path:
    """Return the file that ``accelerate config`` writes and the launcher reads by default."""
    cache = Path(variables.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(variables.get("HF_HOME") or cache).expanduser() / "accelerate" / "default_config.yaml"


def _option(words: Sequence[str], name: str) -> str:
    """Return the value of a launcher's option; empty if it is not given."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        key, _, value = word.partition("=")
        if key in (f"--{name}", f"--{name.replace('_', '-')}"):
            return value or following
    return ""
