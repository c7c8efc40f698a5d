"""Runs: train a recipe, and read what runs recorded."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.api.recipes import load_recipe, resolve_recipe
from peftkit.api.text_output import html_facts
from peftkit.distributed.environment_variables import read_world_size
from peftkit.errors import InputError
from peftkit.plugins import load_registry
from peftkit.run_directory import RunDirectory

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from peftkit.inference.finished_run import FinishedRun
    from peftkit.recipe import Recipe

NOT_COLUMNS = ("format",)
"""Keys of an evaluation that are no columns of the curve."""


@dataclass(frozen=True, repr=False)
class Run:
    """A run directory, which is read when an attribute is used: also of a run that is still training.

    Attributes:
        path: The run directory.
    """

    path: Path

    @property
    def status(self) -> str:
        """``done``, ``failed``, ``interrupted`` or ``diverged``; ``running`` before the run has ended."""
        return RunDirectory(self.path).status

    @property
    def recipe(self) -> Recipe:
        """The recipe with every key resolved.

        Raises:
            RecipeError: It is not valid here, for example because a plugin is not installed.
        """
        return load_recipe(self.path / "recipe.toml")

    @property
    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``: the selected step, its scores, and the cost.

        Raises:
            InputError: The run has not ended.
        """
        return RunDirectory(self.path).summary()

    @property
    def curve(self) -> pd.DataFrame:
        """The evaluations as rows, with columns such as ``step``, ``cost/gmacs``, ``dev/loss`` and ``test/accuracy``.

        Raises:
            InputError: There are no evaluations yet.
        """
        import pandas as pd

        rows = [
            {key: value for key, value in row.items() if key not in NOT_COLUMNS}
            for row in RunDirectory(self.path).evaluations()
        ]
        return pd.json_normalize(rows, sep="/")

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """Read the recorded predictions of the selected checkpoint.

        Args:
            split: ``dev``, ``test`` or the name of an evaluation set.

        Returns:
            One row per example.

        Raises:
            InputError: There are none.
        """
        import pandas as pd

        return pd.DataFrame(RunDirectory(self.path).predictions(split))

    def predict(
        self,
        inputs: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]] | pd.DataFrame,
        *,
        batch_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Predict for new inputs with the selected checkpoint; the model is loaded once and kept.

        Args:
            inputs: Texts for the one field of the task's prompt, or rows with its fields; also one text or row alone,
                and a DataFrame.
            batch_size: Examples per batch; None for the recipe's ``evaluate.batch_size``.

        Returns:
            For each input ``source`` and ``prediction``, and the scores of the candidates if there are any.

        Raises:
            InputError: The run has not finished, or an input is invalid.
            RunError: The base model cannot be loaded.
        """
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size: must be at least 1, not {batch_size}")
        from peftkit.monitor.process_state import isolated_process_state

        with isolated_process_state():
            from peftkit.inference.predict import predict

            return list(predict(self._loaded, _prediction_inputs(inputs), batch_size))

    def eval_harness(
        self,
        tasks: str | Iterable[str],
        *,
        include_path: str | Path | None = None,
        num_fewshot: int | None = None,
        limit: int | None = None,
        batch_size: int | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Evaluate the selected checkpoint with lm-evaluation-harness, and store the results in the run directory.

        ``compare_runs(…, eval_set=TASK)`` compares them.

        Args:
            tasks: A task, group or tag of the library, or several.
            include_path: A folder of YAML files with further tasks.
            num_fewshot: Examples in the prompt; None for the number of each task.
            limit: The first documents of each task; None for all.
            batch_size: Requests in a batch; None for the recipe's ``evaluate.batch_size``.

        Returns:
            What was stored for each task: its ``values``, ``num_examples``, and how it was evaluated.

        Raises:
            InputError: The run has not finished, the library is not installed, it has no such task, or it does not
                evaluate such a model.
            RunError: The base model cannot be loaded, or a task failed.
        """
        names = [tasks] if isinstance(tasks, str) else [*tasks]
        from peftkit.monitor.process_state import isolated_process_state

        with isolated_process_state():
            from peftkit.inference.harness_evaluation import HarnessSettings, evaluate_with_harness

            folder = None if include_path is None else str(include_path)
            settings = HarnessSettings(folder, num_fewshot, limit, batch_size)
            return evaluate_with_harness(self._loaded, names, settings)

    def bench(
        self,
        *,
        prompt_tokens: int = 128,
        new_tokens: int = 32,
        batch_sizes: Sequence[int] = (1, 8),
        rounds: int = 10,
    ) -> dict[str, Any]:
        """Time requests to the served model, merged and not, and store the result in the run directory.

        Args:
            prompt_tokens: Tokens of a prompt.
            new_tokens: Generated tokens, at least 2; an encoder generates none.
            batch_sizes: Numbers of prompts that are sent at once.
            rounds: Timed requests of each size.

        Returns:
            What was stored: the request, the machine, and ``measurements`` for each batch size, merged and not.

        Raises:
            InputError: The run has not finished, or the request is invalid or longer than the model's positions.
            RunError: The base model cannot be loaded, or memory runs out.
        """
        from peftkit.monitor.process_state import isolated_process_state

        with isolated_process_state():
            from peftkit.inference.finished_run import load_finished_run
            from peftkit.inference.serving_benchmark import ServingRequest, benchmark_serving

            request = ServingRequest(prompt_tokens, new_tokens, tuple(batch_sizes), rounds)
            registry = load_registry()  # merging changes the model, so that it is not the one of predict
            return benchmark_serving(load_finished_run(self.path, registry), registry, request)

    @cached_property
    def _loaded(self) -> FinishedRun:
        from peftkit.inference.finished_run import load_finished_run

        return load_finished_run(self.path, load_registry())

    def plot(self, metric: str | None = None, *, by: str = "gmacs") -> Figure:
        """Draw the learning curve.

        Args:
            metric: The metric; None for accuracy, or the first one.
            by: The cost axis: ``gmacs``, ``seconds``, ``wall_seconds``, ``samples``, ``tokens`` or ``joules``.

        Returns:
            The figure, which notebooks show; ``savefig`` writes it into a file.

        Raises:
            InputError: The run has measured neither the cost nor the metric, or has no evaluations yet.
            RunError: matplotlib is not installed.
        """
        from peftkit.compare.learning_curves import check_axis
        from peftkit.compare.output.figures import COST_AXES, draw_run
        from peftkit.compare.run_curve import read_run_curve

        check_axis(by, COST_AXES)
        curve = read_run_curve(RunDirectory(self.path), by, metric)
        if not curve.lines:
            raise InputError(f"{self.path}: there are no evaluations to draw yet")
        figure: Figure = draw_run(curve, by, self._title)
        return figure

    @property
    def _names(self) -> dict[str, str]:
        recipe = RunDirectory(self.path).recipe()
        return {table: str(recipe.get(table, {}).get("name", "?")) for table in ("method", "task", "model")}

    @property
    def _title(self) -> str:
        return "{method} on {task} with {model}".format(**self._names)

    def _facts(self) -> dict[str, str]:
        summary = self.summary if self.status == "done" else {}
        metric, selected = summary.get("selection_metric"), summary.get("selected", {})
        facts = {"status": self.status}
        if "error" in summary:
            facts["error"] = str(summary["error"])
        if summary:
            facts["seed"] = str(summary["seed"])
            for split in ("dev", "test", *summary.get("evaluation_sets", ())):
                value = (selected.get(split) or {}).get(metric)
                if value is not None:
                    facts[f"{split} {metric}"] = f"{value:.4f}"
            cost = summary.get("cost", {})
            facts["steps"] = f"{summary['steps']:,}, selected {selected['step']:,} by dev {metric}"
            facts["cost"] = f"{cost.get('gmacs', 0):,.4g} GMACs, {cost.get('train_seconds', 0):,.1f} s"
        return {**facts, "path": str(self.path)}

    def __repr__(self) -> str:
        return "\n".join([self._title, *(f"  {key:<14}{text}" for key, text in self._facts().items())])

    def _repr_html_(self) -> str:
        return html_facts(self._title, self._facts())


