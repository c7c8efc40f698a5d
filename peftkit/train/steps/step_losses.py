"""The losses of steps on their way from the device, so that a step need not wait until its loss has been computed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from peftkit.train.budget import Progress

MAX_PENDING = 8
"""How many steps may be started before the loss of the first has arrived; their batches are kept until then."""


@dataclass
class StepLoss:
    """The loss of a step."""

    targets: int
    before: Progress
    """The progress before the step."""
    batches: list[dict[str, Tensor]]
    """The batches of this process, tensors of shape (rows, length)."""
    slot: int
    event: torch.cuda.Event | None
    """Recorded after the copy of the loss to the host; None if the copy is complete."""
    mean: float | None = None
    """The loss per target of all processes; None until it has arrived."""

    @property
    def has_arrived(self) -> bool:
        """Whether the loss has been copied to the host; does not wait for it."""
        return self.event is None or bool(self.event.query())  # type: ignore[no-untyped-call]

    @property
    def skipped(self) -> bool:
        """Whether the loss has arrived and is not finite."""
        return self.mean is not None and not math.isfinite(self.mean)


class StepLosses:
    """Copies losses to the host, and hands over those that are not finite.

    Args:
        device: The device of the losses.
        handle_nonfinite: Is called with the first step whose loss is not finite, then with the next, in their order.
    """

    def __init__(self, device: torch.device, handle_nonfinite: Callable[[StepLoss], None]) -> None:
        self.device, self.handle_nonfinite = device, handle_nonfinite
        self._pending: deque[StepLoss] = deque()
        self._slots = torch.empty(MAX_PENDING + 1, pin_memory=device.type == "cuda")
        self._values = self._slots.numpy()  # a view, whose elements can be read without asking torch
        self._next_slot = 0

    def push(self, loss: Tensor, targets: int, batches: list[dict[str, Tensor]], progress: Progress) -> StepLoss:
        """Start to copy the loss of a step, without waiting for it.

        Args:
            loss: The loss, summed over the targets of all processes, a scalar in float32.
            targets: The number of targets.
            batches: The batches of this process, tensors of shape (rows, length).
            progress: The progress before the step.
        """
        if len(self._pending) == MAX_PENDING:
            self._resolve(self._pending[0])
        slot, self._next_slot = self._next_slot, (self._next_slot + 1) % len(self._slots)
        self._slots[slot].copy_(loss.detach(), non_blocking=self.device.type == "cuda")
        step = StepLoss(targets, progress.snapshot(), batches, slot, record_event(self.device))
        self._pending.append(step)
        return step

    def check(self, *, wait: bool) -> None:
        """Check the losses that have arrived.

        Args:
            wait: Whether to wait for the others too.
        """
        while self._pending and (wait or self._pending[0].has_arrived):
            self._resolve(self._pending[0])

    def read(self, step: StepLoss) -> float:
        """Return the loss of a step per target; waits until it has arrived."""
        while step.mean is None:
            self._resolve(self._pending[0])
        return step.mean

    def _resolve(self, step: StepLoss) -> None:
        if step.event is not None:
            step.event.synchronize()
        self._pending.popleft()
        step.mean = float(self._values[step.slot]) / step.targets
        if step.skipped:
            self.handle_nonfinite(step)
        step.batches = []


def record_event(device: torch.device) -> torch.cuda.Event | None:
    """Return an event after the work that the device has been given; None if copies from it are complete at once."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event
