"""How estimates are distributed over processes."""

from __future__ import annotations

from multiprocessing import Pipe
from threading import Thread
from typing import Any

from peftkit.sweep.estimate_processes import _estimate, _next_group


def test_a_process_takes_its_own_groups_and_then_the_last_ones_of_others() -> None:
    queues = [[["a"]], [["b"], ["c"], ["d"]], [["e"], ["f"]]]
    taken = [_next_group(queues[0], queues) for _ in range(7)]
    assert taken == [["a"], ["d"], ["c"], ["f"], ["b"], ["e"], []]


VALID = """
model.name = "pocket-decoder"
task.name = "wordnet_topic"
method.name = "lora"
train.batch_size = 2
train.budget.steps = 1
evaluate = { dev_examples = 4, test_examples = 4, full_splits = false }
"""


def test_a_process_estimates_each_group_at_once_and_reports_errors() -> None:
    near, far = Pipe()
    worker = Thread(target=_estimate, args=(far,), daemon=True)
    worker.start()
    outcomes: list[Any] = []
    for jobs in ([("a", VALID), ("b", 'method.name = "none"')], []):
        while (outcome := near.recv()) is not None:
            outcomes.append(outcome)
        near.send(jobs)
    worker.join(60)
    assert [(key, estimate is None) for key, estimate, _ in outcomes] == [("a", False), ("b", True)]
    assert outcomes[0][1]["gmacs"] > 0
    assert outcomes[1][2]
