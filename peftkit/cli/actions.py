"""What each verb does: its text is the verb's help, and what is heavy is imported once it is called."""

from __future__ import annotations

import argparse
import os

from peftkit.errors import InputError


def run(options: argparse.Namespace) -> int:
    """Train and evaluate what a recipe says."""
    from peftkit.plugins import load_registry
    from peftkit.recipe import load_recipe

    registry = load_registry()
    recipe = load_recipe(options.recipe, registry, options.overrides)
    from peftkit.runner import run  # torch, transformers and accelerate: only once the recipe is known to be right

    run(recipe, registry, log_level=options.log_level, resume=options.resume)
    return 0


def check(options: argparse.Namespace) -> int:
    """Validate a recipe without loading anything heavy."""
    from peftkit.plugins import load_registry
    from peftkit.recipe import load_recipe

    recipe = load_recipe(options.recipe, load_registry(), options.overrides)
    print(f"{options.recipe}: right ({recipe.method.name} on {recipe.task.name}, {recipe.model.name})")
    return 0


def cost(options: argparse.Namespace) -> int:
    """Predict what recipes will cost: work, memory, time; loads no weights."""
    from peftkit.cli.costing import predict_costs

    return predict_costs(options.recipes, options.overrides, trial=options.trial, as_json=options.json)


def profile(options: argparse.Namespace) -> int:
    """Make 20 steps of a recipe and print where their time goes."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it says on stderr when it begins and ends
    from peftkit.cli.costing import profile_recipe

    return profile_recipe(options.recipe, options.overrides, options.trace, as_json=options.json)


def compare(options: argparse.Namespace) -> int:
    """Say what runs tell of their methods: scores, costs, and how sure that is."""
    from peftkit.cli.comparing import compare_runs

    return compare_runs(
        options.runs,
        by=options.by,
        metric=options.metric,
        baseline=options.baseline,
        shares=options.share,
        budgets=options.budget,
        margin=options.margin,
        pool=options.pool,
        regret=options.regret,
        across=options.across,
        match=options.match,
        form=options.format,
        wide=options.wide,
        output=options.output,
    )


def advise(options: argparse.Namespace) -> int:
    """Say which method to use within a budget, and how sure that is."""
    from peftkit.cli.advising import advise_method

    return advise_method(
        options.runs,
        budget=options.budget,
        memory=options.memory,
        metric=options.metric,
        baseline=options.baseline,
        margin=options.margin,
        pool=options.pool,
        match=options.match,
        as_json=options.json,
    )


def report(options: argparse.Namespace) -> int:
    """Write comparisons as one page of HTML, and as figures."""
    from peftkit.cli.reporting import write_report

    return write_report(
        options.runs,
        by=options.by,
        metric=options.metric,
        baseline=options.baseline,
        margin=options.margin,
        pool=options.pool,
        match=options.match,
        title=options.title,
        output=options.output or ("" if options.figures else "report.html"),
        figures=options.figures,
        forms=options.form,
        verify=options.verified,
    )


def verify(options: argparse.Namespace) -> int:
    """Recompute what runs say of themselves: scores, losses, curves, work, digests."""
    from peftkit.cli.verifying import verify_runs

    return verify_runs(options.runs, load_model=not options.no_model, as_json=options.json)


def watch(options: argparse.Namespace) -> int:
    """Draw a run's curve in the terminal as it grows."""
    from peftkit.cli.watching import watch_run

    return watch_run(options.run, by=options.by, metric=options.metric, once=options.once)


def import_(options: argparse.Namespace) -> int:
    """Make run directories of other systems' results, to compare and draw them."""
    from peftkit.cli.importing import import_results

    return import_results(options.system, options.files, options.output)


def sweep(options: argparse.Namespace) -> int:
    """Run a grid of recipes, tuned alike, each once; go on where it was broken off."""
    from peftkit.cli.sweeping import run_sweep

    return run_sweep(
        options.file,
        options.overrides,
        options.only,
        what=options.what,
        jobs=options.jobs,
        executor=options.executor,
        trial=not options.no_trial,
        as_json=options.json,
    )


def list_(options: argparse.Namespace) -> int:
    """List the installed methods, tasks, metrics and meters."""
    from peftkit.cli.listing import list_components

    return list_components(options.kind, as_json=options.json)


def show(options: argparse.Namespace) -> int:
    """Show one component: its text, its options, what it refuses."""
    from peftkit.cli.listing import show_component, show_touched

    if options.model:
        return show_touched(options.name, options.model, options.overrides, as_json=options.json)
    if options.overrides:
        raise InputError("--set says a method's options for --model; name one")
    return show_component(options.name, as_json=options.json)


def preview(options: argparse.Namespace) -> int:
    """Show rows of a recipe's task as they are encoded; loads no weights."""
    from peftkit.cli.preview import preview_task

    return preview_task(options.recipe, options.overrides, options.split, options.number, as_json=options.json)


def predict(options: argparse.Namespace) -> int:
    """Predict with a finished run: lines of text in, JSON lines out."""
    from peftkit.cli.finished import predict_lines

    return predict_lines(options.run, options.text, options.file, options.output, options.batch, stream=options.stream)


def merge(options: argparse.Namespace) -> int:
    """Write a finished run's model with what was learnt folded into its weights."""
    from peftkit.cli.finished import merge_run

    return merge_run(options.run, options.out)


def export(options: argparse.Namespace) -> int:
    """Copy a finished run's checkpoint, as its library has it, with a model card."""
    from peftkit.cli.finished import export_run

    return export_run(options.run, options.out)


def push(options: argparse.Namespace) -> int:
    """Put a finished run's checkpoint, with a model card, on the Hugging Face hub."""
    from peftkit.cli.finished import push_run

    return push_run(options.run, options.repository, private=options.private)


def new(options: argparse.Namespace) -> int:
    """Write a distribution with a method, task or metric, which passes its tests as written."""
    from peftkit.cli.scaffold import write_distribution

    return write_distribution(options.kind, options.name, options.parent)


def schema(options: argparse.Namespace) -> int:
    """Print the JSON Schema of a recipe with every installed component."""
    import json

    from peftkit.plugins import load_registry
    from peftkit.recipe.schema import recipe_schema

    print(json.dumps(recipe_schema(load_registry()), indent=2))
    return 0
