"""The presets of the distribution."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from peftkit.plugins import FIRST_PARTY, load_registry
from peftkit.testing import apply_method, check_published_rates
from peftkit_adapters import ADAPTER

PRESETS = {"houlsby": "DoubleSeqBnConfig", "pfeiffer": "SeqBnConfig"}


def test_presets_are_registered() -> None:
    registered = load_registry().all("method").values()
    assert {e.name for e in registered if e.preset and e.distribution == "peftkit-adapters"} == set(PRESETS)
    assert set(PRESETS) <= FIRST_PARTY.keys()


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
@pytest.mark.parametrize(("name", "configuration"), PRESETS.items())
def test_houlsby_and_pfeiffer_build_their_configurations(name: str, configuration: str, architecture: str) -> None:
    component: Any = load_registry().all("method")[name].component
    preset = component.model_validate(dict(component.tiny_options))
    assert (preset.name, preset.variant, preset.config_class()) == (name, name, configuration)
    model: Any = apply_method(preset, architecture)
    built = model.adapters_config.get(ADAPTER)
    assert built.mh_adapter == (name == "houlsby")
    assert built.output_adapter
    check_published_rates(component)
    with pytest.raises(ValidationError, match=f"'{name}' is bottleneck with variant"):
        component(variant="houlsby" if name == "pfeiffer" else "pfeiffer")
