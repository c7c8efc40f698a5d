"""Vectors of texts: how the states of a text's tokens become one vector, in the formats of sentence-transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from peftkit.components import Head, ModelKind, Objective, Task
from peftkit.components.family_services import Batch
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import Row
from peftkit.errors import InputError, comma_separated

if TYPE_CHECKING:
    from torch import Tensor, nn

PoolingMode = Literal["mean", "cls", "lasttoken"]
MODES: Mapping[str, PoolingMode] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The keys of sentence-transformers' configuration of pooling, and what they are called here."""
OTHER_MODES = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")
MODULES = "sentence_transformers.models"
"""Where sentence-transformers' modules were in all versions so far; later ones still read these names."""
POOLED: Mapping[str, str] = {
    "mean": "the mean of the states of its tokens",
    "cls": "the state of its first token",
    "lasttoken": "the state of its last token",
}
"""What each mode of pooling gives, for model cards."""
SUPPORTED = ("Transformer", "Pooling", "Normalize")


class Pooling(NamedTuple):
    """How token states become a vector."""

    mode: PoolingMode
    normalize: bool
    source: Literal["recipe", "model", "default"]
    """Whether the mode is from the recipe, from the model's files, or peftkit's default for the kind of model."""


class VectorObjective(Objective):
    """Base class of objectives whose outputs are vectors of texts, one or several for each row."""

    pooling: Literal["auto", "mean", "cls", "lasttoken"] = "auto"
    """How the states of a text's tokens become one vector: their `mean`, the state of the first token (`cls`), or that
    of the last one (`lasttoken`). `auto` is that of the model's sentence-transformers configuration; without one,
    `mean` for encoders and `lasttoken` for decoders."""
    normalize: bool | None = None
    """Whether predicted and exported vectors have the length 1; if unset, by the model's sentence-transformers
    configuration, and false without one. Cosine similarity is the same either way."""

    families: ClassVar[tuple[ModelKind, ...]] = ("encoder", "decoder")
    encodes_texts = True
    used_settings = ()
    card_metadata: ClassVar[Mapping[str, str]] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
    }

    def head(self, task: Task) -> Head:
        """Return that the model has no head: hidden states are the outputs."""
        return Head(0, auto_class="AutoModel")

    def model_settings(self, context: ObjectiveContext) -> dict[str, Any]:
        """Return the pooling and the prompts."""
        return {"pooling": resolve_pooling(self, context)._asdict(), "prompts": self.prompts(context)}

    def prompts(self, context: ObjectiveContext) -> dict[str, str]:
        """Return what is put before texts, by the names of sentence-transformers.

        Args:
            context: The context.
        """
        raise NotImplementedError

    def tokenize_rows(self, texts: Sequence[Sequence[str]], context: ObjectiveContext) -> list[dict[str, Any]]:
        """Tokenize the texts of rows.

        Args:
            texts: The texts of each row, with their prompts.
            context: The context.

        Returns:
            Rows with the ids of their texts, ``texts``.
        """
        tokenized = iter(context.family.tokenize_texts([text for row in texts for text in row]))
        rows = []
        for row in texts:
            ids, lengths = zip(*(next(tokenized) for _ in row), strict=True)
            rows.append(
                {
                    "texts": [*ids],
                    "length": sum(map(len, ids)),
                    "source_tokens": max(lengths),
                    "target_tokens": 0,
                }
            )
        return rows

    def outputs(self, model: nn.Module, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return the vectors of the texts, of shape (texts, features), of length 1 if they are compared by cosine."""
        return self.compared_vectors(self._pool(context.family.hidden_states(model, batch), batch, context))

    def compared_vectors(self, vectors: Tensor) -> Tensor:
        """Return the vectors as they are compared: of length 1, for cosine similarity.

        Args:
            vectors: The vectors, of shape (texts, features).

        Returns:
            Vectors of shape (texts, features).
        """
        from torch.nn.functional import normalize

        return normalize(vectors, dim=-1)

    def predict_vectors(self, model: nn.Module, rows: Sequence[Row], context: ObjectiveContext) -> list[Tensor]:
        """Compute the vectors of each row's texts.

        Args:
            model: The model, in evaluation mode.
            rows: The rows.
            context: The context.

        Returns:
            For each row its vectors as they are pooled, of shape (texts, features), on the host.
        """
        import torch

        batch = context.to_device(context.family.collate_texts([row["texts"] for row in rows]))
        vectors = self._pool(context.family.hidden_states(model, batch, exact=True), batch, context)
        return [*torch.split(vectors.cpu(), [len(row["texts"]) for row in rows])]

    def exported_vector(self, vector: Tensor, context: ObjectiveContext) -> list[float]:
        """Return a vector as it is predicted, and as the exported model computes it.

        Args:
            vector: The pooled vector, of shape (features,).
            context: The context.
        """
        from torch.nn.functional import normalize

        exported = normalize(vector, dim=-1) if resolve_pooling(self, context).normalize else vector
        return exported.tolist()  # type: ignore[no-any-return]

    def _pool(self, states: Tensor, batch: Batch, context: ObjectiveContext) -> Tensor:
        """Return a vector for each text, of shape (texts, features), from states of shape (texts, length, features)."""
        import torch

        states = states.to(torch.promote_types(states.dtype, torch.float32))
        mode, mask = resolve_pooling(self, context).mode, batch["attention_mask"]
        if mode == "cls":
            return states[:, 0]
        if mode == "lasttoken":
            last = mask.sum(1) - 1
            return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]
        weights = mask[..., None].to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)

    def export(self, folder: Path, context: ObjectiveContext) -> None:
        """Write the layout of sentence-transformers around a transformers or peft model, and the tokenizer."""
        pooling, width = resolve_pooling(self, context), int(context.config.get_text_config().hidden_size)
        modes = {key: pooling.mode == mode for key, mode in MODES.items()}
        modules = {
            "": "Transformer",
            "1_Pooling": "Pooling",
            **({"2_Normalize": "Normalize"} if pooling.normalize else {}),
        }
        files: dict[str, Any] = {
            "modules.json": [
                {"idx": number, "name": str(number), "path": path, "type": f"{MODULES}.{name}"}
                for number, (path, name) in enumerate(modules.items())
            ],
            "1_Pooling/config.json": {
                "word_embedding_dimension": width,
                **modes,
                **dict.fromkeys(OTHER_MODES, False),
                "include_prompt": True,
            },
            "sentence_bert_config.json": {"max_seq_length": context.family.max_source_length, "do_lower_case": False},
            "config_sentence_transformers.json": {
                "model_type": "SentenceTransformer",
                "prompts": self.prompts(context),
                "default_prompt_name": None,
                "similarity_fn_name": self.similarity_name,
            },
        }
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for path in modules:
            (folder / path).mkdir(exist_ok=True)
        context.tokenizer.save_pretrained(folder)

    @property
    def similarity_name(self) -> str:
        """The name of the similarity in sentence-transformers."""
        return "cosine"

    def describe_usage(self, settings: Mapping[str, Any], *, has_files: bool) -> str:
        """Describe how states of tokens become vectors, and how sentence-transformers computes them."""
        pooling = settings.get("pooling", {})
        prompts = {name: text for name, text in settings.get("prompts", {}).items() if text}
        states = POOLED.get(pooling.get("mode"), "pooled from the states of a text's tokens")
        length = ", divided by its length" if pooling.get("normalize") else ""
        compared = "dot product" if self.similarity_name == "dot" else "cosine similarity"
        text = (
            "The outputs of the transformer are states of tokens. The vector of a text is "
            f"{states}{length}; vectors are compared by {compared}."
        )
        if prompts:
            named = " and ".join(f"`{prompt}` before each {name}" for name, prompt in prompts.items())
            text += f" Texts were trained with prompts: {named}."
        if not has_files:
            return f"{text} `peftkit predict FOLDER` computes these vectors."
        names = [f', prompt_name="{name}"' if prompts else "" for name in ("query", "document")]
        code = [
            "from sentence_transformers import SentenceTransformer",
            "",
            'model = SentenceTransformer("FOLDER")',
            f'queries = model.encode(["a query"]{names[0]})',
            f'documents = model.encode(["a document", "another one"]{names[1]})',
            "similarities = model.similarity(queries, documents)",
        ]
        intro = "[sentence-transformers](https://sbert.net) reads pooling and prompts from the files of this folder:"
        return "\n".join([text, "", intro, "", "```python", *code, "```"])


def resolve_pooling(objective: VectorObjective, context: ObjectiveContext) -> Pooling:
    """Return the pooling of the options, of the model's files, or the default for the kind of model.

    Args:
        objective: The objective.
        context: The context.

    Raises:
        InputError: The model's sentence-transformers configuration has parts that are not supported.
    """
    modules = context.family.read_model_file("modules.json")
    known = modules if isinstance(modules, list) else []
    names = [str(module.get("type", "")).rpartition(".")[2] for module in known]
    normalize = "Normalize" in names if objective.normalize is None else objective.normalize
    if objective.pooling != "auto":
        return Pooling(objective.pooling, normalize, "recipe")
    if others := [name for name in names if name not in SUPPORTED]:
        raise InputError(
            f"objective.pooling: the model's modules.json has {comma_separated(others)}, which is not supported; name "
            "a pooling to train the model without it"
        )
    folder = next((m.get("path", "") for m, name in zip(known, names, strict=True) if name == "Pooling"), None)
    settings = None if folder is None else context.family.read_model_file(f"{folder}/config.json")
    if not isinstance(settings, Mapping):
        return Pooling("mean" if context.model_kind == "encoder" else "lasttoken", normalize, "default")
    chosen = settings.get("pooling_mode") or [key for key in (*MODES, *OTHER_MODES) if settings.get(key)] or "mean"
    modes: list[Any] = [MODES.get(mode, mode) for mode in ([chosen] if isinstance(chosen, str) else chosen)]
    if len(modes) != 1 or modes[0] not in MODES.values():
        raise InputError(
            f"objective.pooling: the model pools by {comma_separated(modes)}, which is not supported; allowed: "
            f"{comma_separated([*MODES.values()])}"
        )
    if settings.get("include_prompt") is False:
        raise InputError(
            "objective.pooling: the model leaves prompts out of its pooling, which is not supported; name one"
        )
    return Pooling(modes[0], normalize, "model")


def model_prompts(context: ObjectiveContext) -> Mapping[str, str]:
    """Return the prompts of the model's sentence-transformers configuration, by name; empty if there are none.

    Args:
        context: The context.
    """
    settings = context.family.read_model_file("config_sentence_transformers.json")
    prompts = settings.get("prompts") if isinstance(settings, Mapping) else None
    return prompts if isinstance(prompts, Mapping) else {}
