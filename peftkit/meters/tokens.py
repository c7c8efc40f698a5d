"""A meter of training rows and tokens."""

from __future__ import annotations

from typing import Literal

from peftkit.components import Meter, StepStats


class Tokens(Meter):
    """The number of training rows, source tokens, target tokens and padding tokens, summed over all processes."""

    name: Literal["tokens"] = "tokens"

    _samples: int = 0
    _input: int = 0
    _target: int = 0
    _padding: int = 0

    def update(self, record: StepStats) -> None:
        """Add the rows and tokens of the step."""
        self._samples += record.samples
        self._input += record.input_tokens
        self._target += record.target_tokens
        self._padding += record.padding_tokens

    def totals(self) -> dict[str, float]:
        """Return ``samples``, ``input_tokens``, ``target_tokens`` and ``padding_tokens``."""
        return {
            "samples": float(self._samples),
            "input_tokens": float(self._input),
            "target_tokens": float(self._target),
            "padding_tokens": float(self._padding),
        }
