"""Compares the memory that `peftkit cost` estimates with the peak that torch's profiler measures on a CPU.

    python scripts/benchmarks/benchmark_memory.py [--model NAME …] [--method NAME …] [--lengths NAME …]

The cells are those of `benchmark_training.py`. The peak is that of the second epoch: the bytes of the model and of the
optimizer's state, and the most that was allocated beside them at a time.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from itertools import product
from pathlib import Path

import torch
import transformers as tf
from benchmark_training import add_cell_arguments, make_recipe, most_allocated
from torch.profiler import ProfilerActivity, profile
from training_results import Cell

from peftkit.analysis.cost_estimate import estimate_cost
from peftkit.analysis.dry_run import dry_run
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.plugins import Registry, load_registry
from peftkit.recipe import Recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_cell_arguments(parser)
    parser.add_argument("--steps", type=int, default=3, help="steps of an epoch")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries("error")
    versions = f"torch {torch.__version__}, transformers {tf.__version__}, {platform.processor() or platform.machine()}"
    print(f"{versions}, one thread, epochs of {arguments.steps} steps\n")
    print("| model | method | lengths | estimated MiB | measured MiB | estimated / measured |")
    print("|---|---|---|---|---|---|")
    registry = load_registry()
    for names in product(arguments.model, arguments.method, arguments.lengths):
        with tempfile.TemporaryDirectory() as folder:
            recipe = make_recipe(Cell(*names), Path(folder), arguments.steps, registry)
            estimated = estimate_cost(recipe, registry).memory_bytes / 2**20
            measured = measure(recipe, registry, arguments.steps) / 2**20
        columns = (*names, f"{estimated:.1f}", f"{measured:.1f}", f"{estimated / measured:.2f}")
        print(f"| {' | '.join(columns)} |", flush=True)


def measure(recipe: Recipe, registry: Registry, steps: int) -> int:
    """Return the peak in bytes of an epoch, after one that creates the optimizer's state."""
    with dry_run(recipe, registry, 2 * steps, ()) as trainer:
        batches = trainer._step_batches()
        for _ in range(steps):
            trainer._train_on(next(batches))
        kept = [*trainer.module.parameters(), *trainer.module.buffers()]
        states = trainer.strategy.optimizer.state.values()
        kept += [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            for _ in range(steps):
                trainer._train_on(next(batches))
        return sum(storages.values()) + most_allocated(profiled)


if __name__ == "__main__":
    main()
