"""What a run ran on: versions, hardware, git commit, plugins, and the variables and configuration that act on it.

Of the environment only those variables are written down that ``runner.variables`` names: no account, no secret.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from peftkit.plugins import Registry
from peftkit.runner.launch import read_launch
from peftkit.runner.variables import recorded_variables, variables_set_aside
from peftkit.runs import device_name

PACKAGES = (
    "peftkit",
    "torch",
    "transformers",
    "peft",
    "adapters",
    "accelerate",
    "datasets",
    "evaluate",
    "tokenizers",
    "safetensors",
    "numpy",
    "scikit-learn",
    "sacrebleu",
    "rouge-score",
    "deepspeed",
    "wandb",
)


def describe(registry: Registry, accelerator: Accelerator) -> dict[str, Any]:
    """The content of ``environment.json``."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "plugins": dict(registry.distributions),
        "git_commit": git_commit(Path(__file__).parents[1]),
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_bytes": _memory(),
            "device": device_name(str(accelerator.device), devices),
            "devices": devices,
            "cuda": torch.version.cuda,
        },
        "processes": accelerator.num_processes,
        "distributed": accelerator.distributed_type.value,
        "mixed_precision": accelerator.mixed_precision,
        "variables": recorded_variables(),
        "variables_without_effect": variables_set_aside(),
        "accelerate_configuration": dict(read_launch().configuration),
    }


def git_commit(folder: Path) -> str | None:
    """The commit that the code lies at, with ``+changes`` if it was edited; None outside of a checkout."""
    if not (folder.parent / ".git").exists():  # an installed package inside somebody else's checkout is not ours
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
