"""Shares the evaluation before training among runs whose models compute the same at the start.

LoRA, IA3, adapters and many other methods leave the function of the base model as it is until the first step. That is
not assumed of a method: each run hashes what its model computes (see ``fingerprint``), and takes the results of an
earlier run with the same model, task and evaluation settings only if that one computed the same, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import FileIO
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from transformers import PreTrainedModel

from peftkit.data.tokenized_split import TokenizedSplit
from peftkit.evaluate.evaluator import SplitResult, predict
from peftkit.evaluate.random_states import random_states, restore_random_states
from peftkit.models import BoundObjective
from peftkit.recipe import Recipe

PROBE_ROWS = 2
"""How many of the shortest rows, and of the longest, a model is compared on."""
EMBEDDED_TOKENS = 4096
"""Tokens that are embedded at a time."""


@dataclass(frozen=True)
class StartEvaluation:
    """The evaluation before training, of a run with the same model, task and evaluation settings."""

    results: dict[str, SplitResult]
    """By the name of each split."""
    seconds: float
    """How long it took."""


class StartEvaluations:
    """The evaluations before training of the runs of a process, by what their models compute.

    A run is a fork of the process. It writes its evaluation to a file that both have open, and the process reads it for
    the forks that follow.

    Args:
        file: An empty file, opened for reading and writing without a buffer; None if evaluations are not shared.
    """

    def __init__(self, file: FileIO | None = None) -> None:
        self._file = file
        self._known: dict[str, StartEvaluation] = {}

    @property
    def shared(self) -> bool:
        """Whether evaluations are shared."""
        return self._file is not None

    def get(self, key: str) -> StartEvaluation | None:
        """Return the evaluation of a model that computes the same; None if there is none.

        Args:
            key: The fingerprint of the model.
        """
        return self._known.get(key)

    def add(self, key: str, evaluation: StartEvaluation) -> None:
        """Add the evaluation of this run.

        Args:
            key: The fingerprint of the model.
            evaluation: The evaluation.
        """
        if self._file is not None:
            splits = {name: asdict(result) for name, result in evaluation.results.items()}
            with suppress(OSError, TypeError):  # it is faster, not necessary
                self._file.write(json.dumps([key, evaluation.seconds, splits]).encode() + b"\n")

    def collect(self) -> None:
        """Read what the last fork added; of one that was killed while it wrote, nothing."""
        if self._file is None:
            return
        self._file.seek(0)
        if (line := self._file.read()).endswith(b"\n"):
            key, seconds, splits = json.loads(line)
            results = {name: SplitResult(**result) for name, result in splits.items()}
            self._known[key] = StartEvaluation(results, seconds)
        self._file.seek(0)
        self._file.truncate()


def fingerprint(
    model: nn.Module,
    splits: Sequence[TokenizedSplit],
    recipe: Recipe,
    objective: BoundObjective,
    accelerator: Accelerator,
) -> str | None:
    """Hash what a model computes, so that models with equal hashes predict the same for every row.

    A method changes the function of a model in one of two ways. What it adds to a layer is exactly zero whatever the
    input is, as with a factor of zeros, or a scale of ones: then no bit changes anywhere. Or it computes other values,
    or the same values with other roundings: then bits differ among the logits and last hidden states of a few rows,
    which are 10⁴ to 10⁷ numbers that each depend on every layer. (Other kernels differ too: torch multiplies some
    slices otherwise if the weight is trained, so that full fine-tuning and LoRA may have different hashes.) Three kinds
    of methods could pass unnoticed by that, so these are compared too:

    * Those that change some tokens only: the input embeddings of the whole vocabulary.
    * Those whose effect depends on lengths, padding or caches: the shortest and the longest rows, apart, in the calls
      that the evaluation makes, with all their passes.
    * Those that draw random numbers: a model that does has no hash.

    Args:
        model: The model with the method applied.
        splits: The splits to evaluate.
        recipe: The recipe of the run.
        objective: The objective of the run.
        accelerator: The Accelerator of the run.

    Returns:
        The hash; None if the results of the model cannot be shared.
    """
    digest, states = hashlib.blake2b(digest_size=16), random_states()
    if recipe.evaluate.temperature:  # samples depend on the seed
        digest.update(str(recipe.run.seed).encode())
    split = max(splits, key=lambda each: len(each.rows))
    order = sorted(range(len(split.rows)), key=lambda i: (split.rows[i]["source_tokens"], i))
    with _hashed_outputs(digest):
        for positions in (order[:PROBE_ROWS], order[-PROBE_ROWS:]):
            probe = split.select([split.indices[i] for i in sorted(positions)])
            predictions = predict(model, probe, recipe, objective, accelerator)
            digest.update(json.dumps(predictions, default=str).encode())
    has_embeddings = _hash_embeddings(digest, model, accelerator)
    if random_states() != states:
        restore_random_states(states)
        return None
    return digest.hexdigest() if has_embeddings else None


@contextmanager
def _hashed_outputs(digest: Any) -> Iterator[None]:
    """Hash the outputs of the transformer, of its encoder and its decoder, but not of a method's modules."""

    def add(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, PreTrainedModel):
            values = output.values() if isinstance(output, Mapping) else output
            for value in (values,) if isinstance(values, Tensor) else values:
                if isinstance(value, Tensor):
                    _hash_tensor(digest, value)

    handle = register_module_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _hash_embeddings(digest: Any, model: nn.Module, accelerator: Accelerator) -> bool:
    """Hash the input embedding of every token; returns whether the model has embeddings."""
    try:
        embeddings = model.get_input_embeddings()  # type: ignore[operator]
        tokens = torch.arange(embeddings.num_embeddings, device=accelerator.device)
    except (AttributeError, NotImplementedError):
        return False
    training = model.training
    model.eval()
    with torch.inference_mode(), accelerator.autocast():
        for start in range(0, len(tokens), EMBEDDED_TOKENS):
            _hash_tensor(digest, embeddings(tokens[None, start : start + EMBEDDED_TOKENS]))
    model.train(training)
    return True


def _hash_tensor(digest: Any, tensor: Tensor) -> None:
    """Hash a tensor; zeros with and without a sign are equal."""
    digest.update(f"{[*tensor.shape]} {tensor.dtype}".encode())
    values = (tensor.detach() + 0).cpu().contiguous().reshape(-1)
    digest.update(values.view(torch.uint8).numpy().data)
