"""How often the statistics of ``compare`` are right, on simulated worlds whose truth is known.

python scripts/calibrate_statistics.py [--worlds 4000] [--null 2000] [--shifted 0] [--seed 0] [--processes 1]

Worlds are drawn from the distribution ``PI``: one level of each factor, independently. Results are written to a folder
in chunks, and chunks that are there are not computed again; they do not depend on the number of processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is there

import numpy as np
from scipy import stats

from peftkit.compare.statistics import Posterior, Trial, Tuning, fit
from peftkit.compare.statistics.engine import TAILS
from peftkit.compare.statistics.hierarchy import Effort
from peftkit.compare.statistics.pairwise import judge

VERSION = 1
PI: dict[str, tuple[Any, ...]] = {
    "methods": (2, 5, 10, 50),
    "seeds": (2, 3, 5, 10),
    "examples": (100, 500, 2000),
    "spread": (0.5, 2.0, 5.0),
    "variances": ("equal", "log-normal"),
    "tails": ("normal", "t5"),
    "curve": (False, True),
    "level": (0.4, 0.6, 0.8, 0.9, 0.97, "loss"),
}
"""The factors of a world. The spread between methods is in points: the standard deviation of their expected accuracy,
linearised at the level, or per cent of the loss; 0 in null worlds."""
SHIFTED: dict[str, dict[str, Any]] = {
    "groups of five examples": {"group": 5},
    "seeds vary by three points": {"seed_points": 3.0},
    "seeds vary by a quarter of a point": {"seed_points": 0.25},
    "Student's t with 2.5 degrees of freedom": {"tails": "t2.5"},
    "one method 20 points worse": {"outlier": 20.0},
    "methods spread by 15 points": {"spread": 15.0},
    "skewed losses": {"level": "loss", "skew": 1.2},
}
"""Worlds from around the distribution, of which no more is asked than that one looks."""
HARD, OWN, ALONE = 1.0, 0.4, 0.5
"""Deviations of what makes an example hard for all, for one method and for one run, beside a threshold."""
SETTINGS, CHOSEN_CENTRE, DEV, REPEATS = 5, (1.0, 3.0), 100, 200
"""Learning rates that are tried, where the best of them lies, dev examples, and how often tuning is repeated to know
what it would have chosen."""
HIGHEST = 0.99
"""The highest accuracy of a method: normal draws above it are drawn again."""
CHUNK = 50
EFFORT = Effort(chains=16, warm_up=15, kept=25, each=6)
"""Fewer draws than ``compare`` takes: of thousands of worlds the errors of drawing cancel."""


@dataclass(frozen=True)
class World:
    """The factors of one world."""

    methods: int
    seeds: int
    examples: int
    spread: float
    variances: str
    tails: str
    curve: bool
    level: float | str
    seed_points: float = 1.0
    group: int = 1
    outlier: float = 0.0
    skew: float = 0.6

    @property
    def loss(self) -> bool:
        return self.level == "loss"


@dataclass
class Drawn:
    """What a world shows, and its truth."""

    scores: dict[str, dict[int, np.ndarray]]
    truth: dict[str, float]
    tunings: dict[str, Tuning] = field(default_factory=dict)
    groups: list[str] | None = None


def draw_world(rng: np.random.Generator, **changed: Any) -> World:
    found = {name: levels[rng.integers(len(levels))] for name, levels in PI.items()}
    return World(**{**found, **changed})


def simulate(world: World, rng: np.random.Generator) -> Drawn:
    """Runs of a world."""
    points = 0.01 / _slope(world)
    centre = 0.0 if world.loss else float(stats.norm.ppf(world.level) * _total())
    sign = -1.0 if world.loss else 1.0
    means = centre + sign * world.spread * points * rng.standard_normal(world.methods)
    while not world.loss and (means > _highest()).any():
        means = np.where(means > _highest(), centre + world.spread * points * rng.standard_normal(len(means)), means)
    means[0] -= sign * world.outlier * points
    deviations = np.full(world.methods, world.seed_points * points)
    if world.variances == "log-normal":
        deviations = deviations * np.exp(0.5 * rng.standard_normal(world.methods))
    number = world.examples // world.group
    hard = np.repeat(rng.standard_normal(number) * HARD, world.group)
    drawn = Drawn({}, {}, groups=None if world.group == 1 else [str(i // world.group) for i in range(len(hard))])
    centres = rng.uniform(*CHOSEN_CENTRE, len(means))
    steeps = points * np.exp(0.5 * rng.standard_normal(len(means)))
    if world.spread == 0:  # equal methods lose equally much by their tuning
        centres[:], steeps[:] = centres[0], steeps[0]
    for place, (mean, deviation) in enumerate(zip(means, deviations, strict=True)):
        name = f"m{place}"
        of_method = hard + np.repeat(rng.standard_normal(number) * OWN, world.group)
        settings, chosen = np.zeros(1), 0
        if world.curve:
            settings = -sign * steeps[place] * (np.arange(SETTINGS) - centres[place]) ** 2
            dev_of_method = (HARD**2 + OWN**2) ** 0.5 * rng.standard_normal(DEV)
            errors = _seeds(world, rng, (SETTINGS,), deviation)
            dev = _answers(world, mean + settings + errors, dev_of_method, rng)
            test = _answers(world, mean + settings + errors, of_method, rng)
            chosen = int(np.argmax(sign * dev.mean(1)))
            drawn.tunings[name] = Tuning([Trial(k, dev[k], test[k]) for k in range(SETTINGS)], chosen)
        runs = _answers(world, mean + settings[chosen] + _seeds(world, rng, (world.seeds,), deviation), of_method, rng)
        drawn.scores[name] = dict(enumerate(runs))
        expected = _expected(world, mean + settings, deviation)
        drawn.truth[name] = float(_choices(world, mean + settings, deviation, rng) @ expected)
    return drawn


def _total() -> float:
    return (HARD**2 + OWN**2 + ALONE**2) ** 0.5


def _highest() -> float:
    return float(stats.norm.ppf(HIGHEST) * _total())


def _slope(world: World) -> float:
    """Of the expected score by what is varied."""
    return 1.0 if world.loss else float(stats.norm.pdf(stats.norm.ppf(world.level)) / _total())


def _seeds(world: World, rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> np.ndarray:
    if world.tails == "normal":
        return deviation * rng.standard_normal(shape)
    freedom = float(world.tails[1:])
    return deviation * rng.standard_t(freedom, shape) * np.sqrt((freedom - 2) / freedom)


def _answers(world: World, ability: np.ndarray, examples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of runs, the score of each example: right or wrong, or a loss."""
    latent = examples + ALONE * rng.standard_normal((*ability.shape, examples.shape[-1]), dtype=np.float32)
    if world.loss:
        return (1 + ability[..., None]) * np.exp(world.skew * latent / _total() - world.skew**2 / 2)
    return (latent + ability[..., None] > 0).astype(float)


