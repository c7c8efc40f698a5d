"""Counts where code reads values of tensors on the host. On a GPU that waits for the device."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging import version
from torch.utils._python_dispatch import TorchDispatchMode

from peftkit.models import BoundObjective

UNSEEN = ("tolist", "numpy", "cpu", "__array__")
"""Methods of tensors that read a value on a CPU without passing the dispatcher."""
LIBRARIES = {
    "torch/optim/optimizer.py": "torch counts the steps of an optimizer on the host, where reading does not wait",
}
"""Files of libraries that may read, with the reason."""
if version.parse(transformers.__version__).major < 5:
    LIBRARIES["transformers/modeling_attn_mask_utils.py"] = (
        "encoders of transformers 4 import the function that reads the mask, so that it cannot be replaced"
    )
COMPARISON = "peftkit/models/batches/known_padding.py"
"""The first padded and the first unpadded batch of a run are compared with what transformers reads."""


class DeviceReads(TorchDispatchMode):
    """Records the places that read a value, or whose result has a shape that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        self.paused = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = torch.Tag.data_dependent_output in func.tags
        if torch.Tag.dynamic_output_shape in func.tags:
            # An index has a known shape unless it is a mask.
            indices = args[1] if func.overloadpacket is torch.ops.aten.index else None
            reads = indices is None or any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
        if reads:
            self.note(str(func), args[0])
        return func(*args, **(kwargs or {}))

    def note(self, what: str, tensor: Any) -> None:
        """Record the innermost place outside of torch's tensors; those on meta have no values."""
        if self.paused or getattr(tensor, "is_meta", False):
            return
        frames = [f for f in traceback.extract_stack() if f.filename != __file__ and "/torch/_" not in f.filename]
        inner = [f for f in frames if not f.filename.endswith("/torch/utils/_python_dispatch.py")][-1]
        path = "/".join(Path(inner.filename).parts[-3:])
        if not path.endswith(tuple(LIBRARIES)) and not any(
            f.filename.endswith(COMPARISON) and f.name == "ignores_mask" for f in frames
        ):
            self.places.append(f"{what} at {path}:{inner.lineno} in {inner.name}")


@contextmanager
def device_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[DeviceReads]:
    """Record reads while ``paused`` is false, outside of collation: its tensors are on the host."""
    counter = DeviceReads()

    def recording(name: str, original: Any) -> Any:
        def read(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            counter.note(name, self)
            return original(self, *args, **kwargs)

        return read

    def collate(self: BoundObjective, rows: Any, original: Any = BoundObjective.collate_and_count) -> Any:
        before, counter.paused = counter.paused, True
        try:
            return original(self, rows)
        finally:
            counter.paused = before

    with monkeypatch.context() as patch, counter:
        for name in UNSEEN:
            patch.setattr(torch.Tensor, name, recording(name, getattr(torch.Tensor, name)))
        patch.setattr(BoundObjective, "collate_and_count", collate)
        yield counter
