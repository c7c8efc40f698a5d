"""The states of the global random number generators of the CPU."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_states() -> tuple[Any, ...]:
    """Return the states of Python's, numpy's and torch's generators, which can be compared."""
    state: Any = np.random.get_state()
    name, keys, *numbers = state
    return random.getstate(), (name, keys.tobytes(), *numbers), torch.get_rng_state().numpy().tobytes()


def restore_random_states(states: tuple[Any, ...]) -> None:
    """Restore the states that ``random_states`` returned."""
    python, (name, keys, *numbers), torchs = states
    random.setstate(python)
    np.random.set_state((name, np.frombuffer(keys, dtype=np.uint32), *numbers))
    torch.set_rng_state(torch.frombuffer(bytearray(torchs), dtype=torch.uint8))
