from __future__ import annotations

import json

from tests.cli.conftest import Peftkit


def test_schema_prints_json(peftkit: Peftkit) -> None:
    code, out, err = peftkit("schema")
    assert (code, err) == (0, "")
    assert "Lora" in json.loads(out)["$defs"]
