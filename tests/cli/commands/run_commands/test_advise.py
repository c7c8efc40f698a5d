from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Peftkit


def test_advise_prints_the_recommendation(peftkit: Peftkit, runs: Path) -> None:
    code, out, _ = peftkit("advise", str(runs), "--budget", "2gmacs")
    assert code == 0
    assert "Use lora within 2 GMACs: accuracy 0.8185" in out  # the expected score, a little below the mean of 0.82
    assert "It is the best of 2 methods: P > 99 %." in out
    assert "Full fine-tuning would add -0.51" in out
    code, out, _ = peftkit("advise", str(runs), "--budget", "2gmacs", "--memory", "1.5GiB", "--json")
    assert code == 1
    document = json.loads(out)
    assert document["format"] == 3
    [advice] = document["advice"]
    assert advice["verdict"]["use"] is None
    assert [each["method"] for each in advice["candidates"]] == ["lora"]
    assert advice["excluded"] == [{"method": "full", "reason": "its training took 2.00 GiB"}]
    assert peftkit("advise", str(runs), "--budget", "2gmac")[0] == 2
