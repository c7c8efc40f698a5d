"""Rows and tokens of training."""

from __future__ import annotations

from typing import Literal

from peftkit.components import Meter, StepRecord


class Tokens(Meter):
    """Rows, and tokens of sources and of targets, that training has taken in, over all processes; padding apart."""

    name: Literal["tokens"] = "tokens"

    _samples: int = 0
    _input: int = 0
    _target: int = 0
    _padding: int = 0

    def step(self, record: StepRecord) -> None:
        """Adds the step's."""
        self._samples += record.samples
        self._input += record.input_tokens
        self._target += record.target_tokens
        self._padding += record.padding_tokens

    def read(self) -> dict[str, float]:
        """``samples``, ``input_tokens``, ``target_tokens`` and ``padding_tokens``."""
        return {
            "samples": float(self._samples),
            "input_tokens": float(self._input),
            "target_tokens": float(self._target),
            "padding_tokens": float(self._padding),
        }