def _expected(world: World, ability: np.ndarray, deviation: float) -> np.ndarray:
    """The expected score over seeds and examples."""
    if world.loss:
        return 1 + ability
    levels = (np.arange(400) + 0.5) / 400
    freedom = np.inf if world.tails == "normal" else float(world.tails[1:])
    values = stats.t.ppf(levels, freedom) * (1.0 if np.isinf(freedom) else np.sqrt((freedom - 2) / freedom))
    return stats.norm.cdf((ability[:, None] + deviation * values) / _total()).mean(1)


def _choices(world: World, ability: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """How often each setting is chosen, with new seeds and dev examples."""
    if len(ability) == 1:
        return np.ones(1)
    sign = -1.0 if world.loss else 1.0
    seeds = ability + _seeds(world, rng, (REPEATS, len(ability)), deviation)
    examples = (HARD**2 + OWN**2) ** 0.5 * rng.standard_normal((REPEATS, 1, DEV), dtype=np.float32)
    picked = (sign * _answers(world, seeds, examples, rng).mean(2)).argmax(1)
    return np.bincount(picked, minlength=len(ability)) / REPEATS


def assess(world: World, rng: np.random.Generator, effort: Effort | None = EFFORT) -> dict[str, Any]:
    """What the engine says of one world, and whether it is right."""
    drawn = simulate(world, rng)
    started = time.perf_counter()
    found = fit(
        drawn.scores,
        share=not world.loss,
        higher_is_better=not world.loss,
        groups=drawn.groups,
        tunings=drawn.tunings,
        effort=effort,
    )
    took = time.perf_counter() - started
    sign = -1.0 if world.loss else 1.0
    best = max(drawn.truth, key=lambda name: sign * drawn.truth[name])
    covered = [found.estimates[name].low <= truth <= found.estimates[name].high for name, truth in drawn.truth.items()]
    held = _differences_held(found, drawn.truth)
    top = max(found.estimates, key=lambda name: sign * found.estimates[name].score)
    signed = {name: {s: sign * v for s, v in of.items()} for name, of in drawn.scores.items()}
    holm = None
    if world.spread == 0:
        verdict = judge(signed, groups=drawn.groups, choices=found.choices, power=False, draws=300)
        holm = any(each.p_adjusted < 0.05 for each in verdict.differences)
    return {
        **asdict(world),
        "coverage": float(np.mean(covered)),
        "pairs": held,
        "inside": all(world.loss or 0 <= e.low <= e.high <= 1 for e in found.estimates.values()),
        "width": min(e.high - e.low for e in found.estimates.values()),
        "best": [[float(e.best), name == best] for name, e in found.estimates.items()],
        "claim": float(max(e.best for e in found.estimates.values())),
        "claim_right": max(found.estimates, key=lambda name: found.estimates[name].best) == best,
        "bias_of_top": sign * (found.estimates[top].score - drawn.truth[top]),
        "holm": holm,
        "seconds": took,
    }


def _differences_held(found: Posterior, truth: Mapping[str, float]) -> float:
    """The share of pairs whose difference is in its interval: in the middle of the draws, which needs no quantiles."""
    first, second = np.triu_indices(len(found.names), 1)
    actual = np.array([truth[name] for name in found.names])
    below = found.draws[:, first] - found.draws[:, second] < actual[first] - actual[second]
    return float(((below.mean(0) >= TAILS[0]) & (below.mean(0) <= TAILS[1])).mean())


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _share(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    return f"{mean:.3f} ± {np.std(values) / max(1, len(values)) ** 0.5:.3f}"


def criteria(results: Sequence[dict[str, Any]]) -> list[tuple[str, str, bool | None]]:
    """What is asked of the statistics, what was found, and whether that is met; None where no world says."""
    null = [r for r in results if r["spread"] == 0]
    others = [r for r in results if r["spread"] > 0]
    margins = {
        (name, level): float(np.mean([r["coverage"] for r in results if r[name] == level]))
        for name in PI
        for level in {r[name] for r in results}
    }
    low, high = min(margins, key=margins.__getitem__), max(margins, key=margins.__getitem__)
    too_high = [each for each, share in margins.items() if share > 0.97 and each != ("seeds", 2)]
    over = float(np.mean([r["coverage"] for r in results]))
    cells = _cells(results, "coverage", ("methods", "seeds", "examples"))
    worst = min(cells, key=cells.__getitem__)
    inside = all(r["inside"] and r["width"] > 0 for r in results)
    gaps = {decile: right - said for decile, number, said, right in _deciles(others) if number >= 300}
    furthest = max(gaps, key=lambda decile: abs(gaps[decile]), default=None)
    claims = [r["claim_right"] for r in others if r["claim"] >= 0.95]
    wrong = [r["claim"] >= 0.95 for r in null]
    # A world says yes or no: only without the number of examples do cells have worlds enough.
    errors = _cells([r for r in null if r["holm"] is not None], "holm", ("methods", "seeds"))
    highest = max(errors, key=errors.__getitem__, default=None)
    family = float(np.mean([r["holm"] for r in null])) if null else 0.0

    def said(share: float, where: tuple[Any, ...]) -> str:
        return f"{share:.3f} ({' × '.join(map(str, where))})"

    def of_cell(cell: tuple[Any, ...], found: Mapping[tuple[Any, ...], tuple[float, int]]) -> str:
        return f"{found[cell][0]:.3f} ({' × '.join(map(str, cell))}, {found[cell][1]} worlds)"

    return [
        ("95 % intervals of scores hold 94–96 % over π", f"{over:.3f}", 0.94 <= over <= 0.96),
        (
            "and 93–97 % at each level of a factor, of two seeds more",
            f"{said(margins[low], low)} to {said(margins[high], high)}",
            margins[low] >= 0.93 and not too_high,
        ),
        ("and at least 90 % in each cell", of_cell(worst, cells), cells[worst][0] >= 0.9),
        ("shares stay in [0, 1], and all intervals have width", "yes" if inside else "no", inside),
        (
            "each decile of P(best) with 300 statements is right within 5 points",
            "none" if furthest is None else f"{gaps[furthest]:+.3f} ({furthest})",
            None if furthest is None else abs(gaps[furthest]) <= 0.05,
        ),
        (
            "claims of 95 % and more are right at least 93 %",
            f"{np.mean(claims):.3f}" if claims else "none",
            bool(np.mean(claims) >= 0.93) if claims else None,
        ),
        (
            "at most 5 % of null worlds have such a claim",
            f"{np.mean(wrong):.3f}" if null else "none",
            bool(np.mean(wrong) <= 0.05) if null else None,
        ),
        (
            "Holm's family-wise error is at most 6 % over null worlds",
            f"{family:.3f}" if null else "none",
            family <= 0.06 if null else None,
        ),
        (
            "and at most 8 % in each cell of methods and seeds",
            "none" if highest is None else of_cell(highest, errors),
            None if highest is None else errors[highest][0] <= 0.08,
        ),
    ]


def _cells(
    results: Sequence[dict[str, Any]], what: str, factors: Sequence[str]
) -> dict[tuple[Any, ...], tuple[float, int]]:
    """The mean in each cell of the factors that has worlds, and how many."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for each in results:
        found.setdefault(tuple(each[factor] for factor in factors), []).append(each[what])
    return {cell: (float(np.mean(values)), len(values)) for cell, values in sorted(found.items())}


def _deciles(results: Sequence[dict[str, Any]]) -> list[tuple[str, int, float, float]]:
    """Of each decile of P(best) its number of statements, what they say on average and how often they are right."""
    stated = np.array([each for r in results for each in r["best"]], dtype=float).reshape(-1, 2)
    number = np.minimum((stated[:, 0] * 10).astype(int), 9)
    found = []
    for decile in np.unique(number):
        of = stated[number == decile]
        found.append((f"{decile / 10:.1f}–{(decile + 1) / 10:.1f}", len(of), *of.mean(0).tolist()))
    return found


def report(results: Sequence[dict[str, Any]]) -> str:
    """The whole table of calibration."""
    null = [r for r in results if r["spread"] == 0]
    others = [r for r in results if r["spread"] > 0]
    pages = [
        f"{len(others)} worlds and {len(null)} null ones of π, version {VERSION}.",
        f"Coverage of 95 % intervals over π: scores {_share([r['coverage'] for r in results])}, differences "
        f"{_share([r['pairs'] for r in results])}; all shares in [0, 1]: {all(r['inside'] for r in results)}; "
        f"narrowest interval: {min(r['width'] for r in results):.2g}.",
        table(
            ["asked", "found", "met"],
            (
                [asked, found, {True: "yes", False: "no", None: "unknown"}[met]]
                for asked, found, met in criteria(results)
            ),
        ),
    ]
    rows = []
    for name in PI:
        for level in sorted({r[name] for r in results}, key=str):
            of = [r for r in results if r[name] == level]
            rows.append([name, level, len(of), _share([r["coverage"] for r in of]), _share([r["pairs"] for r in of])])
    pages.append(table(["factor", "level", "worlds", "coverage of scores", "of differences"], rows))
    cells = []
    for m in PI["methods"]:
        for s in PI["seeds"]:
            row: list[Any] = [m, s]
            for n in PI["examples"]:
                of = [r["coverage"] for r in results if (r["methods"], r["seeds"], r["examples"]) == (m, s, n)]
                row.append(f"{np.mean(of):.3f} ({len(of)})" if of else "")
            cells.append(row)
    pages.append(table(["methods", "seeds", *(f"{n} examples" for n in PI["examples"])], cells))
    deciles = [[decile, count, f"{said:.3f}", f"{right:.3f}"] for decile, count, said, right in _deciles(others)]
    pages.append(table(["P(best)", "statements", "said", "right"], deciles))
    claims = [r["claim_right"] for r in others if r["claim"] >= 0.95]
    wrong = [r["claim"] >= 0.95 for r in null]
    holm = [r for r in null if r["holm"] is not None]
    pages.append(f"Claims of 95 % and more: {len(claims)}, right {np.mean(claims) if claims else float('nan'):.3f}.")
    if null:
        pages.append(f"Null worlds with such a claim: {np.mean(wrong):.3f}.")
        worst = [
            (float(np.mean(of)), m, s, len(of))
            for m in PI["methods"]
            for s in PI["seeds"]
            if (of := [r["holm"] for r in holm if (r["methods"], r["seeds"]) == (m, s)])
        ]
        pages.append(
            f"Holm's family-wise error over {len(holm)} null worlds: "
            f"{np.mean([r['holm'] for r in holm]):.3f}; by methods and seeds: "
            + ", ".join(f"{m}×{s}: {error:.3f} ({number})" for error, m, s, number in worst)
        )
        by = [(name, level) for name in PI for level in sorted({r[name] for r in null}, key=str)]
        pages.append(
            "Null worlds with a claim, by factor: "
            + ", ".join(f"{n}={v}: {np.mean([r['claim'] >= 0.95 for r in null if r[n] == v]):.3f}" for n, v in by)
        )
    if claims:
        by = [(name, level) for name in PI for level in sorted({r[name] for r in others}, key=str)]
        parts = []
        for n, v in by:
            of = [r["claim_right"] for r in others if r["claim"] >= 0.95 and r[n] == v]
            parts.append(f"{n}={v}: {np.mean(of):.3f} ({len(of)})" if of else f"{n}={v}: none")
        pages.append("Claims that are right, by factor: " + ", ".join(parts))
    loss = [r["bias_of_top"] for r in results]
    pages.append(f"The highest score less its truth, mean: {np.mean(loss):+.4f}.")
    pages.append(
        f"Seconds a world: {np.mean([r['seconds'] for r in results]):.2f}, at most "
        f"{max(r['seconds'] for r in results):.2f}."
    )
    return "\n\n".join(pages)


def run(number: int, seed: int, folder: Path, name: str, processes: int = 1, **changed: Any) -> list[Any]:
    """The results of so many worlds of π with the factors that are changed, in chunks that are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    compute = partial(_chunk, seed=seed, folder=folder, name=name, changed=changed)
    chunks = range(-(-number // CHUNK))
    found: list[Any] = []
    with ProcessPoolExecutor(processes) if processes > 1 else nullcontext() as pool:
        for results in pool.map(compute, chunks) if pool else map(compute, chunks):
            found += results
            print(f"{name}: {len(found)} worlds", file=sys.stderr, flush=True)
    return found[:number]


def _chunk(chunk: int, *, seed: int, folder: Path, name: str, changed: dict[str, Any]) -> list[Any]:
    path = folder / f"{name}-{VERSION}-{seed}-{chunk}.json"
    if not path.is_file():
        rng = np.random.default_rng([VERSION, seed, chunk, *name.encode()])
        results = [assess(draw_world(rng, **changed), rng) for _ in range(CHUNK)]
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(results))
        temporary.replace(path)
    found: list[Any] = json.loads(path.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=4000)
    parser.add_argument("--null", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shifted", type=int, default=0, help="worlds of each kind around the distribution")
    parser.add_argument("--folder", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    where: Any = {"seed": options.seed, "folder": options.folder, "processes": options.processes}
    results = run(options.worlds, name="worlds", **where)
    results += run(options.null, name="null", spread=0.0, **where)
    if results:
        print(report(results))
    rows = []
    for number, (name, changed) in enumerate(SHIFTED.items()) if options.shifted else ():
        of = run(options.shifted, name=f"shifted{number}", **where, **changed)
        claims = [r["claim_right"] for r in of if r["claim"] >= 0.95]
        shares = _share([r["coverage"] for r in of]), _share([r["pairs"] for r in of])
        rows.append([name, len(of), *shares, f"{np.mean(claims):.3f} ({len(claims)})" if claims else "none"])
    if rows:
        heads = ["shifted worlds", "worlds", "coverage of scores", "of differences", "claims of 95 % right"]
        print("\n" + table(heads, rows))


if __name__ == "__main__":
    main()
