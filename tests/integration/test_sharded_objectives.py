"""Every kind of task on DeepSpeed: two sharded processes give the results of one, and so does a resumed run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from peftkit.components import Objective, Task
from peftkit.objectives import (
    CausalLanguageModeling,
    ChatCompletion,
    ConditionalLanguageModeling,
    ContrastiveEmbedding,
    MultiLabelGeneration,
    MultiLabelHead,
    NumberGeneration,
    RegressionHead,
    SimilarityEmbedding,
    SpanQaGeneration,
    SpanQaHead,
    TokenTaggingHead,
)
from peftkit.testing.processes import run_processes
from peftkit.testing.run_checks import (
    EVERY_STEP,
    check_equal_evaluations,
    check_resume_after,
    only_run,
    recipe_maker,
    registry_with,
)
from tests.integration.test_deepspeed import run_sharded
from tests.tiny_runs import (
    CHAT_TEMPLATE,
    ColourChat,
    ColourDocument,
    ColourDocuments,
    ColourNumber,
    ColourSet,
    ColourSimilarity,
    ColourSpans,
    ColourTags,
    Quiet,
)

ENCODERS = ("bert", "roberta", "modernbert", "distilbert")
DECODERS = ("llama", "gpt2", "qwen2")
ENCODER_DECODERS = ("t5", "bart", "mt5")


class Case(NamedTuple):
    """An objective with a task of its kind, and the architectures that it is checked on."""

    objective: Objective
    task: Task
    architectures: tuple[str, ...]


CASES: tuple[Case, ...] = (
    Case(RegressionHead(), ColourNumber(two=True), ENCODERS),
    Case(NumberGeneration(), ColourNumber(), (*DECODERS, *ENCODER_DECODERS)),
    Case(MultiLabelHead(), ColourSet(), ENCODERS),
    Case(MultiLabelGeneration(), ColourSet(), (*DECODERS, *ENCODER_DECODERS)),
    Case(TokenTaggingHead(), ColourTags(), ENCODERS),
    Case(SpanQaHead(), ColourSpans(), ENCODERS),
    Case(SpanQaGeneration(), ColourSpans(), (*DECODERS, *ENCODER_DECODERS)),
    Case(CausalLanguageModeling(), ColourDocument(), DECODERS),
    Case(ConditionalLanguageModeling(), ColourDocument(), ENCODER_DECODERS),
    Case(ContrastiveEmbedding(), ColourDocuments(), (*ENCODERS, *DECODERS)),
    Case(SimilarityEmbedding(loss_function="cosent"), ColourSimilarity(), (*ENCODERS, *DECODERS)),
    Case(ChatCompletion(chat_template=CHAT_TEMPLATE), ColourChat(), DECODERS),
)
IN_CI = {("regression_head", "bert", 2), ("contrastive_embedding", "llama", 3)}
"""A pair of processes for each kind of loss: of rows, and of rows that are compared."""


def cases() -> list[Any]:
    """Every objective on its architectures, with one of the two stages that shard."""
    parameters = []
    for case in CASES:
        for number, architecture in enumerate(case.architectures):
            stage, name = 2 + number % 2, case.objective.name
            for each in {stage, *(s for n, a, s in IN_CI if (n, a) == (name, architecture))}:
                marks = () if (name, architecture, each) in IN_CI else (pytest.mark.exhaustive,)
                identity = f"{name}-{architecture}-stage{each}"
                parameters.append(pytest.param(case, architecture, each, marks=marks, id=identity))
    return parameters


@pytest.mark.slow
@pytest.mark.parametrize(("case", "architecture", "stage"), cases())
def test_sharded_runs_conform(case: Case, architecture: str, stage: int, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    check_sharded(case.objective, case.task, architecture, stage, tmp_path)


def check_sharded(objective: Objective, task: Task, architecture: str, stage: int, folder: Path) -> None:
    """Check that two sharded processes with four rows each give the results of one with eight, also when resumed.

    Args:
        objective: The objective with its options.
        task: A task of its kind.
        architecture: The architecture.
        stage: The stage of DeepSpeed.
        folder: An empty folder.
    """
    tables: Mapping[str, Any] = {
        "task": task.model_dump(mode="json"),
        "objective": objective.model_dump(mode="json"),
    }
    make_recipe = recipe_maker(Quiet(), architecture, folder, objective, task, changes=tables)
    registry = registry_with(Quiet(), objective, task)
    whole = make_recipe("whole", "train.batch_size=8")
    sharded = make_recipe("sharded", "train.batch_size=4", f"train.deepspeed.stage={stage}", *EVERY_STEP)
    run_processes(whole, registry)
    run_sharded(sharded, registry)
    check_equal_evaluations(only_run(whole), only_run(sharded))
    check_resume_after(2, sharded, registry, run_sharded)
