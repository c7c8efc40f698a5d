"""Joules of training: what NVML and RAPL count, and what codecarbon estimates where they do not."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import PrivateAttr

from peftkit import Meter, hookimpl

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)
POWERCAP = Path("/sys/class/powercap")
KWH = 3.6e6  # joules


@hookimpl
def register_meters() -> list[type[Meter]]:
    """The meter of this distribution."""
    return [Energy]


class Source(Protocol):
    """What says how much energy was used between two moments."""

    name: str

    def begin(self) -> None:
        """Remembers this moment."""

    def end(self) -> float:
        """Joules since then."""


class Energy(Meter):
    """Joules of training steps on this machine; evaluation, saving and the wait for data are not part of them.

    GPUs: the energy counter of NVML, of those that this machine's processes train on (Volta and newer). CPU and
    memory: RAPL's counters in ``/sys/class/powercap``, where the system lets them be read; they are of the whole
    machine, whatever else it does. What neither counts is estimated by codecarbon, from load and rated power. Each has
    a value of its own, so that a table says which it was. Of several machines only the main process's is read.
    """

    name: Literal["energy"] = "energy"

    budgets = ("joules",)

    _joules: dict[str, float] = PrivateAttr(default_factory=dict)
    _sources: list[Any] = PrivateAttr(default_factory=list)

    def start(self, model: nn.Module) -> None:
        """Finds out what can be read here."""
        self._sources = sources(next(model.parameters()).device.type == "cuda")
        if not self._sources:
            log.warning("nothing on this machine says how much energy is used: the run records no joules")
        self._joules = {source.name: 0.0 for source in self._sources}

    def begin(self) -> None:
        """Notes where the counters stand."""
        for source in self._sources:
            source.begin()

    def end(self) -> None:
        """Adds what the step took."""
        for source in self._sources:
            self._joules[source.name] += source.end()

    def read(self) -> dict[str, float]:
        """``joules``, the sum of ``joules_nvml``, ``joules_rapl`` and ``joules_estimated``, of which there are some."""
        each = {f"joules_{name}": value for name, value in self._joules.items()}
        return {"joules": sum(each.values()), **each} if each else {}

    def state(self) -> dict[str, Any]:
        """The joules so far, by source."""
        return {"joules": dict(self._joules)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from them, also where another machine has other sources."""
        self._joules |= state["joules"]


def sources(gpu: bool) -> list[Source]:
    """What measures the energy of this machine, and of its GPUs if training uses them."""
    found: list[Source] = []
    domains = [*rapl_domains(POWERCAP)]
    if domains:
        found.append(Rapl(domains))
    handles = gpu_handles() if gpu else []
    if handles:
        found.append(Nvml(handles))
    memory = any(_called(domain) == "dram" for domain in domains)
    left = {key for key, there in (("cpu", domains), ("ram", memory), ("gpu", handles or not gpu)) if not there}
    if left and (estimate := Estimate.made(left)):
        found.append(estimate)
    return found


class Rapl:
    """The energy counters of processor packages and memory, in microjoules; they start again at a limit."""

    name = "rapl"

    def __init__(self, domains: list[Path]) -> None:
        self.counters = [domain / "energy_uj" for domain in domains]
        self.limits = [int((domain / "max_energy_range_uj").read_text()) for domain in domains]
        self.before = self._read()

    def begin(self) -> None:
        self.before = self._read()

    def end(self) -> float:
        now = self._read()
        steps = zip(self.before, now, self.limits, strict=True)
        return sum(new - old if new >= old else new - old + limit for old, new, limit in steps) / 1e6

    def _read(self) -> list[int]:
        return [int(counter.read_text()) for counter in self.counters]


def rapl_domains(folder: Path) -> Iterator[Path]:
    """The counters that can be read: packages, and memory, which is beside them; cores are part of their package.

    Some processors have them once more by another way, as ``intel-rapl-mmio``.
    """
    for domain in sorted(folder.glob("*-rapl:*")):
        with suppress(OSError, ValueError):
            what = _called(domain)
            if what.startswith("package") or what == "dram":
                int((domain / "energy_uj").read_text()), int((domain / "max_energy_range_uj").read_text())
                yield domain


def _called(domain: Path) -> str:
    return (domain / "name").read_text().strip()


class Nvml:
    """NVIDIA's counters of whole boards, in millijoules since the driver was loaded."""

    name = "nvml"

    def __init__(self, handles: list[Any]) -> None:
        self.handles = handles
        self.before = self._read()

    def begin(self) -> None:
        self.before = self._read()

    def end(self) -> float:
        return (self._read() - self.before) / 1e3

    def _read(self) -> int:
        import pynvml

        return sum(int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in self.handles)


def gpu_handles() -> list[Any]:
    """NVML's handles of the GPUs that this machine's processes train on; none where NVML cannot count their energy."""
    import pynvml
    import torch

    number = min(torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    # By their identity: NVML does not know of CUDA_VISIBLE_DEVICES.
    names = [str(torch.cuda.get_device_properties(i).uuid).removeprefix("GPU-") for i in range(number)]
    try:
        pynvml.nvmlInit()
        handles = [
            pynvml.nvmlDeviceGetHandleByUUID(name if name.startswith("GPU-") else f"GPU-{name}") for name in names
        ]
        for handle in handles:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return []
    return handles


class Estimate:
    """codecarbon's estimate of what is not counted, from load and rated power; nothing is sent or written."""

    name = "estimated"

    def __init__(self, tracker: Any, parts: set[str]) -> None:
        self.tracker, self.parts = tracker, parts

    @classmethod
    def made(cls, parts: set[str]) -> Estimate | None:
        """The estimate of ``cpu``, ``ram`` or ``gpu``; None where codecarbon cannot make it."""
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        from codecarbon import OfflineEmissionsTracker

        # The country is for emissions, which are not read.
        options: dict[str, Any] = {"output_methods": [], "log_level": "critical", "allow_multiple_runs": True}
        made = cls(OfflineEmissionsTracker(country_iso_code="USA", tracking_mode="machine", **options), parts)
        made.begin()
        # Where it finds no hardware it logs so, and has no tasks.
        return made if made.tracker.stop_task() is not None else None

    def begin(self) -> None:
        self.tracker.start_task()

    def end(self) -> float:
        found = self.tracker.stop_task()  # None if nothing was begun
        self.tracker._tasks.clear()  # it would keep one for each step
        return KWH * sum(float(getattr(found, f"{part}_energy", 0.0)) for part in self.parts)
