"""Finds out how a recipe fits into the memory of a GPU: microbatches, gradient checkpointing, 4-bit weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from peftkit.analysis.cost_estimate import estimate_cost, format_bytes
from peftkit.argument_names import format_argument
from peftkit.errors import RecipeError, RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe

MakeRecipe = Callable[[Sequence[str]], Recipe]
"""Returns the recipe with overrides, such as ``train.batch_size=4``, beside those that it has."""
DOUBLINGS = 6
"""How often the microbatches of a step of ``train.tokens_per_batch`` are doubled."""
CHECKPOINTING = "train.gradient_checkpointing=true"
FOUR_BITS = 'model.quantization="4bit"'


@dataclass(frozen=True)
class TrainingSetup:
    """One way to train a recipe, and the memory that it takes.

    Attributes:
        quantization: ``4bit`` or ``8bit``, or None for weights that are not quantized.
        gradient_checkpointing: Whether activations are computed again in the backward pass.
        batch_size: Rows of a microbatch; None if the recipe limits tokens instead.
        gradient_accumulation_steps: Microbatches of a step.
        memory_bytes: The estimated peak memory.
        gmacs_per_step: Billions of multiply-accumulates of a step.
        overrides: What differs from the recipe, as after ``--set``.
    """

    quantization: str | None
    gradient_checkpointing: bool
    batch_size: int | None
    gradient_accumulation_steps: int
    memory_bytes: int
    gmacs_per_step: float
    overrides: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class MemoryFit:
    """Whether and how a recipe fits into an amount of memory.

    Attributes:
        name: The name of the run.
        method: The method.
        limit_bytes: The memory that there is.
        as_written: The recipe as it is.
        setups: For each combination of quantization and gradient checkpointing, the setup with the largest
            microbatches that fit, or with the smallest ones if none do. A step has the same rows in all of them.
        impossible: The other combinations, by their overrides, and why they cannot be trained.
    """

    name: str
    method: str
    limit_bytes: float
    as_written: TrainingSetup
    setups: tuple[TrainingSetup, ...]
    impossible: dict[str, str]

    def fits(self, setup: TrainingSetup) -> bool:
        """Return whether a setup fits.

        Args:
            setup: The setup.
        """
        return setup.memory_bytes <= self.limit_bytes

    @property
    def remedy(self) -> TrainingSetup | None:
        """The setup that fits and changes least: smaller microbatches before checkpointing, both before 4-bit weights.

        The recipe as it is, if that fits; None if nothing does.
        """
        return next(filter(self.fits, (self.as_written, *self.setups)), None)

    def __repr__(self) -> str:
        head = f"{self.name}: {self.method}, {format_bytes(self.limit_bytes)} of memory"
        titles = ("weights", "checkpointing", "rows", "microbatches", "memory", "GMACs/step", "fits")
        lines = [head, _line(titles), *(_line(self._cells(setup)) for setup in self.setups)]
        lines += [f"  not with {overrides}: {reason}" for overrides, reason in self.impossible.items()]
        return "\n".join([*lines, f"  {self.advice}"])

    def _cells(self, setup: TrainingSetup) -> list[str]:
        return [
            setup.quantization or "as loaded",
            "yes" if setup.gradient_checkpointing else "no",
            "by tokens" if setup.batch_size is None else f"{setup.batch_size:,}",
            f"{setup.gradient_accumulation_steps:,}",
            format_bytes(setup.memory_bytes),
            f"{setup.gmacs_per_step:,.5g}",
            "yes" if self.fits(setup) else "no",
        ]

    @property
    def advice(self) -> str:
        """What to do, in one sentence."""
        remedy = self.remedy
        if remedy is None:
            least = min(self.setups, key=lambda setup: setup.memory_bytes)
            return (
                f"nothing fits: {format_bytes(least.memory_bytes)} at least; choose a smaller model, shorter texts, or "
                "a method that trains less"
            )
        if remedy == self.as_written:
            return f"fits as written: {format_bytes(remedy.memory_bytes)}"
        return f"use: {format_argument('set', *remedy.overrides, repeatable=True)}"


def _line(cells: Sequence[str]) -> str:
    first, second, *rest = cells
    return f"  {first:<11}{second:<15}" + "".join(f"{cell:>14}" for cell in rest)


def plan_memory(make_recipe: MakeRecipe, registry: Registry, limit_bytes: float) -> MemoryFit:
    """Estimate which setups of a recipe fit into memory; loads no weights, and needs no GPU.

    Args:
        make_recipe: Returns the recipe with overrides.
        registry: The installed components.
        limit_bytes: The memory that there is.

    Returns:
        The setups.

    Raises:
        RecipeError: The recipe itself is invalid.
        RunError: The config, tokenizer or data cannot be read, or the method cannot be applied without weights.
        InputError: A row is invalid, or the model is too large for a method that needs weights.
    """
    recipe = make_recipe(())
    planner = _Planner(make_recipe, registry, limit_bytes)
    as_written = planner.estimate(())
    setups, impossible = [], {}
    for overrides in _combinations(recipe):
        try:
            setups.append(planner.largest(recipe, overrides))
        except RecipeError as error:
            impossible[" ".join(overrides)] = error.problems[0].text
    return MemoryFit(recipe.run.name, recipe.method.name, limit_bytes, as_written, tuple(setups), impossible)


def _combinations(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    """Yield overrides, those that change least first: checkpointing changes time only, quantization the results."""
    quantizations = [()] if recipe.model.quantization else [(), (FOUR_BITS,)]
    checkpointings = [()] if recipe.train.gradient_checkpointing else [(), (CHECKPOINTING,)]
    for quantization, checkpointing in product(quantizations, checkpointings):
        yield (*quantization, *checkpointing)


class _Planner:
    """Estimates setups of a recipe."""

    def __init__(self, make_recipe: MakeRecipe, registry: Registry, limit_bytes: float) -> None:
        self._make_recipe, self._registry, self._limit_bytes = make_recipe, registry, limit_bytes
        self._setups: dict[tuple[str, ...], TrainingSetup] = {}

    def estimate(self, overrides: Sequence[str]) -> TrainingSetup:
        """Return a setup, estimated once: the recipe as written is also the first of its combinations."""
        key = tuple(overrides)
        if key not in self._setups:
            self._setups[key] = self._estimate(key)
        return self._setups[key]

    def _estimate(self, overrides: tuple[str, ...]) -> TrainingSetup:
        recipe = self._make_recipe(overrides)
        cost, train = estimate_cost(recipe, self._registry), recipe.train
        return TrainingSetup(
            quantization=recipe.model.quantization,
            gradient_checkpointing=train.gradient_checkpointing,
            batch_size=None if train.tokens_per_batch else train.batch_size,
            gradient_accumulation_steps=train.gradient_accumulation_steps,
            memory_bytes=cost.memory_bytes,
            gmacs_per_step=cost.gmacs_per_step,
            overrides=overrides,
        )

    def largest(self, recipe: Recipe, overrides: Sequence[str]) -> TrainingSetup:
        """Return the setup with the largest microbatches that fit, or with the smallest ones; by bisection.

        Args:
            recipe: The recipe.
            overrides: Overrides of the setup, without those of microbatches.
        """
        divisions = [(*overrides, *division) for division in _divisions(recipe)]
        best = self.estimate(divisions[0])
        if best.memory_bytes <= self._limit_bytes or len(divisions) == 1:
            return best
        if recipe.train.tokens_per_batch:
            return self._first_that_fits(best, divisions[1:])
        best = self.estimate(divisions[-1])
        if best.memory_bytes > self._limit_bytes:
            return best
        too_large, fitting = 0, len(divisions) - 1
        while fitting - too_large > 1:
            middle = (too_large + fitting) // 2
            setup = self.estimate(divisions[middle])
            if setup.memory_bytes <= self._limit_bytes:
                best, fitting = setup, middle
            else:
                too_large = middle
        return best

    def _first_that_fits(self, best: TrainingSetup, divisions: Sequence[Sequence[str]]) -> TrainingSetup:
        """Return the first setup that fits, or the last that is possible: how many rows a step has is not known."""
        for overrides in divisions:
            try:
                best = self.estimate(overrides)
            except RunError:  # a step has fewer rows than microbatches
                break
            if best.memory_bytes <= self._limit_bytes:
                break
        return best


def _divisions(recipe: Recipe) -> list[tuple[str, ...]]:
    """Return overrides that divide a step into more and more microbatches, none at first."""
    train = recipe.train
    steps = train.gradient_accumulation_steps
    divided: list[tuple[str, ...]]
    if train.tokens_per_batch:
        divided = [(f"train.gradient_accumulation_steps={steps * 2**power}",) for power in range(1, DOUBLINGS + 1)]
    else:
        sizes = [size for size in range(train.batch_size - 1, 0, -1) if train.batch_size % size == 0]
        divided = [
            (f"train.batch_size={size}", f"train.gradient_accumulation_steps={steps * train.batch_size // size}")
            for size in sizes
        ]
    return [(), *divided]
