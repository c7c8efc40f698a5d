"""What a device must have for a precision, for quantized weights and for sharding; imports torch when it is asked."""

from __future__ import annotations

from importlib.util import find_spec

from peftkit.errors import summarize_error

DEEPSPEED_MISSING = "DeepSpeed is not installed: pip install 'peftkit[deepspeed]'"


def precision_problem(precision: str) -> str:
    """Returns why this machine cannot train with an autocast dtype; empty if it can.

    Args:
        precision: ``fp16``, ``bf16`` or ``no``.
    """
    if precision != "fp16":
        return ""
    import torch

    if not torch.cuda.is_available():
        return 'train.mixed_precision = "fp16" needs a GPU; on a CPU use "bf16" or "no"'
    return ""


def device_problem(name: str) -> str:
    """Returns why this machine cannot train on a device; empty if it can, or if none is named.

    Args:
        name: a device as torch names it, such as ``cuda:0``.
    """
    if not name:
        return ""
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        return f"the device {name!r} is not available ({summarize_error(error)})"
    return f"the device {name!r} has no values to train" if device.type == "meta" else ""


def emulation_notice(precision: str) -> str:
    """Returns that the GPU only emulates an autocast dtype, which is slow; empty if it does not.

    Args:
        precision: ``fp16``, ``bf16`` or ``no``.
    """
    if precision != "bf16":
        return ""
    import torch

    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return 'the GPU has no bf16 and emulates it, which is slow; use train.mixed_precision = "fp16"'
    return ""


def quantization_problem(quantization: str | None) -> str:
    """Returns why this machine cannot load quantized weights; empty if it can, or if they are not quantized.

    Args:
        quantization: ``4bit``, ``8bit`` or None.
    """
    if not quantization:
        return ""
    import torch

    if not torch.cuda.is_available():
        return (
            f"model.quantization = {quantization!r} needs a GPU, since bitsandbytes runs quantized models there only; "
            "leave it out on a CPU"
        )
    if find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed: pip install 'peftkit[quant]'"
    return ""


def fsdp_problem(*, on_cpu: bool = False) -> str:
    """Returns why this machine cannot train with FSDP; empty if it can.

    Args:
        on_cpu: Whether the launch is on the CPU, whatever the machine has.
    """
    import torch

    if on_cpu or not torch.cuda.is_available():
        return (
            "train.fsdp needs GPUs (on a CPU accelerate would use plain data parallelism instead); set it to false, or "
            "use train.deepspeed"
        )
    return ""


def offloading_problem(device: str = "") -> str:
    """Returns why activations cannot be offloaded; empty if they can.

    Args:
        device: The type of the run's device; empty if it is that of the machine.
    """
    import torch

    if (device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda":
        return ""
    return "train.activation_offloading needs a GPU; without one activations are in host memory anyway; set it to false"


def deepspeed_problem() -> str:
    """Returns that DeepSpeed is not installed; empty if it is."""
    return "" if find_spec("deepspeed") else DEEPSPEED_MISSING
