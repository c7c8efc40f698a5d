"""The run directory: the files of a run, written so that a crash damages no finished file.

=====================  ==============================================================================
``recipe.toml``        the recipe with all defaults; loads as an equal recipe
``environment.json``   versions, hardware, git commit, plugins
``loading.json``       missing and unexpected weights of the checkpoint, its head's labels, its config
``baselines.json``     scores of the baselines, written before training; also in the summary
``evaluations.jsonl``  one line per evaluation
``examples.parquet``   per-example results of all evaluations on dev and test (``example_tables``); one
                       file per evaluation in ``examples/`` until the run ends
``predictions/``       of the selected checkpoint on each split, one line per example
``probes.json``        scores of the base model on the probes, if there are any; also in the summary
``probes/NAME/``       per-example results on a probe: ``examples.parquet``, and ``base.parquet`` of the base model
``harness/``           ``TASK.json`` and ``TASK.jsonl``, added later by ``peftkit eval`` (``harness_results``)
``serving.json``       times and memory of requests, added later by ``peftkit bench``
``model/``             the trained parameters at the selected checkpoint, in their library's format
``summary.json``       the outcome, written last
``.lock``              locked by the process that trains the run (``lock``); empty
=====================  ==============================================================================
"""

from peftkit.run_directory.run_directory import FORMAT, RunDirectory, device_name, tuning_edges

__all__ = ["FORMAT", "RunDirectory", "device_name", "tuning_edges"]
