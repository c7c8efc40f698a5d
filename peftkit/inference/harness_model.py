"""A finished run as a model of lm-evaluation-harness; importing this module imports that library."""

from __future__ import annotations

from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import stop_sequences_criteria
from torch import Tensor, nn

from peftkit.inference.finished_run import FinishedRun
from peftkit.models.batches.padding import pad_sequences
from peftkit.models.decoding.kv_cache_check import generate


class RunWithoutTying(nn.Module):
    """The model of a run whose weights stay as they were trained: the library would tie an output layer again.

    Args:
        run: The run.
    """

    def __init__(self, run: FinishedRun) -> None:
        super().__init__()
        self.trained, self.config, self.device = run.model, run.family.config, run.device

    def tie_weights(self) -> None:
        """Do nothing."""

    def forward(self, input_ids: Tensor, **inputs: Any) -> Any:
        """Run the model.

        Args:
            input_ids: Token ids of shape (rows, length).
            inputs: Further arguments of the model.
        """
        return self.trained(input_ids=input_ids, **inputs, use_cache=False)


class HarnessModel(HFLM):  # type: ignore[misc]
    """Scores and generates with a finished run, whatever its method.

    Args:
        run: The run.
        batch_size: Requests in a batch.
    """

    def __init__(self, run: FinishedRun, batch_size: int) -> None:
        kind = "seq2seq" if run.objective.auto_class == "AutoModelForSeq2SeqLM" else "causal"
        model: Any = RunWithoutTying(run)
        super().__init__(model, backend=kind, tokenizer=run.family.tokenizer, batch_size=batch_size)

    @torch.inference_mode()
    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Tensor:
        """Generate for prompts of shape (rows, length), padded on the left.

        Prompts of the same length are generated together, because not every method ignores padding.
        """
        mask, is_causal = options.pop("attention_mask"), self.backend == "causal"
        new_tokens = max_length - context.shape[1]
        if not options.get("temperature") and not options.get("do_sample"):
            options = {**options, "do_sample": False, "temperature": None}
        generated: list[list[int]] = [[] for _ in context]
        lengths = mask.sum(1)
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero().flatten().tolist()
            ids = context[rows, context.shape[1] - length :]
            texts: Tensor = generate(
                self.model.trained,
                "input_ids" if is_causal else "decoder_input_ids",
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                stopping_criteria=stop_sequences_criteria(self.tokenizer, stop, length if is_causal else 1, len(rows)),
                pad_token_id=self.tokenizer.pad_token_id,
                **options,
            )
            for row, text in zip(rows, texts[:, length if is_causal else 0 :].tolist(), strict=True):
                generated[row] = text
        padded = pad_sequences(generated, int(self.tokenizer.pad_token_id)).to(context.device)
        return torch.cat([context, padded], 1) if is_causal else padded
