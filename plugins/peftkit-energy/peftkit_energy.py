"""A meter of energy: counters of NVML and RAPL, and estimates of codecarbon where they are missing."""

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
    """Register the meter of this distribution."""
    return [Energy]


class EnergySource(Protocol):
    """Measures energy between two points in time."""

    name: str

    def begin(self) -> None:
        """Start measuring."""

    def end(self) -> float:
        """Return the joules used since ``begin``."""


class Energy(Meter):
    """Joules of training steps, without evaluation, saving and waiting for data.

    GPUs are measured by NVML's energy counters (Volta and newer), for the GPUs that are trained on. CPU and memory are
    measured by RAPL's counters in ``/sys/class/powercap`` if they are readable; these include other processes of the
    machine. The rest is estimated by codecarbon from load and rated power. Each source is reported separately. With
    several machines, only that of the main process is measured.
    """

    name: Literal["energy"] = "energy"

    budgets = ("joules",)

    _joules: dict[str, float] = PrivateAttr(default_factory=dict)
    _sources: list[Any] = PrivateAttr(default_factory=list)

    def start(self, model: nn.Module) -> None:
        """Detect the available sources."""
        self._sources = detect_sources(next(model.parameters()).device.type == "cuda")
        if not self._sources:
            log.warning("no energy counter or estimate is available on this machine; the run records no joules")
        self._joules = {source.name: 0.0 for source in self._sources}

    def on_step_start(self) -> None:
        """Read the counters."""
        for source in self._sources:
            source.begin()

    def on_step_end(self) -> None:
        """Add the energy of the step."""
        for source in self._sources:
            self._joules[source.name] += source.end()

    def totals(self) -> dict[str, float]:
        """Return ``joules``, and its parts ``joules_nvml``, ``joules_rapl`` and ``joules_estimated`` if available."""
        parts = {f"joules_{name}": value for name, value in self._joules.items()}
        return {"joules": sum(parts.values()), **parts} if parts else {}

    def state_dict(self) -> dict[str, Any]:
        """Return the joules so far by source."""
        return {"joules": dict(self._joules)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the stored joules, also on a machine with other sources."""
        self._joules |= state["joules"]


def detect_sources(gpu: bool) -> list[EnergySource]:
    """Return the available energy sources of this machine, and of its GPUs if ``gpu`` is set."""
    available: list[EnergySource] = []
    domains = [*rapl_domains(POWERCAP)]
    if domains:
        available.append(Rapl(domains))
    handles = gpu_handles() if gpu else []
    if handles:
        available.append(Nvml(handles))
    memory = any(_domain_name(domain) == "dram" for domain in domains)
    counted = {"cpu": bool(domains), "ram": memory, "gpu": bool(handles) or not gpu}
    missing = {part for part, is_counted in counted.items() if not is_counted}
    if missing and (estimate := CodeCarbon.create(missing)):
        available.append(estimate)
    return available


class Rapl:
    """The energy counters of processor packages and memory, in microjoules, which wrap around at a limit."""

    name = "rapl"

    def __init__(self, domains: list[Path]) -> None:
        self.counters = [domain / "energy_uj" for domain in domains]
        self.limits = [int((domain / "max_energy_range_uj").read_text()) for domain in domains]
        self.last_values = self._read()

    def begin(self) -> None:
        self.last_values = self._read()

    def end(self) -> float:
        now = self._read()
        readings = zip(self.last_values, now, self.limits, strict=True)
        return sum(new - old if new >= old else new - old + limit for old, new, limit in readings) / 1e6

    def _read(self) -> list[int]:
        return [int(counter.read_text()) for counter in self.counters]


def rapl_domains(folder: Path) -> Iterator[Path]:
    """Yield the readable RAPL domains of packages and memory.

    Cores are part of their package. Some processors expose the same counters again as ``intel-rapl-mmio``.
    """
    for domain in sorted(folder.glob("*-rapl:*")):
        with suppress(OSError, ValueError):
            name = _domain_name(domain)
            if name.startswith("package") or name == "dram":
                int((domain / "energy_uj").read_text()), int((domain / "max_energy_range_uj").read_text())
                yield domain


def _domain_name(domain: Path) -> str:
    return (domain / "name").read_text().strip()


class Nvml:
    """NVIDIA's energy counters of whole boards, in millijoules since the driver was loaded."""

    name = "nvml"

    def __init__(self, handles: list[Any]) -> None:
        self.handles = handles
        self.last_values = self._read()

    def begin(self) -> None:
        self.last_values = self._read()

    def end(self) -> float:
        return (self._read() - self.last_values) / 1e3

    def _read(self) -> int:
        import pynvml

        return sum(int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in self.handles)


def gpu_handles() -> list[Any]:
    """Return NVML's handles of the GPUs that are trained on; empty if NVML does not support energy counters."""
    import pynvml
    import torch

    count = min(torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    # By UUID, because NVML ignores CUDA_VISIBLE_DEVICES.
    uuids = [str(torch.cuda.get_device_properties(i).uuid).removeprefix("GPU-") for i in range(count)]
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}") for uuid in uuids]
        for handle in handles:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return []
    return handles


class CodeCarbon:
    """codecarbon's estimate from load and rated power; nothing is sent or written."""

    name = "estimated"

    def __init__(self, tracker: Any, parts: set[str]) -> None:
        self.tracker, self.parts = tracker, parts

    @classmethod
    def create(cls, parts: set[str]) -> CodeCarbon | None:
        """Create an estimate of ``cpu``, ``ram`` or ``gpu``; None if codecarbon does not support this machine."""
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        from codecarbon import OfflineEmissionsTracker

        # The country is needed for emissions, which are not used.
        options: dict[str, Any] = {"output_methods": [], "log_level": "critical", "allow_multiple_runs": True}
        source = cls(OfflineEmissionsTracker(country_iso_code="USA", tracking_mode="machine", **options), parts)
        source.begin()
        # Without supported hardware, codecarbon has no tasks.
        return source if source.tracker.stop_task() is not None else None

    def begin(self) -> None:
        self.tracker.start_task()

    def end(self) -> float:
        data = self.tracker.stop_task()  # None if no task was started
        self.tracker._tasks.clear()  # which would grow with each step
        return KWH * sum(float(getattr(data, f"{part}_energy", 0.0)) for part in self.parts)
