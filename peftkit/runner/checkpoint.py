"""Checkpoints that a kill cannot spoil: written beside, synced, renamed, and checked when they are read.

A checkpoint is a folder ``checkpoints/step-00000120`` of a run with

=========================  =====================================================================
``trainable.safetensors``  the parameters that learn, and the model's buffers
``optimizer.safetensors``  the tensors of the optimizer's state
``method.safetensors``     what the method keeps from step to step beside them
``state.json``             everything else, and the SHA-256 of it and of the other files
=========================  =====================================================================

Where the selected checkpoint is to be evaluated again at the end of the run, the weights of the evaluation that dev
selects so far lie in ``selected/``, in the same form. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peftkit.errors import RunError

FORMAT = 1
CHECKPOINTS, SELECTED = "checkpoints", "selected"
"""Folders of a run."""
TENSORS = ("trainable.safetensors", "optimizer.safetensors", "method.safetensors")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its tensors by file, and the rest as it was given."""

    path: Path
    trainable: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    method: Mapping[str, Tensor]
    state: Mapping[str, Any]


def write(
    folder: Path,
    step: int,
    trainable: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    method: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> None:
    """Adds the checkpoint of that step, and then removes all but the newest ``keep``.

    Raises:
        RunError: it cannot be written; what was there before is untouched.
    """
    _write(folder, step, (trainable, optimizer, method), state)
    for old in _names(folder)[:-keep]:
        shutil.rmtree(folder / old, ignore_errors=True)


def write_selected(run: Path, step: int, trainable: Mapping[str, Tensor], method: Mapping[str, Tensor]) -> None:
    """Adds the weights of the evaluation that dev selects so far, and removes those that no checkpoint goes back to.

    Args:
        run: the run directory.
        step: that of the evaluation.
        trainable: the weights that learn, and buffers.
        method: what the method keeps beside them.

    Raises:
        RunError: they cannot be written; what was there before is untouched.
    """
    folder = run / SELECTED
    _write(folder, step, (trainable, {}, method), {})
    steps = _steps(folder)
    ends = [step, *_steps(run / CHECKPOINTS)]
    needed = {max((each for each in steps if each <= end), default=None) for end in ends}
    for each in steps:
        if each not in needed:
            shutil.rmtree(folder / _name(each), ignore_errors=True)


def read_selected(run: Path, step: int) -> Checkpoint:
    """What ``write_selected`` has written of that step.

    Raises:
        RunError: it is missing or damaged.
    """
    path = run / SELECTED / _name(step)
    try:
        return _read(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(f"the selected weights in {path} cannot be read: {error}; run the recipe anew") from error


def _name(step: int) -> str:
    return f"step-{step:08}"


def _steps(folder: Path) -> list[int]:
    return [int(name.removeprefix("step-")) for name in _names(folder)]


def _write(folder: Path, step: int, tensors: Sequence[Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    name = _name(step)
    temporary = folder / f".{name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        digests = {}
        for file, named in zip(TENSORS, tensors, strict=True):
            whole = {key: value.detach().cpu().contiguous().clone() for key, value in named.items()}
            save_file(whole, temporary / file, metadata={"format": "pt"})
            digests[file] = _sync_and_hash(temporary / file)
        document = {"format": FORMAT, "sha256": {**digests, "state": digest(state)}, "state": state}
        (temporary / "state.json").write_text(json.dumps(document), encoding="utf-8")
        _sync_and_hash(temporary / "state.json")
        _sync(temporary)
        shutil.rmtree(folder / name, ignore_errors=True)  # of a run that was resumed before this step
        temporary.rename(folder / name)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(f"the checkpoint of step {step} cannot be written to {folder}: {error}") from error


def newest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, None if there is none; damaged ones are passed over, with a warning for each."""
    for name in reversed(_names(folder)):
        try:
            return _read(folder / name)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("%s is damaged (%s); going back to the one before", folder / name, error)
    return None


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("step-*")) if folder.is_dir() else []


def _read(path: Path) -> Checkpoint:
    document = json.loads((path / "state.json").read_text(encoding="utf-8"))
    found = {"state": digest(document["state"]), **{file: _hash(path / file) for file in TENSORS}}
    for name, written in found.items():
        if document["sha256"][name] != written:
            raise ValueError(f"{name} is not what was written")
    if document["format"] != FORMAT:
        raise RunError(f"{path} has format {document['format']!r}, and this peftkit reads {FORMAT}; upgrade peftkit")
    trainable, optimizer, method = (load_file(path / file) for file in TENSORS)
    return Checkpoint(path, trainable, optimizer, method, document["state"])


def digest(state: Mapping[str, Any]) -> str:
    """The SHA-256 of what stands in ``state.json``."""
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_and_hash(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return _hash(path)


def _sync(folder: Path) -> None:
    """Makes what was renamed in the folder outlast a loss of power; Windows cannot, and needs it less."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: parameters that learn, and buffers."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return parameters | {f"buffer:{name}": b for name, b in model.named_buffers()}


def restore_trained(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what ``trained_tensors`` gave.

    Raises:
        RunError: the model trains other tensors than were saved.
    """
    own = trained_tensors(model)
    if own.keys() != tensors.keys():
        different = sorted(own.keys() ^ tensors.keys())
        raise RunError(f"the checkpoint is of another model: {len(different)} tensors differ, such as {different[0]}")
    with torch.no_grad():
        for key, value in tensors.items():
            own[key].copy_(value)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """The state of each parameter: tensors by ``number.key``, and what is no tensor."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, dict[str, Any]] = {}
    for number, values in optimizer.state_dict()["state"].items():
        rest[str(number)] = {}
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{key}"] = value
            else:
                rest[str(number)][key] = value
    return tensors, rest


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Mapping[str, Any]]
) -> None:
    """Puts back what ``optimizer_state`` gave; rates and the like come from the recipe."""
    # Not by load_state_dict, which casts the state to the parameters' precision: that of Adafactor is float32.
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in rest.items():
        optimizer.state[parameters[int(number)]] = dict(values)
    for name, value in tensors.items():
        number, key = name.split(".", 1)
        parameter = parameters[int(number)]
        optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
