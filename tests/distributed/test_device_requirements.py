"""What a machine without a GPU, and an old GPU, cannot do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from peftkit.distributed import device_requirements as device


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_gpu(available: bool, *, bf16: bool = True) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: available)
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: bf16)

    return set_gpu


def test_without_gpu(gpu: Callable[..., None]) -> None:
    gpu(False)
    assert device.precision_problem("fp16").startswith('train.mixed_precision = "fp16" needs a GPU')
    assert device.quantization_problem("4bit").startswith("model.quantization = '4bit' needs a GPU")
    assert device.fsdp_problem().startswith("train.fsdp needs GPUs")
    assert device.offloading_problem().startswith("train.activation_offloading needs a GPU")
    assert device.precision_problem("bf16") == device.emulation_notice("bf16") == ""


def test_with_gpu(gpu: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(True)
    assert device.precision_problem("fp16") == device.emulation_notice("bf16") == device.fsdp_problem() == ""
    assert device.fsdp_problem(on_cpu=True)
    assert not device.offloading_problem()
    assert device.offloading_problem("cpu")
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    assert device.quantization_problem("8bit") == "bitsandbytes is not installed: pip install 'peftkit[quant]'"
    assert device.deepspeed_problem() == "DeepSpeed is not installed: pip install 'peftkit[deepspeed]'"
    gpu(True, bf16=False)
    assert device.emulation_notice("bf16").startswith("the GPU has no bf16")


def test_recipes_that_need_nothing_have_no_problem(gpu: Callable[..., None]) -> None:
    gpu(False)
    assert device.precision_problem("no") == device.quantization_problem(None) == device.emulation_notice("no") == ""


@pytest.mark.parametrize("name", ["cuda:99", "nonsense", "cpu:x", "meta"])
def test_a_device_that_this_machine_lacks_is_a_problem(name: str) -> None:
    assert device.device_problem(name).startswith(f"the device {name!r} ")
    assert device.device_problem("cpu") == device.device_problem("") == ""
