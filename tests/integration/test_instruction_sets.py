"""Runs that evaluate verifiable instructions beside what they are trained on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from peftkit.verify import verify_run
from tests.tasks.hub_suites.hub_rows import ROWS
from tests.tiny_runs import CHAT_TEMPLATE, Make


@pytest.mark.parametrize("kind", ["chat", "prompt"])
def test_a_set_without_answers_has_the_scores_of_its_instructions_only(
    kind: str, make: Make, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "langdetect", SimpleNamespace(__spec__="found"))
    (tmp_path / "ifeval").mkdir()
    ROWS["ifeval", kind]().select(range(6)).to_parquet(tmp_path / "ifeval" / "train-00000-of-00001.parquet")
    columns = ("prompt", "completion") if kind == "chat" else ("source", "target")
    for split in ("train", "dev", "test"):
        lines = [json.dumps(dict(zip(columns, (f"what is {i}", f"it is {i}"), strict=True))) for i in range(8)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    files = ", ".join(f'{split} = "{(tmp_path / split).as_posix()}.jsonl"' for split in ("train", "dev", "test"))
    objective = {"name": "chat_completion", "chat_template": CHAT_TEMPLATE} if kind == "chat" else {}
    recipe = make(
        "decoder",
        f"task.name={'chat' if kind == 'chat' else 'text_generation'}",
        f"task.path={{{files}}}",
        *(f"objective.{key}={json.dumps(value)}" for key, value in objective.items()),
        f'evaluate.set=[{{name="ifeval", task={{name="ifeval", subset="{kind}", path="{tmp_path / "ifeval"}"}}}}]',
        'metric=[{name="exact_match"}, {name="instruction_following"}]',
        *("evaluate.selection_metric=loss", "evaluate.max_new_tokens=6", "train.budget.steps=1"),
    )
    path = run(recipe, registry)
    assert path is not None
    selected = RunDirectory(path).summary()["selected"]
    assert {*selected["test"]} == {"loss", "exact_match"}
    names = {"prompt_strict", "instruction_strict", "prompt_loose", "instruction_loose"}
    assert {*selected["ifeval"]} == {"loss", *names}
    stored = RunDirectory(path).predictions("ifeval")
    assert len(stored) == 6
    comma = [("," not in row["prediction"]) and bool(row["prediction"]) for row in stored]
    words = [len(row["prediction"].split()) >= 3 for row in stored]
    assert selected["ifeval"]["instruction_strict"] <= selected["ifeval"]["instruction_loose"]
    assert selected["ifeval"]["prompt_strict"] <= sum(map(min, comma, words)) / 6
    assert {check.status for check in verify_run(path, registry).checks} <= {"agrees", "not recomputable"}
