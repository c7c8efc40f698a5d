from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import peftkit_energy
from peftkit.plugins import load_registry
from peftkit_energy import CodeCarbon, Energy, Nvml, Rapl, detect_sources, rapl_domains


def domain(folder: Path, key: str, name: str, energy: int, limit: int = 1_000_000_000) -> Path:
    path = folder / key
    path.mkdir()
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy}\n")
    (path / "max_energy_range_uj").write_text(f"{limit}\n")
    return path


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(peftkit_energy, "POWERCAP", tmp_path)
    domain(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    domain(tmp_path, "intel-rapl:0:0", "core", 3_000_000)
    domain(tmp_path, "intel-rapl:0:1", "dram", 1_000_000)
    domain(tmp_path, "intel-rapl:1", "psys", 9_000_000)
    domain(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    return tmp_path


def move(folder: Path, key: str, energy: int) -> None:
    (folder / key / "energy_uj").write_text(str(energy))


def test_energy_is_registered() -> None:
    entry = load_registry().all("meter")["energy"]
    assert (entry.component, entry.distribution) == (Energy, "peftkit-energy")


def test_packages_and_memory_are_counted_once(powercap: Path) -> None:
    assert [path.name for path in rapl_domains(powercap)] == ["intel-rapl:0", "intel-rapl:0:1"]


def test_only_energy_of_steps_is_counted(powercap: Path) -> None:
    meter = Energy()
    meter.start(nn.Linear(2, 2))
    for before, after in ((6_000_000, 8_000_000), (50_000_000, 50_500_000)):
        move(powercap, "intel-rapl:0", before)
        meter.on_step_start()
        move(powercap, "intel-rapl:0", after)
        meter.on_step_end()
    assert meter.totals() == {"joules": 2.5, "joules_rapl": 2.5}


def test_a_counter_overflow_is_corrected(tmp_path: Path) -> None:
    source = Rapl([domain(tmp_path, "intel-rapl:0", "package-0", 9_000_000, limit=10_000_000)])
    source.begin()
    move(tmp_path, "intel-rapl:0", 500_000)
    assert source.end() == pytest.approx(1.5)


def test_an_unreadable_counter_is_skipped(powercap: Path) -> None:
    (powercap / "intel-rapl:0:1" / "energy_uj").unlink()
    (powercap / "intel-rapl:0:1" / "energy_uj").mkdir()  # a folder is unreadable for root too
    assert [path.name for path in rapl_domains(powercap)] == ["intel-rapl:0"]


def test_gpu_counters_are_in_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    counters = {"a": 1_000, "b": 5_000}
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", counters.__getitem__)
    source = Nvml(["a", "b"])
    source.begin()
    counters.update(a=3_000, b=5_500)
    assert source.end() == 2.5


@pytest.mark.parametrize(("dram", "left"), [(True, []), (False, [{"ram"}])])
def test_memory_without_a_counter_is_estimated(
    dram: bool, left: list[set[str]], monkeypatch: pytest.MonkeyPatch, powercap: Path
) -> None:
    if not dram:
        (powercap / "intel-rapl:0:1" / "name").write_text("uncore\n")
    estimated_parts: list[set[str]] = []
    monkeypatch.setattr(CodeCarbon, "create", classmethod(lambda cls, parts: estimated_parts.append(parts)))
    assert [source.name for source in detect_sources(gpu=False)] == ["rapl"]
    assert estimated_parts == left


def test_a_machine_without_measurements_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(peftkit_energy, "POWERCAP", tmp_path)
    monkeypatch.setattr(CodeCarbon, "create", classmethod(lambda cls, parts: None))
    meter = Energy()
    meter.start(nn.Linear(2, 2))
    meter.on_step_start()
    meter.on_step_end()
    assert meter.totals() == {}
    assert "records no joules" in caplog.text


@pytest.mark.parametrize("prefix", ["", "GPU-"])
def test_gpus_are_found_by_uuid(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: type("Properties", (), {"uuid": f"{prefix}{i}"})()
    )
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda name: name)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: 0)
    assert peftkit_energy.gpu_handles() == ["GPU-0", "GPU-1"]


def test_a_gpu_without_a_counter_is_estimated(monkeypatch: pytest.MonkeyPatch, powercap: Path) -> None:
    import pynvml

    def unsupported(handle: Any) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda i: type("Properties", (), {"uuid": "x"})())
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda name: name)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", unsupported)
    left: list[set[str]] = []
    monkeypatch.setattr(CodeCarbon, "create", classmethod(lambda cls, parts: left.append(parts)))
    assert [source.name for source in detect_sources(gpu=True)] == ["rapl"]
    assert left == [{"gpu"}]


def test_without_counters_energy_is_estimated_and_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peftkit_energy, "POWERCAP", tmp_path)
    monkeypatch.chdir(tmp_path)
    meter = Energy()
    meter.start(nn.Linear(2, 2))
    for _ in range(2):
        meter.on_step_start()
        sum(math.sqrt(i) for i in range(200_000))
        meter.on_step_end()
    totals = meter.totals()
    assert totals.keys() == {"joules", "joules_estimated"}
    assert 0 < totals["joules"] == totals["joules_estimated"] < 1000
    assert not [*tmp_path.iterdir()]


def test_a_restored_meter_continues_the_total(powercap: Path) -> None:
    first, second = Energy(), Energy()
    first.start(nn.Linear(2, 2))
    first.on_step_start()
    move(powercap, "intel-rapl:0", 7_000_000)
    first.on_step_end()
    second.start(nn.Linear(2, 2))
    second.load_state_dict(first.state_dict())
    second.on_step_start()
    move(powercap, "intel-rapl:0", 8_000_000)
    second.on_step_end()
    assert second.totals() == {"joules": 3.0, "joules_rapl": 3.0}