def _prediction_inputs(inputs: Any) -> Iterator[str | Mapping[str, Any]]:
    """Yield the texts or rows to predict: one prediction for each.

    Raises:
        InputError: A text is empty, or a DataFrame has two columns of one name.
    """
    if isinstance(inputs, str | Mapping):
        inputs = [inputs]
    elif hasattr(inputs, "to_dict") and hasattr(inputs, "columns"):  # a DataFrame, which iterates over its columns
        if not inputs.columns.is_unique:
            raise InputError("inputs: the DataFrame has two columns of one name")
        inputs = inputs.to_dict("records")
    elif not isinstance(inputs, Iterable):
        raise InputError(f"inputs: must be texts or rows, not {reprlib.repr(inputs)}")
    for number, each in enumerate(inputs, 1):
        if isinstance(each, str) and not each.strip():
            raise InputError(f"row {number}: is empty")
        yield each


def run(
    recipe: Recipe | str | Path,
    overrides: Iterable[str] = (),
    *,
    data: Any = None,
    resume: Run | str | Path | bool = False,
    quiet: bool = False,
    log_level: str | None = None,
) -> Run:
    """Train and evaluate a recipe, and restore the state of the process afterwards.

    A signal such as Ctrl-C ends the run after the current step, and the run is saved. In another thread than the main
    one signals cannot be handled.

    Args:
        recipe: The recipe, or its file.
        overrides: ``key.path=value`` texts, as after ``--set``.
        data: The rows of the recipe's task, instead of those of its ``path``: a DataFrame or a ``datasets.Dataset``, or
            one for each split as in a ``DatasetDict``. They are stored in peftkit's cache folder under a digest of
            their content, which the run's recipe names.
        resume: The run to resume, or True for the latest run of this recipe; False starts a new one.
        quiet: Whether to print no progress.
        log_level: The level of log messages of the libraries; None for ``warning``, or ``error`` if quiet.

    Returns:
        The finished run.

    Raises:
        RecipeError: The recipe is invalid.
        InputError: The run to resume does not exist or has another recipe, a row of the data is invalid, or the
            process belongs to a group of several.
        RunError: The run failed.
        RunInterrupted: A signal was received; the run is saved.
    """
    resolved = resolve_recipe(recipe, overrides, data)
    if read_world_size() > 1:
        raise InputError(
            "peftkit.run trains in one process, and this one was launched with others; use: accelerate launch -m "
            "peftkit run RECIPE"
        )
    started = time.monotonic()
    previous = {False: None, True: ""}[resume] if isinstance(resume, bool) else _path_of(resume)
    from peftkit.monitor.process_state import isolated_process_state

    with isolated_process_state():
        from peftkit.train import run as training

        level = log_level or ("error" if quiet else "warning")
        registry = load_registry()
        path = training.run(resolved, registry, log_level=level, resume=previous, quiet=quiet, started=started)
        assert path is not None  # this is the only process  # noqa: S101
        return Run(path)


