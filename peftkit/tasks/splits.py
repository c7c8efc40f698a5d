"""Train, dev and test out of what splits there are: by their names, or drawn from the training rows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peftkit.errors import InputError, did_you_mean, listed
from peftkit.tasks.folders import SPLITS

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Plan:
    """What of the data becomes which split.

    ``named`` says which split of the data is the train, dev or test split, where their names do not; ``fractions``
    which share of the training rows becomes dev or test where the data have no such split.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    fractions: Mapping[str, float] = field(default_factory=dict)
    seed: int = 42
    most: int | None = None
    """Rows kept of each split."""


def assign(available: Sequence[str], plan: Plan, title: str) -> dict[str, str]:
    """Which split of the data is train, dev and test; those that are to be drawn from train are left out.

    Raises:
        InputError: there is no such split and no fraction for it, or both.
    """
    found: dict[str, str] = {}
    for role, name in plan.named.items():
        if (match := _called(name, available)) is None:
            text = f"task.{role}_split: {title} has no split {name!r}{did_you_mean(name, available)}"
            raise InputError(f"{text}; it has {listed(available)}")
        found[role] = match
    for role in SPLITS:
        left = [name for name in available if name not in found.values()]
        if role not in found and (match := _called(role, left)) is not None:
            found[role] = match
    if "train" not in found:
        raise InputError(f"{title}: no split is called train; it has {listed(available)}; set task.train_split")
    for role in ("dev", "test"):
        if role in found and role in plan.fractions:
            text = f"{title} has the {role} split {found[role]!r}, and task.{role}_fraction would draw another"
            raise InputError(f"{text}; leave the fraction out, or say what else the split is for")
        if role not in found and role not in plan.fractions:
            text = f"{title} has no {role} split, only {listed(available)}; set task.{role}_fraction to draw one from"
            raise InputError(f'{text} the training rows, task.{role}_split, or {role} = "…" in [task.path]')
    return found


def _called(name: str, available: Sequence[str]) -> str | None:
    """The split of that name, or of another name for the same."""
    if name in available:
        return name
    names = next((names for names in SPLITS.values() if name.lower() in names), ())
    return next((each for each in available if each.lower() in names), None)


def draw(size: int, groups: Sequence[Hashable] | None, plan: Plan) -> dict[str, np.ndarray[Any, Any]]:
    """The training rows' numbers, dealt out to train and to each split of ``plan.fractions``, in their order.

    Every split gets its share of ``size``, rounded; of each group in ``groups`` its share within one row, and every
    group keeps a row for train. The same size, groups, fractions and seed give the same rows.
    """
    import numpy as np

    order = np.random.RandomState(plan.seed).permutation(size)  # whose numbers NumPy promises never to change
    pools: dict[Hashable, list[int]] = {}
    for row in order.tolist():
        pools.setdefault(groups[row] if groups is not None else None, []).append(row)
    pools = {group: pools[group] for group in sorted(pools, key=repr)}
    dealt: dict[str, np.ndarray[Any, Any]] = {}
    shares = {group: len(rows) for group, rows in pools.items()}
    for role, fraction in plan.fractions.items():
        wanted = {group: fraction * count for group, count in shares.items()}
        taken = _rounded(wanted, max(1, int(fraction * size + 0.5)), {g: len(rows) - 1 for g, rows in pools.items()})
        dealt[role] = np.array(sorted(row for group, n in taken.items() for row in pools[group][:n]), dtype=np.int64)
        pools = {group: rows[taken[group] :] for group, rows in pools.items()}
    dealt["train"] = np.array(sorted(row for rows in pools.values() for row in rows), dtype=np.int64)
    return dealt


def _rounded(wanted: Mapping[Hashable, float], total: int, limits: Mapping[Hashable, int]) -> dict[Hashable, int]:
    """Whole numbers near those that are wanted that make up the total, as far as the limits allow."""
    found = {group: min(int(share), limits[group]) for group, share in wanted.items()}
    by_rest = sorted(wanted, key=lambda group: int(wanted[group]) - wanted[group])
    for group in by_rest:
        if sum(found.values()) < total and found[group] < limits[group]:
            found[group] += 1
    return found


def keep(rows: np.ndarray[Any, Any], plan: Plan) -> np.ndarray[Any, Any]:
    """At most ``plan.most`` of the rows, in their order: a larger number keeps those of a smaller one too."""
    import numpy as np

    if plan.most is None or len(rows) <= plan.most:
        return rows
    chosen = np.random.RandomState(plan.seed).permutation(len(rows))[: plan.most]
    return rows[np.sort(chosen)]
