"""Collects what a run ran on: versions, hardware, git commit, plugins, environment variables and launch configuration.

Only environment variables listed in ``distributed.environment_variables`` are recorded, so no secrets are.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from peftkit.distributed.environment_variables import ignored_environment_variables, recorded_environment_variables
from peftkit.distributed.launch_config import read_launch
from peftkit.plugins import Registry
from peftkit.run_directory import device_name

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


def collect_environment(registry: Registry, accelerator: Accelerator) -> dict[str, Any]:
    """Return the content of ``environment.json``.

    Args:
        registry: The installed components.
        accelerator: The Accelerator of the run.
    """
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
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
        "environment_variables": recorded_environment_variables(),
        "ignored_environment_variables": ignored_environment_variables(),
        "accelerate_configuration": dict(read_launch().configuration),
    }


def git_commit(folder: Path) -> str | None:
    """Return the commit of the code, with ``+changes`` if it was edited; None outside of a git checkout."""
    if not (folder.parent / ".git").exists():  # peftkit may be installed within another checkout
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


@cache
def package_versions() -> dict[str, str]:
    """Return the versions of the installed packages that runs record; looking them up takes a while."""
    return {name: installed for name in PACKAGES if (installed := _version(name))}


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
