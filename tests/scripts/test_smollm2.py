"""A real small chat model, converted once: it trains, answers by its template, stops, and keeps its probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import peftkit
from tests.scripts.test_commonsense_fixture import script


@pytest.mark.exhaustive
def test_a_chat_model_trains_answers_stops_and_keeps_its_probe(tmp_path: Path) -> None:
    smollm2 = script("benchmarks/smollm2")
    overrides = ["train.budget.steps=6", "evaluate.test_examples=4", "evaluate.dev_examples=4", "track.to=[]"]
    path = smollm2.ROOT / "recipes" / "chat" / "smollm2_lora.toml"
    run = peftkit.run(path, [f"model.name={smollm2.convert()}", f"run.output={tmp_path}", *overrides], quiet=True)
    curve: Any = run.curve["dev/loss"].tolist()
    assert curve[-1] < curve[0]
    [row] = smollm2._runs(tmp_path)
    assert row.summary["probes"]["notes"]["base"]["bits_per_byte"] == pytest.approx(
        run.summary["selected"]["notes"]["bits_per_byte"], rel=0.05
    )
    answer = run.predict({"messages": [{"role": "user", "content": "What is a beetle?"}]})[0]["prediction"]
    assert answer.strip()
    assert "<|im_" not in answer
