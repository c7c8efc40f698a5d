"""Groups comparable runs by task and model, and labels their methods."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftkit.argument_names import format_argument
from peftkit.compare.input.fairness import (
    FAIRNESS_CHECKS,
    FIXED_SAMPLE,
    describe_differences,
    flatten,
    optimizer_options,
)
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.units import format_cost
from peftkit.errors import InputError, comma_separated
from peftkit.run_directory import RunDirectory

VARIANT_KEY = "method.variant"
"""The option that names a preset of a method, such as ``houlsby``."""


@dataclass(frozen=True)
class RunGroup:
    """Comparable runs of one task with one model."""

    task: str
    model: str
    runs: Mapping[str, Mapping[int, LoadedRun]]
    """Runs by method label and seed. Where a seed has several init or order seeds, combinations are numbered."""
    pooled: Mapping[str, Sequence[str]]
    """Fairness checks that fail and were allowed to, with the differences."""
    repeats: tuple[tuple[LoadedRun, ...], ...] = ()
    """Runs of the same recipe and seed. Only the first is compared; all are used to estimate the noise."""
    remarks: tuple[str, ...] = ()
    """Caveats of every conclusion from these runs, such as a fixed training sample."""

    @property
    def test_split(self) -> str:
        """The split that stands for test (see ``LoadedRun``)."""
        return next((run.test_split for runs in self.runs.values() for run in runs.values()), "test")


def group_runs(runs: Iterable[LoadedRun], pool: Sequence[str] = ()) -> list[RunGroup]:
    """Group runs by task and model.

    Args:
        runs: The runs, as ``find_runs`` returns them.
        pool: Names of ``FAIRNESS_CHECKS`` that may fail.

    Raises:
        InputError: Runs of one group fail another check, or two runs of one method and seed have different recipes.
    """
    by_task_and_model: dict[tuple[str, str], list[LoadedRun]] = defaultdict(list)
    for run in runs:
        by_task_and_model[run.task_and_model].append(run)
    return [_build_group(*key, members, pool) for key, members in sorted(by_task_and_model.items())]


def _build_group(task: str, model: str, runs: Sequence[LoadedRun], pool: Sequence[str]) -> RunGroup:
    checks = {name: describe_differences([dict(check(run)) for run in runs]) for name, check in FAIRNESS_CHECKS.items()}
    failed = {name: texts for name, texts in checks.items() if texts}
    rejected = {name: texts for name, texts in failed.items() if name not in pool}
    if rejected:
        lines = [f"{name}: {text}" for name, texts in rejected.items() for text in texts[:5]]
        argument = format_argument("pool", *rejected, repeatable=True)
        head = f"the runs of {task!r} with {model!r} are not comparable"
        raise InputError("\n".join([head, *lines, f"leave some of them out, or compare them anyway with {argument}"]))
    labels = _label_methods(runs)
    numbers = _number_seeds({run.seeds for run in runs})
    same_seed: dict[tuple[str, int], list[LoadedRun]] = defaultdict(list)
    for run, label in zip(runs, labels, strict=True):
        same_seed[label, numbers[run.seeds]].append(run)
    by_label: dict[str, dict[int, LoadedRun]] = defaultdict(dict)
    for (label, seed), repeats in same_seed.items():
        different = describe_differences([_recipe_without_seeds(run) for run in repeats])
        if different:
            raise InputError(
                f"{repeats[0].path} and {repeats[-1].path} have the same method and seed but differ: "
                f"{'; '.join(different[:5])}; leave one out"
            )
        by_label[label][seed] = repeats[0]
    repeated = tuple(tuple(repeats) for repeats in same_seed.values() if len(repeats) > 1)
    return RunGroup(task, model, dict(by_label), failed, repeated, tuple(_remarks(runs, numbers)))


Seeds = tuple[int, int, int]


def _number_seeds(seeds: Iterable[Seeds]) -> dict[Seeds, int]:
    """Number the combinations of seeds; where each ``run.seed`` occurs once, the number is the seed itself."""
    combinations = sorted(seeds)
    unique = len({seed for seed, _, _ in combinations}) == len(combinations)
    return {each: each[0] if unique else number for number, each in enumerate(combinations, 1)}


def _remarks(runs: Sequence[LoadedRun], numbers: Mapping[Seeds, int]) -> Iterator[str]:
    samples = sorted({run.training_sample for run in runs} - {FIXED_SAMPLE})
    if not samples or len({run.seed for run in runs}) == 1:
        yield "training sample: held fixed; intervals hold for this training sample (see run.resample_train)"
    elif all(run.training_sample != FIXED_SAMPLE for run in runs):
        yield f"training sample: varies with the seed ({comma_separated(samples)})"
    else:
        fixed = comma_separated(sorted({run.summary["method"] for run in runs if run.training_sample == FIXED_SAMPLE}))
        yield f"training sample: varies with the seed ({comma_separated(samples)}), but is held fixed for {fixed}"
    yield from _describe_candidate_ends(runs)
    if different := describe_differences([optimizer_options(run) for run in runs]):
        yield f"methods do not share an optimizer: {'; '.join(different)}"
    yield from _describe_token_batches(runs)
    yield from _describe_waits(runs)
    yield from _describe_time_plans(runs)
    if any(number != seed for (seed, _, _), number in numbers.items()):
        numbered = ", ".join(
            f"{number} (seed {seed}, init_seed {init}, order_seed {order})"
            for (seed, init, order), number in numbers.items()
        )
        yield f"seeds are numbered: {numbered}"


def imported_notes(run_group: RunGroup) -> tuple[str, ...]:
    """Caveats of imported results, and how their times of steps compare with the files' total times."""
    runs = [(label, run) for label, by_seed in run_group.runs.items() for run in by_seed.values() if run.imported_from]
    notes = dict.fromkeys(f"{run.imported_from}: {run.summary['imported'].get('note', '')}" for _, run in runs)
    times = [
        f"{label} {seconds['steps']:,.1f} s of {seconds['train_time']:,.1f} s"
        for label, run in runs
        if (seconds := run.summary["imported"].get("seconds"))
    ]
    return (*notes, *([f"times of steps and the files' train_time: {'; '.join(times)}"] if times else []))


