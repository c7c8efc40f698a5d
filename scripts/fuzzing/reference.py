"""The reference implementation: one row at a time, without padding or a cache, encoded by the tokenizer only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from fuzzing.data import Rows
from peftkit import Method
from peftkit.components import ModelKind
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory

Ids = list[int]


class JoinedError(Exception):
    """The ids of the target cannot be separated from those of the source."""


class Reference:
    """The losses, scores and texts that a run should have recorded.

    Args:
        model: the model before its first step, with the method applied.
        trained: an equal model, which is trained here.
        tokenizer: the tokenizer of the model.
        kind: the kind of model.
        recipe: the recipe of the run.
        rows: the rows of the run.
    """

    def __init__(
        self,
        model: nn.Module,
        trained: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        kind: ModelKind,
        recipe: Recipe,
        rows: Rows,
    ) -> None:
        self.model, self.trained, self.tokenizer, self.kind = model, trained, tokenizer, kind
        self.recipe, self.rows = recipe, rows

    def compare(self, run: RunDirectory, tolerance: float) -> list[str]:
        """List differences in losses before and after training, scores and predictions."""
        problems: list[str] = []
        is_reproducible = (
            type(self.recipe.method).auxiliary_loss is Method.auxiliary_loss
            and not self.recipe.method.stochastic_because
        )
        evaluations = run.evaluations()
        self._check(problems, "dev loss at step 0", evaluations[0]["dev"]["loss"], self._loss(self.model), tolerance)
        if is_reproducible:
            self._train(self.trained, self.recipe.train.budget.steps or 0)
            self._check(
                problems, "dev loss at the end", evaluations[-1]["dev"]["loss"], self._loss(self.trained), tolerance
            )
        step = run.summary()["selected"]["step"]
        if step == 0 or is_reproducible:
            model = self.model if step == 0 else self.trained
            predictions = run.predictions("dev")
            for number, (prediction, row) in enumerate(zip(predictions, self.rows.dev, strict=True)):
                self._check_row(problems, f"dev row {number}", prediction, row, model.eval(), tolerance)
        return problems

    def _check(self, problems: list[str], title: str, value: float, expected: float, tolerance: float) -> None:
        if not math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance):
            problems.append(f"{title}: {value!r}, expected {expected!r}")

    def _check_row(
        self, problems: list[str], title: str, prediction: dict[str, Any], row: Any, model: nn.Module, tolerance: float
    ) -> None:
        source, texts, answer = row
        if prediction["source"] != source:
            problems.append(f"{title}: source {prediction['source']!r}, expected {source!r}")
        scores = self._scores(model, row)
        self._check(problems, f"{title}: loss", prediction["loss"], -scores[answer], tolerance)
        if "candidates" in prediction:
            for text, score in zip(texts, scores, strict=True):
                value = prediction["log_likelihoods"][prediction["candidates"].index(text)]
                self._check(problems, f"{title}: log-likelihood of {text!r}", value, score, tolerance)
        elif self.kind != "encoder":
            text = self._generate(model, source)
            if prediction["prediction"] != text:
                problems.append(f"{title}: generated {prediction['prediction']!r}, expected {text!r}")

    def _loss(self, model: nn.Module) -> float:
        model.eval()
        losses, tokens = zip(*(self._row_loss(model, row) for row in self.rows.dev), strict=True)
        return float(sum(losses)) / sum(tokens)

    def _train(self, model: nn.Module, steps: int) -> None:
        """Gradient descent on all rows, as with the optimizer of the recipe."""
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        method = self.recipe.method
        for step in range(1, steps + 1):
            model.train()
            losses, tokens = zip(*(self._row_loss(model, row, grad=True) for row in self.rows.train), strict=True)
            (sum(losses) / sum(tokens)).backward()
            method.after_backward(model, step)
            with torch.no_grad():
                for name, parameter in trainable.items():
                    if parameter.grad is not None:
                        parameter -= self.recipe.train.learning_rate * method.lr_multiplier(name) * parameter.grad
            method.after_step(model, step)
            model.zero_grad()

    def _row_loss(self, model: nn.Module, row: Any, *, grad: bool = False) -> tuple[Any, int]:
        source, texts, answer = row
        with torch.set_grad_enabled(grad):
            if self.kind == "encoder":
                return -self._classify(model, row)[answer], 1
            ids = self._target(source, texts[answer])
            return -self._likelihood(model, source, ids), len(ids)

    def _scores(self, model: nn.Module, row: Any) -> list[float]:
        source, texts, _ = row
        with torch.no_grad():
            if self.kind == "encoder":
                return [float(score) for score in self._classify(model, row)]
            return [float(self._likelihood(model, source, self._target(source, text))) for text in texts]

    def _classify(self, model: nn.Module, row: Any) -> Tensor:
        """The log-probability of each label or choice."""
        source, texts, _ = row
        if self.recipe.task.name == "text_classification":
            logits = model(**self._tensors(self.tokenizer(source)["input_ids"])).logits[0]
        else:
            pairs = [self.tokenizer(source, text, return_token_type_ids=True) for text in texts]
            inputs = [{**self._tensors(pair["input_ids"]), **self._segments(model, pair)} for pair in pairs]
            logits = torch.stack([model(**each).logits[0, 0] for each in inputs])
        return logits.log_softmax(-1)

    def _segments(self, model: nn.Module, pair: Any) -> dict[str, Tensor]:
        """The segment ids, for models that have segment embeddings."""
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        if "token_type_ids" not in signature(base.forward).parameters or base.config.type_vocab_size < 2:
            return {}
        return {"token_type_ids": torch.tensor([pair["token_type_ids"]])}

    def _likelihood(self, model: nn.Module, source: str, target: Ids) -> Tensor:
        """The log-likelihood of the target ids given the source."""
        prompt = self._prompt(source)
        if self.kind == "decoder":
            logits = model(**self._tensors(prompt + target), use_cache=False).logits[0, -len(target) - 1 : -1]
        else:
            start = [self.model.config.decoder_start_token_id]
            decoder = torch.tensor([start + target[:-1]])
            logits = model(**self._tensors(prompt), decoder_input_ids=decoder, use_cache=False).logits[0]
        return logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None]).sum()

    def _generate(self, model: nn.Module, source: str) -> str:
        prompt = self._prompt(source)
        written: Ids = []
        with torch.no_grad():
            while len(written) < self.recipe.evaluate.max_new_tokens:
                if self.kind == "decoder":
                    logits = model(**self._tensors(prompt + written), use_cache=False).logits[0, -1]
                else:
                    decoder = torch.tensor([[self.model.config.decoder_start_token_id, *written]])
                    logits = model(**self._tensors(prompt), decoder_input_ids=decoder, use_cache=False).logits[0, -1]
                written.append(int(logits.argmax()))
                if written[-1] == self.tokenizer.eos_token_id:
                    break
        return self.tokenizer.decode(written, skip_special_tokens=True).strip()

    @staticmethod
    def _tensors(ids: Sequence[int]) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor([list(ids)]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}

    def _prompt(self, source: str) -> Ids:
        """The ids of the source; for a decoder, without special tokens after the text, and never empty."""
        if self.kind != "decoder":
            return list(self.tokenizer(source)["input_ids"])
        begin = self.tokenizer.bos_token_id
        return self._open(source) or [self.tokenizer.eos_token_id if begin is None else begin]

    def _target(self, source: str, target: str) -> Ids:
        """The ids of the target, including the end-of-text token."""
        end = self.tokenizer.eos_token_id
        if self.kind == "encoder-decoder":
            ids = list(self.tokenizer(text_target=target)["input_ids"])
            return ids if ids[-1] == end else [*ids, end]
        prompt, whole = self._open(source), self._open(f"{source} {target}")
        if whole[: len(prompt)] != prompt:
            raise JoinedError("the tokenizer merges the end of the source with the beginning of the target")
        ids = whole[len(prompt) :]
        return ids if ids[-1:] == [end] else [*ids, end]

    def _open(self, text: str) -> Ids:
        """The ids of a text with the special tokens of the template before it, but none after it."""
        bare = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        before = list(self.tokenizer("a")["input_ids"])
        before = before[: before.index(self.tokenizer("a", add_special_tokens=False)["input_ids"][0])]
        return bare if before and bare[: len(before)] == before else [*before, *bare]
