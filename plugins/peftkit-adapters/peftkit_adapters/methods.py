"""The methods: each names a configuration of the library, as one of the kinds."""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import Field

from peftkit_adapters.family import AdapterMethod, made
from peftkit_adapters.kinds import (
    Compacter,
    CompacterPlusPlus,
    DiReft,
    Ia3,
    Invertible,
    Lora,
    LoReft,
    NoReft,
    Parallel,
    Plus,
    PrefixTuning,
    PromptTuning,
    Sequential,
)
from peftkit_adapters.reader import options
from peftkit_adapters.unions import AnyUnion, MixAndMatch, Unified

ParallelAdapters = made(
    Parallel,
    "parallel_adapters",
    """Bottleneck layers beside every feed-forward layer (parallel adapters, He et al., 2022).

    Each adds ``scaling · up(f(down(x)))`` to the output of the layer that it lies beside, and begins as nothing at
    all. A decoder generates without its cache, which the library breaks on Llama and Mistral.
    """,
    reduction_factor=8.0,
)
UNEQUAL = {
    name: None
    for name, option in options("SeqBnConfig").items()
    if option.default != options("DoubleSeqBnConfig")[name].default
}
BottleneckAdapters = made(
    Sequential,
    "bottleneck",
    "Bottleneck layers behind each layer of a block: Houlsby et al. (2019), or Pfeiffer et al. (2020).",
    **UNEQUAL,
)
InvertibleBottleneck = made(
    Invertible,
    "invertible_bottleneck",
    "Bottleneck layers, and an invertible one behind the embeddings (MAD-X, Pfeiffer et al., 2020).",
    **UNEQUAL,
)
AdapterPlus = made(
    Plus,
    "adapter_plus",
    """Bottleneck layers with a scale for each channel (Adapter+, Steitz and Roth, 2024).

    The paper's stochastic depth is for images and off by default; it needs torchvision.
    """,
    stochastic_depth=0.0,
)
AdaptersPrefixTuning = made(
    PrefixTuning,
    "adapters_prefix_tuning",
    "Learnt keys and values in every attention, those of an encoder and across too (Li and Liang, 2021).",
)
AdaptersLora = made(
    Lora, "adapters_lora", "Low-rank updates (LoRA, Hu et al., 2021), with use_dora DoRA (Liu et al., 2024)."
)
PARTS = (
    ParallelAdapters,
    BottleneckAdapters,
    InvertibleBottleneck,
    made(Compacter, "compacter", "Bottlenecks of Kronecker products (Compacter, Karimi Mahabadi et al., 2021)."),
    made(
        CompacterPlusPlus,
        "compacter_plus_plus",
        "Compacter behind the feed-forward layers only (Compacter++, Karimi Mahabadi et al., 2021).",
    ),
    AdapterPlus,
    AdaptersPrefixTuning,
    AdaptersLora,
    made(Ia3, "adapters_ia3", "Learnt factors of keys, values and the feed-forward's inside (IA3, Liu et al., 2022)."),
    made(PromptTuning, "adapters_prompt_tuning", "Learnt vectors before those of the text (Lester et al., 2021)."),
    made(LoReft, "loreft", "Low-rank changes of what blocks give, on orthogonal axes (LoReFT, Wu et al., 2024)."),
    made(NoReft, "noreft", "LoReFT without orthogonality (Wu et al., 2024)."),
    made(DiReft, "direft", "LoReFT without orthogonality and without subtracting (DiReFT, Wu et al., 2024)."),
)
"""What can be part of a union."""


def _table(kind: type[AdapterMethod]) -> Any:
    return (kind, Field(default_factory=kind, description=kind.__doc__))


METHODS = (
    *PARTS,
    made(
        MixAndMatch,
        "mam",
        "Prefix tuning and parallel adapters together (Mix-And-Match, He et al., 2022).",
        {
            "prefix_tuning": _table(
                made(PrefixTuning, "adapters_prefix_tuning", "Its prefix tuning.", bottleneck_size=800)
            ),
            "adapter": _table(made(Parallel, "parallel_adapters", "Its parallel adapters.")),
        },
    ),
    made(
        Unified,
        "unipelt",
        """Prefix tuning, a bottleneck and LoRA together, each behind a learnt gate (UniPELT, Mao et al., 2022).

        The gates are means over the text; the library counts padding among it, peftkit does not.
        """,
        {
            "prefix_tuning": _table(
                made(PrefixTuning, "adapters_prefix_tuning", "Its prefix tuning.", prefix_length=10)
            ),
            "adapter": _table(made(Sequential, "bottleneck", "Its bottleneck.", **UNEQUAL)),
            "lora": _table(made(Lora, "adapters_lora", "Its LoRA.", alpha=2)),
        },
    ),
    made(
        AnyUnion,
        "adapters_union",
        "Any of the library's methods together in one model, no two in one place.",
        {
            "methods": (
                Annotated[
                    tuple[Annotated[Union[PARTS], Field(discriminator="name")], ...],  # type: ignore[valid-type]  # noqa: UP007
                    Field(min_length=2),
                ],
                Field(description="The methods: tables with a name and the options that the method has by itself."),
            )
        },
    ),
)
"""The methods of this distribution."""