def _recipe_without_seeds(run: LoadedRun) -> dict[str, Any]:
    """The flat recipe without its seeds, names, folders and trackers."""
    # Recipes of older runs have no list of callbacks.
    flat = flatten({key: value for key, value in run.recipe.items() if key not in ("run", "track") and value != []})
    run_table = run.recipe.get("run", {})
    flat |= {f"run.{key}": run_table[key] for key in ("resample_train", "subset_fraction") if key in run_table}
    return {key: repr(value) for key, value in flat.items()}


def _label_methods(runs: Sequence[LoadedRun]) -> list[str]:
    """Label each run with its method, and the options that distinguish it from other runs of the method.

    Tuned settings are part of a label only where it would be ambiguous without them. A variant is shown by its name.
    """
    flat = [flatten({"method": run.recipe["method"], "train": run.recipe.get("train", {})}) for run in runs]
    untuned = [
        {key: value for key, value in options.items() if key not in (run.tuning or {}).get("settings", {})}
        for run, options in zip(runs, flat, strict=True)
    ]
    labels = _labels_from_options(runs, untuned)
    distinct: dict[str, set[str]] = defaultdict(set)
    for label, options in zip(labels, flat, strict=True):
        distinct[label].add(repr(sorted(options.items(), key=str)))
    if all(len(each) == 1 for each in distinct.values()):
        return labels
    return _labels_from_options(runs, flat)


