"""The methods of this distribution."""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import Field

from peftkit import Preset
from peftkit_adapters.adapter_method import AdapterMethod, make_method
from peftkit_adapters.config_options import config_options
from peftkit_adapters.method_bases import (
    HOULSBY_RATES,
    RECOMMENDED_RATE,
    Compacter,
    CompacterPlusPlus,
    Ia3,
    Invertible,
    Lora,
    Parallel,
    Plus,
    PrefixTuning,
    PromptTuning,
    Sequential,
)
from peftkit_adapters.reft import DiReft, LoReft, NoReft
from peftkit_adapters.unions import AnyUnion, MixAndMatch, UniPelt

ParallelAdapters = make_method(
    Parallel,
    "parallel_adapters",
    """Bottleneck layers parallel to every feed-forward layer (parallel adapters, He et al., 2022).

    Each adds ``scaling · up(f(down(x)))`` to the output of its layer, and is initialized to zero. Decoders generate
    without a KV cache, which the library breaks in Llama and Mistral.
    """,
    reduction_factor=8.0,
)
UNSET_BY_VARIANT = {
    name: None
    for name, option in config_options("SeqBnConfig").items()
    if option.default != config_options("DoubleSeqBnConfig")[name].default
}
BottleneckAdapters = make_method(
    Sequential,
    "bottleneck",
    "Bottleneck layers after the sublayers of each block (Houlsby et al., 2019, or Pfeiffer et al., 2020).",
    **UNSET_BY_VARIANT,
)
InvertibleBottleneck = make_method(
    Invertible,
    "invertible_bottleneck",
    "Bottleneck layers, and an invertible layer after the embeddings (MAD-X, Pfeiffer et al., 2020).",
    **UNSET_BY_VARIANT,
)
AdapterPlus = make_method(
    Plus,
    "adapter_plus",
    """Bottleneck layers with a scale for each channel (Adapter+, Steitz and Roth, 2024).

    The paper's stochastic depth is for images; it is disabled by default and needs torchvision.
    """,
    stochastic_depth=0.0,
)
AdaptersPrefixTuning = make_method(
    PrefixTuning,
    "adapters_prefix_tuning",
    "Trained key and value prefixes in every attention layer, including cross-attention (Li and Liang, 2021).",
)
AdaptersLora = make_method(
    Lora, "adapters_lora", "Low-rank updates (LoRA, Hu et al., 2021), with use_dora DoRA (Liu et al., 2024)."
)
COMBINABLE = (
    ParallelAdapters,
    BottleneckAdapters,
    InvertibleBottleneck,
    make_method(Compacter, "compacter", "Bottlenecks of Kronecker products (Compacter, Karimi Mahabadi et al., 2021)."),
    make_method(
        CompacterPlusPlus,
        "compacter_plus_plus",
        "Compacter after the feed-forward layers only (Compacter++, Karimi Mahabadi et al., 2021).",
    ),
    AdapterPlus,
    AdaptersPrefixTuning,
    AdaptersLora,
    make_method(
        Ia3, "adapters_ia3", "Trained scales of keys, values and feed-forward activations (IA3, Liu et al., 2022)."
    ),
    make_method(
        PromptTuning, "adapters_prompt_tuning", "Trained vectors in front of those of the text (Lester et al., 2021)."
    ),
    make_method(
        LoReft, "loreft", "Low-rank interventions on hidden states in an orthonormal basis (LoReFT, Wu et al., 2024)."
    ),
    make_method(NoReft, "noreft", "LoReFT without the orthogonality constraint (NoReFT, Wu et al., 2024)."),
    make_method(
        DiReft,
        "direft",
        "LoReFT without the orthogonality constraint and the subtracted projection (DiReFT, Wu et al., 2024).",
    ),
)
"""The methods that ``adapters_union`` can combine."""


def _table(method: type[AdapterMethod]) -> Any:
    return (method, Field(default_factory=method, description=method.__doc__))


METHODS = (
    *COMBINABLE,
    make_method(
        MixAndMatch,
        "mam",
        "Prefix tuning with parallel adapters (Mix-And-Match, He et al., 2022).",
        {
            "prefix_tuning": _table(
                make_method(PrefixTuning, "adapters_prefix_tuning", "Options of prefix tuning.", bottleneck_size=800)
            ),
            "adapter": _table(make_method(Parallel, "parallel_adapters", "Options of the parallel adapters.")),
        },
    ),
    make_method(
        UniPelt,
        "unipelt",
        """Prefix tuning, a bottleneck and LoRA, each with a trained gate (UniPELT, Mao et al., 2022).

        Gates are averaged over the text, without padding; the library itself includes padding.
        """,
        {
            "prefix_tuning": _table(
                make_method(PrefixTuning, "adapters_prefix_tuning", "Options of prefix tuning.", prefix_length=10)
            ),
            "adapter": _table(make_method(Sequential, "bottleneck", "Options of the bottleneck.", **UNSET_BY_VARIANT)),
            "lora": _table(make_method(Lora, "adapters_lora", "Options of LoRA.", alpha=2)),
        },
    ),
    make_method(
        AnyUnion,
        "adapters_union",
        "Several methods of the library in one model, each of which adds something different.",
        {
            "methods": (
                Annotated[
                    tuple[Annotated[Union[COMBINABLE], Field(discriminator="name")], ...],  # type: ignore[valid-type]  # noqa: UP007
                    Field(min_length=2),
                ],
                Field(description="The methods: tables with a name and the options of that method."),
            )
        },
    ),
)
"""The methods of this distribution."""
PRESETS = (
    Preset(
        name="houlsby",
        method="bottleneck",
        summary="Bottleneck layers after the attention and the feed-forward layer of each block",
        paper="adapters, Houlsby et al., 2019",
        fixed={"variant": "houlsby"},
        published_rates=HOULSBY_RATES,
    ),
    Preset(
        name="pfeiffer",
        method="bottleneck",
        summary="Bottleneck layers after the feed-forward layer of each block",
        paper="AdapterFusion, Pfeiffer et al., 2020",
        fixed={"variant": "pfeiffer"},
        published_rates=(RECOMMENDED_RATE,),
    ),
)
"""The presets of this distribution."""
