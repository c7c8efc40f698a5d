"""How estimates are distributed over processes."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import Pipe
from threading import Thread
from typing import Any

import pytest

from peftkit import plugins
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, dump_recipe
from peftkit.sweep.estimate_processes import _estimate, _next_group


def test_a_process_takes_its_own_groups_and_then_the_last_ones_of_others() -> None:
    queues = [[["a"]], [["b"], ["c"], ["d"]], [["e"], ["f"]]]
    taken = [_next_group(queues[0], queues) for _ in range(7)]
    assert taken == [["a"], ["d"], ["c"], ["f"], ["b"], ["e"], []]


def test_a_process_estimates_each_group_at_once_and_reports_errors(
    make: Callable[..., Recipe], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "load_registry", lambda: registry)
    near, far = Pipe()
    worker = Thread(target=_estimate, args=(far,), daemon=True)
    worker.start()
    valid, invalid = dump_recipe(make("decoder")), 'method.name = "none"\n'
    outcomes: list[Any] = []
    for jobs in ([("a", valid), ("b", invalid)], []):
        while (outcome := near.recv()) is not None:
            outcomes.append(outcome)
        near.send(jobs)
    worker.join(60)
    assert [(key, estimate is None) for key, estimate, _ in outcomes] == [("a", False), ("b", True)]
    assert outcomes[0][1]["gmacs"] > 0
    assert outcomes[1][2]