def _labels_from_options(runs: Sequence[LoadedRun], flat: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels with the options in which runs of one method differ."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    num_runs = Counter(run.summary["method"] for run in runs)
    for run, options in zip(runs, flat, strict=True):
        for key, value in options.items():
            values[run.summary["method"], key].add(repr(value))
    num_set = Counter((run.summary["method"], key) for run, options in zip(runs, flat, strict=True) for key in options)
    labels = []
    for run, options in zip(runs, flat, strict=True):
        name = run.summary["method"]
        keys = [key for key in sorted(options) if len(values[name, key]) > 1 or num_set[name, key] < num_runs[name]]
        shown = ", ".join(
            options[key] if key == VARIANT_KEY else f"{key.split('.', 1)[1]}={options[key]}" for key in keys
        )
        labels.append(f"{name} ({shown})" if shown else name)
    return labels


def _describe_candidate_ends(runs: Sequence[LoadedRun]) -> Iterator[str]:
    """Say which scores are of candidates without their end of text; the two kinds of scores differ by points."""
    if harness := {run.summary["harness"]["lm_eval"] for run in runs if "harness" in run.summary}:
        versions = comma_separated(sorted(harness))
        yield f"scores of lm-evaluation-harness {versions}, by its prompts, and of candidates without the end of text"
        return
    without = {run.summary["method"] for run in runs if not run.recipe.get("evaluate", {}).get("candidate_end", True)}
    if without:
        everywhere = without == {run.summary["method"] for run in runs}
        methods = "" if everywhere else f" of {comma_separated(sorted(without))}"
        text = "are scored without the end of text, as in lm-evaluation-harness (evaluate.candidate_end)"
        yield f"candidates{methods} {text}"


def _describe_token_batches(runs: Sequence[LoadedRun]) -> Iterator[str]:
    """Say which runs have steps of a number of tokens: they are optimized in another way than with fixed batches."""
    limits: dict[int, set[str]] = defaultdict(set)
    for run in runs:
        if tokens := run.recipe.get("train", {}).get("tokens_per_batch"):
            limits[tokens].add(run.summary["method"])
    everywhere = all(run.recipe.get("train", {}).get("tokens_per_batch") for run in runs)
    for tokens, methods in sorted(limits.items()):
        steps = "steps" if everywhere and len(limits) == 1 else f"steps of {comma_separated(sorted(methods))}"
        yield (
            f"{steps} have as many rows as fit train.tokens_per_batch = {tokens:,}; this is another optimization than "
            "a fixed batch size"
        )


def _describe_waits(runs: Sequence[LoadedRun]) -> Iterator[str]:
    """Say how much of a budget of ``wall_seconds`` was training: equal waits are not equal work."""
    limits = {run.recipe.get("train", {}).get("budget", {}).get("wall_seconds") for run in runs} - {None}
    seconds = [run.summary.get("cost", {}).get("train_seconds") for run in runs]
    if not limits or None in seconds:
        return
    shares: dict[str, list[float]] = defaultdict(list)
    for run, trained in zip(runs, seconds, strict=True):
        shares[run.summary["method"]].append(trained)
    spans = [f"{method} {_span(values)}" for method, values in sorted(shares.items())]
    waits = " or ".join(f"{limit:g}" for limit in sorted(limits))
    yield (
        f"equal waits, not equal work: of {waits} s, each run trained for {', '.join(spans)}; the rest was loading, "
        "evaluation and saving, and depends on this machine and on what else it did"
    )


def _span(seconds: Sequence[float]) -> str:
    low, high = (format(value, ".3g") for value in (min(seconds), max(seconds)))
    return f"{low} s" if low == high else f"{low}–{high} s"


def _describe_time_plans(runs: Sequence[LoadedRun]) -> Iterator[str]:
    """Say what sweeps that were planned within a time have left out: their runs are in SWEEP/runs/HASH/RUN."""
    for folder in sorted({run.path.resolve().parents[2] for run in runs if len(run.path.resolve().parents) > 2}):
        if (folder / "within.json").is_file() and (plan := RunDirectory(folder).read_json("within.json"))["design"]:
            design, asked = plan["design"], plan["asked"]
            trials = f"{design['trials']} of {asked['trials']} trials, " if asked["trials"] else ""
            yield (
                f"planned within {format_cost(plan['within'], 'seconds')}: {trials}{design['seeds']} of "
                f"{asked['seeds']} seeds and {design['budget_share']:g} of the budget, the same for all methods"
            )
