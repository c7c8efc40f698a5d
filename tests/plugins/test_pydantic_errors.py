"""Options that pydantic rejects while a plugin is imported."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydantic import create_model

from tests.plugins.conftest import Install, component, methods, names, registry


@pytest.mark.parametrize(
    ("option", "error"),
    [
        (
            "model_config: float = 1.0",
            "an option must not have the name 'model_config', which pydantic uses; rename it",
        ),
        ("_size: float = Field(1.0)", "Fields must not use names with leading underscores; e.g., use 'size' instead"),
    ],
)
def test_an_option_that_pydantic_rejects_is_an_error_that_names_the_class(
    option: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"rejected_option{abs(hash(option))}"
    text = f"from pydantic import Field\nfrom peftkit import Method\nclass Mine(Method):\n    {option}\n"
    (tmp_path / f"{module}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    (failure,) = registry(EntryPoint("x", module, "peftkit")).failures
    assert failure.error.startswith(f"Mine: {error}")


def test_an_option_like_a_method_of_pydantic_leaves_the_other_components(install: Install) -> None:
    bad = create_model("Bad", __base__=component("bad"), model_dump=(float, 1.0))
    loaded = registry(install("d", register_methods=methods(component("good"), bad)))
    assert names(loaded) == ["method good"]
    assert "Bad: the option 'model_dump' has the name of a method of pydantic.BaseModel; rename" in str(
        loaded.failures[0]
    )
