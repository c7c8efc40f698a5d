"""Writes checkpoints atomically, and verifies them when they are read.

A checkpoint is a folder such as ``checkpoints/step-00000120`` in a run directory:

=========================  ===================================================================
``trainable.safetensors``  the trainable parameters and the buffers of the model
``optimizer.safetensors``  the tensors of the optimizer's state
``method.safetensors``     the state of the method
``state.json``             everything else, and the SHA-256 of it and of the other files
=========================  ===================================================================

If the selected checkpoint is evaluated again at the end of the run, ``selected/`` has the weights of the best
evaluation so far, in the same format. Nothing is pickled.
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
from peftkit.file_formats import CHECKPOINT_FORMAT, migrate_checkpoint

FORMAT = CHECKPOINT_FORMAT
CHECKPOINTS, SELECTED = "checkpoints", "selected"
"""Folders in a run directory."""
TENSORS = ("trainable.safetensors", "optimizer.safetensors", "method.safetensors")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: the tensors of each file, and the other state."""

    path: Path
    trainable: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    method: Mapping[str, Tensor]
    state: Mapping[str, Any]


def write_checkpoint(
    folder: Path,
    step: int,
    trainable: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    method: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> None:
    """Write the checkpoint of a step, then remove all but the newest ``keep``.

    Args:
        folder: The folder of the run's checkpoints.
        step: The number of the step.
        trainable: The trainable parameters and the buffers, with the shapes of the model's.
        optimizer: The tensors of the optimizer's state, of any shape.
        method: The tensors of the method's state, of any shape.
        state: The other state, as JSON.
        keep: How many checkpoints to keep.

    Raises:
        RunError: It cannot be written; the older checkpoints are unchanged.
    """
    _write_folder(folder, step, (trainable, optimizer, method), state)
    for old in _checkpoint_names(folder)[:-keep]:
        shutil.rmtree(folder / old, ignore_errors=True)


def write_selected(run: Path, step: int, trainable: Mapping[str, Tensor], method: Mapping[str, Tensor]) -> None:
    """Write the weights of the best evaluation so far, then remove older ones that no checkpoint needs.

    Args:
        run: The run directory.
        step: The step of the evaluation.
        trainable: The trainable parameters and the buffers, with the shapes of the model's.
        method: The tensors of the method's state, of any shape.

    Raises:
        RunError: They cannot be written; the older ones are unchanged.
    """
    folder = run / SELECTED
    _write_folder(folder, step, (trainable, {}, method), {})
    steps = _checkpoint_steps(folder)
    # A run resumed from a checkpoint needs the best evaluation up to that step.
    resume_steps = [step, *_checkpoint_steps(run / CHECKPOINTS)]
    needed = {max((s for s in steps if s <= resume_step), default=None) for resume_step in resume_steps}
    for selected_step in steps:
        if selected_step not in needed:
            shutil.rmtree(folder / _checkpoint_name(selected_step), ignore_errors=True)


def read_selected(run: Path, step: int) -> Checkpoint:
    """Read what ``write_selected`` wrote.

    Args:
        run: The run directory.
        step: The step of the evaluation.

    Raises:
        RunError: It is missing or damaged.
    """
    path = run / SELECTED / _checkpoint_name(step)
    try:
        return _read_folder(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(f"the selected weights in {path} cannot be read: {error}; run the recipe again") from error


def _checkpoint_name(step: int) -> str:
    return f"step-{step:08}"


def _checkpoint_steps(folder: Path) -> list[int]:
    return [int(name.removeprefix("step-")) for name in _checkpoint_names(folder)]


def _write_folder(folder: Path, step: int, tensors: Sequence[Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    name = _checkpoint_name(step)
    temporary = folder / f".{name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        digests = {}
        for file, by_name in zip(TENSORS, tensors, strict=True):
            copies = {key: value.detach().cpu().contiguous().clone() for key, value in by_name.items()}
            save_file(copies, temporary / file, metadata={"format": "pt"})
            digests[file] = _sync_and_digest(temporary / file)
        document = {"format": FORMAT, "sha256": {**digests, "state": state_digest(state)}, "state": state}
        (temporary / "state.json").write_text(json.dumps(document), encoding="utf-8")
        _sync_and_digest(temporary / "state.json")
        _sync_folder(temporary)
        shutil.rmtree(folder / name, ignore_errors=True)  # left by a run that was then resumed from an earlier step
        temporary.rename(folder / name)
        _sync_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(f"the checkpoint of step {step} cannot be written to {folder}: {error}") from error


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is not damaged; None if there is none. Damaged ones are logged."""
    for name in reversed(_checkpoint_names(folder)):
        try:
            return _read_folder(folder / name)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("%s is damaged (%s); falling back to the previous checkpoint", folder / name, error)
    return None


def _checkpoint_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("step-*")) if folder.is_dir() else []


def _read_folder(path: Path) -> Checkpoint:
    document = json.loads((path / "state.json").read_text(encoding="utf-8"))
    digests = {"state": state_digest(document["state"]), **{file: _file_sha256(path / file) for file in TENSORS}}
    for name, sha256 in digests.items():
        if document["sha256"][name] != sha256:
            raise ValueError(f"the SHA-256 of {name} differs from the recorded one")
    if document["format"] not in (1, FORMAT):
        raise RunError(f"{path} has format {document['format']!r}, but this peftkit reads {FORMAT}; upgrade peftkit")
    state = document["state"] if document["format"] == FORMAT else migrate_checkpoint(document["state"])
    trainable, optimizer, method = (load_file(path / file) for file in TENSORS)
    return Checkpoint(path, trainable, optimizer, method, state)


def state_digest(state: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the state in ``state.json``."""
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_and_digest(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return _file_sha256(path)


def _sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power failure. Windows does not support this."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the trainable parameters and the buffers of a model."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return parameters | {f"buffer:{name}": b for name, b in model.named_buffers()}


def restore_trained(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore what ``trained_tensors`` returned.

    Args:
        model: The model with the method applied.
        tensors: The tensors by name, with the shapes of the model's.

    Raises:
        RunError: The model has other trainable tensors than the checkpoint.
    """
    current = trained_tensors(model)
    if current.keys() != tensors.keys():
        different = sorted(current.keys() ^ tensors.keys())
        raise RunError(
            f"the checkpoint is of another model: {len(different)} tensors are only in one of them, such as "
            f"{different[0]}"
        )
    with torch.no_grad():
        for key, value in tensors.items():
            current[key].copy_(value)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return an optimizer's state: tensors by ``parameter_number.key``, and other values by parameter number."""
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
    """Restore what ``optimizer_state`` returned; learning rates and other options come from the recipe.

    Args:
        optimizer: A new optimizer of the same parameters.
        tensors: Tensors by ``parameter_number.key``, of any shape.
        rest: Other values by parameter number and key.
    """
    # Not with load_state_dict, which casts the state to the parameters' dtype, while Adafactor's state is float32.
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in rest.items():
        optimizer.state[parameters[int(number)]] = dict(values)
    fused = {p for group in optimizer.param_groups if group.get("fused") for p in group["params"]}
    for name, value in tensors.items():
        number, key = name.split(".", 1)
        parameter = parameters[int(number)]
        # Only fused kernels read the number of the step on the device.
        on_cpu = key == "step" and parameter not in fused
        optimizer.state[parameter][key] = value if on_cpu else value.to(parameter.device)