def load_run(path: str | Path) -> Run:
    """Open a run directory; its files are read when they are needed.

    Args:
        path: The run directory.

    Returns:
        The run.

    Raises:
        InputError: The folder is not a run directory.
    """
    folder = Path(path)
    if not (folder / "recipe.toml").is_file():
        raise InputError(f"{str(folder)!r} is not a run directory: it has no recipe.toml")
    return Run(folder)


def load_model(path: str | Path | Run) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the trained model of a finished run: the base model with the method, its trained parameters and the head.

    Works for every method, also for those whose files no other library reads.

    Args:
        path: The run, or its directory.

    Returns:
        The model in evaluation mode, on the GPU if there is one, and its tokenizer.

    Raises:
        InputError: The folder is not a finished run, or its files do not fit the model.
        RunError: The base model cannot be loaded.
    """
    from peftkit.monitor.process_state import isolated_process_state

    with isolated_process_state():
        from peftkit.inference.finished_run import load_finished_run

        finished = load_finished_run(Path(_path_of(path)), load_registry())
    return finished.model, finished.family.tokenizer  # type: ignore[return-value]


def _path_of(run_or_path: Run | str | Path) -> str:
    return str(run_or_path.path if isinstance(run_or_path, Run) else run_or_path)


def paths_of(runs: Run | str | Path | Iterable[Run | str | Path]) -> Iterator[Path]:
    """Yield the folders of runs.

    Args:
        runs: Runs, run directories, or folders that contain them.
    """
    for each in [runs] if isinstance(runs, Run | str | Path) else runs:
        yield Path(_path_of(each))
