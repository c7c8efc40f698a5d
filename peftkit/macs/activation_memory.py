"""Measures the memory of a step's activations and temporary tensors, without running it on values.

Weights, gradients and the optimizer's state are added by ``peftkit.analysis.cost_estimate``.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._pytree import tree_leaves

from peftkit.macs.dispatch_mode import DispatchMode


class StepMemory(DispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the sizes of the tensors that operations create, for as long as each lives.

    Tensors on ``meta`` and fake tensors count like real ones. What a kernel allocates and frees within one operation is
    not seen.

    Attributes:
        peak: The most bytes that lived at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._storages: dict[int, weakref.ref[UntypedStorage]] = {}

    def exclude(self, tensors: Any) -> None:
        """Do not count tensors, such as a model's weights.

        Args:
            tensors: The tensors; each stays alive.
        """
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._storages[storage._cdata] = weakref.ref(storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: UntypedStorage) -> None:
        # Storages are distinguished by object, because those without values have no address.
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def free(_: object) -> None:
            del self._storages[key]
            self._live -= size

        self._storages[key] = weakref.ref(storage, free)
        self._live += size
        self.peak = max(self.peak, self._live)
