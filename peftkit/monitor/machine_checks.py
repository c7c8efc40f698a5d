"""Checks of the machine and the environment, each with its remedy."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from peftkit.cache_folder import cache_folder
from peftkit.distributed.environment_variables import OFF, rule_for
from peftkit.distributed.launch_config import default_file
from peftkit.errors import InputError, summarize_error
from peftkit.monitor.collect_env import package_versions
from peftkit.plugins import Registry

Status = Literal["ok", "note", "problem"]
HUB_SECONDS = 2.0
"""How long to wait for the Hugging Face Hub."""
LEAST_FREE = 2 * 2**30
"""Bytes of free disk below which a run with a model of the hub may not fit."""


class MachineCheck(NamedTuple):
    """The outcome of a check.

    Attributes:
        name: What was checked.
        status: ``ok``, ``note`` if it may matter, ``problem`` if something does not work.
        text: What it is.
        remedy: What to do; empty if nothing has to be done.
    """

    name: str
    status: Status
    text: str
    remedy: str = ""


def check_machine(registry: Registry, variables: Mapping[str, str] = os.environ) -> Iterator[MachineCheck]:
    """Yield the outcome of each check.

    Args:
        registry: The installed components.
        variables: The environment variables.
    """
    yield MachineCheck("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield from _check_packages()
    yield _check_torch()
    yield from _check_plugins(registry)
    yield from _check_variables(variables)
    yield from _check_accelerate(variables)
    yield _check_back_ends()
    yield from _check_folders(variables)
    yield _check_wandb(variables)
    yield _check_hub(variables)


def _check_packages() -> Iterator[MachineCheck]:
    """Compare the installed versions with those that peftkit requires; ``pip check`` does it for all packages."""
    installed = ", ".join(f"{name} {number}" for name, number in package_versions().items() if name != "torch")
    yield MachineCheck("packages", "ok", installed)
    for text in requires("peftkit") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            present = version(requirement.name)
        except PackageNotFoundError:
            present = ""
        if not present or not requirement.specifier.contains(present, prereleases=True):
            state = f"is {present}" if present else "is not installed"
            yield MachineCheck(
                "packages",
                "problem",
                f"{requirement.name} {state}",
                f"pip install '{str(requirement).partition(';')[0]}'",
            )


def _check_torch() -> MachineCheck:
    try:
        import torch
    except Exception as error:
        return MachineCheck(
            "torch", "problem", summarize_error(error), "install torch again: https://pytorch.org/get-started"
        )
    build = torch.version.cuda or torch.version.hip or "CPU"
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return MachineCheck("torch", "ok", f"{torch.__version__}, build {build}, {names}")
    threads = f"{torch.get_num_threads()} threads"
    if build != "CPU":
        remedy = "install the driver, or the CPU build of torch"
        return MachineCheck(
            "torch", "note", f"{torch.__version__} is built for {build}, but sees no GPU; {threads}", remedy
        )
    return MachineCheck("torch", "ok", f"{torch.__version__}, CPU, {threads}")


def _check_plugins(registry: Registry) -> Iterator[MachineCheck]:
    distributions = sorted({f"{entry.distribution} {entry.version}" for entry in registry.entries})
    yield MachineCheck("plugins", "ok", ", ".join(distributions) or "none")
    for failure in registry.failures:
        yield MachineCheck("plugins", "problem", str(failure), "update or uninstall the plugin")


def _check_variables(variables: Mapping[str, str]) -> Iterator[MachineCheck]:
    """Find the variables that a run rejects or ignores."""
    for name, value in sorted(variables.items()):
        rule = rule_for(name)
        if rule is None or value.strip().lower() in OFF:
            continue
        if rule.treatment == "rejected":
            yield MachineCheck("environment", "problem", f"{name} is set: {rule.reason}", f"unset {name}")
        elif rule.treatment == "ignored":
            yield MachineCheck("environment", "note", f"{name} is ignored in runs: {rule.reason}", f"unset {name}")


def _check_accelerate(variables: Mapping[str, str]) -> Iterator[MachineCheck]:
    file = Path(default_file(variables))
    if file.is_file():
        text = f"`accelerate launch` reads {file}, which runs print and record"
        yield MachineCheck("accelerate", "note", text, "to use another one, give its name to accelerate launch")


def _check_back_ends() -> MachineCheck:
    from torch import distributed

    if not distributed.is_available():
        return MachineCheck(
            "distributed", "note", "torch is built without it", "several processes need another build of torch"
        )
    present = [name for name in ("gloo", "nccl", "mpi") if getattr(distributed, f"is_{name}_available")()]
    with suppress(PackageNotFoundError):
        present.append(f"deepspeed {version('deepspeed')}")
    return MachineCheck("distributed", "ok", ", ".join(present))


def _check_folders(variables: Mapping[str, str]) -> Iterator[MachineCheck]:
    try:
        cache = cache_folder()
    except InputError as error:
        yield MachineCheck("cache", "problem", str(error), "set PEFTKIT_CACHE to a writable folder")
    else:
        yield MachineCheck("cache", "ok", str(cache))
    hub = Path(variables.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
    for name, folder in (("disk", Path()), ("disk of HF_HOME", hub)):
        existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
        free = shutil.disk_usage(existing).free
        text = f"{free / 2**30:.1f} GiB free in {existing}"
        enough = free >= LEAST_FREE
        yield MachineCheck(name, "ok" if enough else "note", text, "" if enough else "free space, or use another disk")


def _check_wandb(variables: Mapping[str, str]) -> MachineCheck:
    """Find out whether W&B has a key, without reading it."""
    host = urlsplit(variables.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        logged_in = bool(variables.get("WANDB_API_KEY")) or netrc().authenticators(host) is not None
    except (OSError, NetrcParseError):
        logged_in = False
    if logged_in:
        return MachineCheck("wandb", "ok", f"has a key for {host}")
    return MachineCheck("wandb", "note", "no key: runs are tracked offline", "wandb login")


def _check_hub(variables: Mapping[str, str]) -> MachineCheck:
    """Connect to the hub, or to the proxy that leads there."""
    if variables.get("HF_HUB_OFFLINE", "").strip().lower() not in OFF:
        return MachineCheck("hub", "note", "HF_HUB_OFFLINE is set: only cached models and data sets are used")
    endpoint = urlsplit(variables.get("HF_ENDPOINT") or "https://huggingface.co")
    proxy = urlsplit(variables.get("HTTPS_PROXY") or variables.get("https_proxy") or "")
    address = proxy if proxy.hostname else endpoint
    host, port = address.hostname or "", address.port or (80 if address.scheme == "http" else 443)
    start, errors = time.perf_counter(), [f"no answer in {HUB_SECONDS:g} s"]
    # In a thread, because looking up a name has no time-out.
    thread = threading.Thread(target=_connect, args=(host, port, errors), daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if errors:
        remedy = "use local folders or cached files, and set HF_HUB_OFFLINE=1; or check the network and HTTPS_PROXY"
        return MachineCheck("hub", "note", f"{host} cannot be reached: {errors[-1]}", remedy)
    return MachineCheck("hub", "ok", f"{host} answers in {1000 * (time.perf_counter() - start):.0f} ms")


def _connect(host: str, port: int, errors: list[str]) -> None:
    """Connect to a server; empty the list of errors if that works, else add one."""
    try:
        socket.create_connection((host, port), timeout=HUB_SECONDS).close()
    except OSError as error:
        errors.append(summarize_error(error))
    else:
        errors.clear()
