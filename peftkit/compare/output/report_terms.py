"""Definitions of the words in the HTML report, shown under the pointer and listed at its end."""

from __future__ import annotations

from collections.abc import Mapping

TERMS: Mapping[str, str] = {
    "score": "The expected test score of the checkpoint that dev selects. With several seeds it is an estimate for new "
    "seeds and a new tuning, drawn towards the mean of all methods; with one seed it is that run's score.",
    "95 % interval": "Contains the expected score with a probability of 95 %, given these test examples and seeds. It "
    "holds for this task, this model and this training sample.",
    "P(best)": "The probability that the method has the best expected score of all that are compared.",
    "P(front)": "The probability that no other method scores as much for less cost.",
    "cost": "The mean cost of a run's training on the chosen axis; in brackets its ratio to the baseline's.",
    "to its best": "The cost up to the checkpoint that dev selects.",
    "to a share": "The cost until a run first reaches this share of the baseline's final score.",
    "group": "Methods that share a letter do not differ significantly (pairwise tests, Holm's correction, 5 %).",
    "area": "The mean score over the logarithm of the cost, along the learning curve: high if a method learns early.",
    "tuned": "The number of settings that were tried for the method, and what they cost.",
    "parameters": "The number of trained parameters.",
    "checkpoint": "The size of the saved trained weights.",
    "memory": "Peak memory of the training process, of the accelerator if there was one.",
    "seeds": "The number of runs that differ only in the random seed.",
    "forgotten": "How much worse the method is on the probe than the base model; below zero it is better.",
    "note": "Caveats, explained below the table.",
    "Pareto front": "The methods that no other method beats in both score and cost. Methods with a star are on it with "
    "a probability of one half or more.",
    "GMACs": "Billions of multiply-accumulate operations of training, counted and not timed: the work of a run, which "
    "does not depend on the machine.",
    "dev": "The split that selects the checkpoint and the settings. Its scores are never reported as the result.",
    "baseline": "A score that ignores the input: constant is the single best answer, majority the most frequent "
    "answer, random a random one. A method below it has learned nothing from the input.",
}


def find_term(column: str) -> str:
    """Find the term that defines a column of a table; empty if there is none.

    Args:
        column: The column's name.
    """
    if column.startswith("cost ("):
        return "cost"
    if column.startswith("to ") and " of " in column:
        return "to a share"
    return column if column in TERMS else ""
