"""The public base classes: a component is one frozen pydantic model whose fields are its options.

Nothing here imports torch, so that a recipe can be checked before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

# One import serves whoever writes a component.
from peftkit.component_inputs import Context as Context
from peftkit.component_inputs import Example as Example
from peftkit.component_inputs import ModelKind as ModelKind
from peftkit.component_inputs import Refusal as Refusal
from peftkit.component_inputs import Side as Side
from peftkit.component_inputs import Situation as Situation
from peftkit.component_inputs import StepRecord as StepRecord
from peftkit.component_inputs import TaskKind as TaskKind
from peftkit.head import train_head
from peftkit.search_space import MATRICES
from peftkit.search_space import Between as Between  # what a class of methods declares comes from one module
from peftkit.search_space import PublishedRate as PublishedRate
from peftkit.search_space import Search as Search
from peftkit.unanswered import without_answer

if TYPE_CHECKING:
    from datasets import DatasetDict
    from torch import Tensor, nn


class Component(BaseModel):
    """A named part of a recipe. Fields are options: typed, strict, documented by the string below each."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        populate_by_name=True,
        defer_build=True,  # of a hundred components a recipe uses a few
    )

    name: str

    gives_way: ClassVar[bool] = False
    """Whether a component of another distribution may take the name of this built-in one."""
    refusals: ClassVar[tuple[Refusal, ...]] = ()
    """Combinations that the recipe check refuses."""

    def refuses(self, situation: Situation) -> list[str]:
        """Returns the reasons why this component cannot be used in a recipe.

        The default evaluates ``refusals``. Override it for reasons that depend on the options.

        Args:
            situation: The facts of the recipe and the model's config.

        Returns:
            One text for each reason, with its remedy; empty if the component can be used.
        """
        return [str(refusal) for refusal in self.refusals if refusal.when(situation)]


class Method(Component):
    """A way of fine-tuning: which weights learn. Sub-class it and write ``apply``; the rest has defaults."""

    takes_quantized: ClassVar[bool] = False
    """Whether it learns beside quantised weights, which cannot learn themselves."""
    merge_tolerance: ClassVar[float] = 1e-5
    """How far logits of a merged model may be from those before, in float32."""
    draws: ClassVar[str] = ""
    """What its passes draw at random beside dropout, so that no two divisions of a batch agree; mostly nothing."""
    search: ClassVar[Search] = MATRICES
    """What ``[tune]`` of a sweep draws from, where the sweep does not say otherwise; see ``peftkit.search_space``."""
    published_rates: ClassVar[tuple[PublishedRate, ...]] = ()
    """The learning rates it was published with, which the range in ``search`` has to contain."""
    trial: ClassVar[Mapping[str, Any]] = {}
    """Options with which it fits a model of width 32, where the defaults do not: tests use them."""
    loaded_by: ClassVar[Literal["transformers", "peft", "adapters", "peftkit"]] = "peftkit"
    """The library whose own loader gives the trained model back from what ``save`` writes."""

    def refuses(self, situation: Situation) -> list[str]:
        """Returns the reasons why this method cannot be used in a recipe.

        Args:
            situation: The facts of the recipe and the model's config.

        Returns:
            One text for each reason, with its remedy; empty if the method can be used.
        """
        reasons = super().refuses(situation)
        if situation.quantization and not self.takes_quantized:
            reasons.append(
                f"it does not learn beside weights of {situation.quantization.removesuffix('bit')} bits; leave out "
                "model.quantization, or use lora"
            )
        return reasons

    def search_for(self, model_kind: ModelKind | None) -> Search:
        """Returns the search space of ``[tune]`` for a kind of model, by default ``search``.

        A method that trains only an encoder's classification head returns an empty one, since the head's learning rate
        is tuned separately.

        Args:
            model_kind: The kind of model, or None if it is not known yet.

        Returns:
            The search space, by recipe key.
        """
        return type(self).search

    def virtual_tokens(self, model_kind: ModelKind) -> Mapping[Side, int]:
        """Returns how many of the model's positions the method uses for trained vectors, by default none.

        Texts are truncated to the positions that are left.

        Args:
            model_kind: The kind of model. An encoder has the side ``encoder``, a decoder the side ``decoder``, an
                encoder-decoder both.

        Returns:
            The number of positions by side.
        """
        return {}

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Prepares the model so that exactly the parameters to train have ``requires_grad``.

        The classification head (``context.head_parameters``) is made trainable afterwards in any case.

        Args:
            model: The loaded model, all of whose parameters require gradients.
            context: The facts of the run.

        Returns:
            The model to train, which is the same object or a wrapper around it.
        """
        raise NotImplementedError

    def penalty(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Returns the method's auxiliary loss, which is added to the mean loss of a step and not recorded.

        Args:
            model: The model after its forward pass over the batch.
            batch: The microbatch by argument name: ``input_ids`` and ``attention_mask`` of shape (batch, length), and
                ``labels`` of shape (batch, target length), or (batch,) for an encoder. The losses of all microbatches
                and processes of a step are averaged.

        Returns:
            A scalar, or None if there is no auxiliary loss.
        """
        return None

    def after_backward(self, model: nn.Module, step: int) -> None:
        """Runs after the last backward pass of an optimizer step, while the gradients are in place.

        Args:
            model: The model that is trained.
            step: The number of the optimizer step, counted from 1.
        """

    def after_step(self, model: nn.Module, step: int) -> None:
        """Runs after ``optimizer.step()``, before the gradients are cleared.

        Args:
            model: The model that is trained.
            step: The number of the optimizer step, counted from 1.
        """

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """Returns what a resumed run needs beside the trained parameters, such as what ``after_step`` accumulates.

        Args:
            model: The model that is trained.

        Returns:
            Tensors of any shape by name; empty by default.
        """
        return {}

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Restores what ``state`` returned.

        Args:
            model: The model that is trained.
            state: Tensors of any shape by name, as from ``state``.
        """

    def rate(self, parameter: str) -> float:
        """Returns the factor by which the recipe's learning rate is multiplied for a parameter.

        Args:
            parameter: The name of the parameter in the model that ``apply`` returned.

        Returns:
            The factor, 1 by default.
        """
        return 1.0

    def open(self, model: nn.Module, folder: Path, context: Context) -> nn.Module:
        """Loads what ``save`` wrote onto a fresh base model, by default with ``apply`` and ``load``.

        Args:
            model: The base model without the method.
            folder: The folder that ``save`` wrote to.
            context: The facts of the run.

        Returns:
            The trained model, which is the same object or a wrapper around it.

        Raises:
            ValueError: The files are not those of the method.
        """
        opened = self.apply(model, context)
        train_head(opened, context.head_parameters)
        self.load(opened, folder)
        return opened

    def merge(self, model: nn.Module) -> nn.Module:
        """Merges the trained weights into the base model.

        Args:
            model: The trained model.

        Returns:
            The base model with changed weights and no modules of the method. The default returns the same object, which
            is right for a method that adds no modules.

        Raises:
            InputError: The method cannot be merged; the text is the reason.
        """
        return model

    def may_be_silent(self, parameter: str) -> bool:
        """Returns whether a trained parameter may have no gradient in the first steps.

        Args:
            parameter: The name of the parameter.

        Returns:
            False by default.
        """
        return False

    def may_move(self, tensor: str) -> bool:
        """Returns whether a tensor without a gradient may change during training.

        Args:
            tensor: The name of the parameter or buffer.

        Returns:
            False by default.
        """
        return False

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes the trained parameters as safetensors, by default to ``trainable.safetensors``.

        Args:
            model: The trained model.
            folder: An empty folder.
        """
        from safetensors.torch import save_file

        tensors = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
        save_file(tensors, folder / "trainable.safetensors", metadata={"format": "pt"})

    def saved_bytes(self, model: nn.Module) -> int:
        """Returns the size of the tensors that ``save`` writes, which ``peftkit cost`` shows.

        Args:
            model: The model that the method was applied to; its tensors may be on ``meta``.

        Returns:
            The size in bytes, by default that of all trained parameters.
        """
        return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Loads what ``save`` wrote into a model that ``apply`` has prepared.

        Args:
            model: The model that ``apply`` returned.
            folder: The folder that ``save`` wrote to.

        Raises:
            ValueError: The tensors in the file are not those that the model trains.
        """
        import torch
        from safetensors.torch import load_file

        tensors = load_file(folder / "trainable.safetensors")
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if tensors.keys() != trained.keys():
            different = sorted(tensors.keys() ^ trained.keys())
            raise ValueError(f"{folder}: {len(different)} tensors do not match the model, such as {different[0]}")
        with torch.no_grad():
            for key, parameter in trained.items():
                parameter.copy_(tensors[key])


class Task(Component):
    """Data and what is asked of them. It says examples and knows nothing of tokenizers or model kinds."""

    kind: ClassVar[TaskKind]
    """How it is scored: among fixed labels, among each row's choices, or by free generation."""
    metrics: ClassVar[tuple[str, ...]]
    """The metrics that are computed when the recipe names none."""
    selects: ClassVar[str]
    """The metric's value, such as ``accuracy``, whose best dev score selects the checkpoint."""
    source: ClassVar[str] = ""
    """Where the data come from."""
    licence: ClassVar[str] = ""
    """The licence of the data."""

    @property
    def labels(self) -> tuple[str, ...]:
        """A classification's labels, in the order of the data's numbers; empty for other kinds."""
        return ()

    @property
    def streams(self) -> bool:
        """Whether ``train`` is a ``datasets.IterableDataset``, read as it is needed and of unknown length."""
        return False

    def load(self) -> DatasetDict:
        """Loads the data.

        Returns:
            The splits ``train``, ``dev`` and ``test``.
        """
        raise NotImplementedError

    def resolve_revision(self) -> str | None:
        """Returns the commit of the hub data set that ``load`` would read now.

        Returns:
            The commit, or None if the task reads no hub data set or the commit is not known.
        """
        return None

    def at_revision(self, commit: str) -> Task:
        """Returns the same task, pinned to a commit of its hub data set.

        Args:
            commit: The commit's SHA.

        Returns:
            The pinned task; the default returns the task itself.
        """
        return self

    def sampled(self, rows: int) -> tuple[Task, int | None] | None:
        """Returns a smaller version of the task for cost estimates.

        Args:
            rows: The number of training rows of the smaller task.

        Returns:
            The smaller task, whose only split is ``train``, and the number of rows in the whole of ``train``, None if
            unknown. The default returns None, since nothing is saved unless rows would have to be downloaded.
        """
        return None

    def encode(self, row: Mapping[str, Any]) -> Example:
        """Converts one row of a split to an example.

        Args:
            row: The row by column name.

        Returns:
            The example.

        Raises:
            RowError: The row is not valid; the runner adds its place.
        """
        raise NotImplementedError

    def to_prompt(self, row: Mapping[str, Any]) -> Example:
        """Converts a row to an example for prediction: source and candidates as from ``encode``, without the answer.

        The default calls ``encode`` with placeholders for the fields that the row lacks. A task that looks its answer
        up, as in ``names[row["label"]]``, has to override this.

        Args:
            row: A row, which needs only the fields that the prompt shows and the candidates come from.

        Returns:
            The example; its target is the first candidate, or empty.

        Raises:
            MissingFieldsError: The row lacks such fields; the error names all of them, also for an empty row.
            RowError: A field is not valid.
        """
        return without_answer(self.encode, row)

    def where(self, split: str, index: int) -> str:
        """Returns where a user finds a row, for error messages.

        Args:
            split: ``train``, ``dev`` or ``test``.
            index: The row's index in the split, counted from 0.

        Returns:
            A text such as a file and line number.
        """
        return f"the task {self.name!r}, split {split!r}, row {index + 1}"


class Metric(Component):
    """Predicted and right texts in, named numbers out."""

    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification", "multiple_choice", "generation")
    """The kinds of task that it means something for."""
    higher_is_better: ClassVar[bool] = True
    reads: ClassVar[Literal["prediction", "teacher_forced"]] = "prediction"
    """What it scores: what a model says by itself, or, for comparison with systems that did so, what it says when it
    is fed the right answer token by token. The latter leaks the answer, and never selects a checkpoint."""
    values: ClassVar[tuple[str, ...]] = ()
    """The names of what ``compute`` returns; left empty by a metric whose one value has the metric's own name."""
    per_example: ClassVar[bool] = False
    """Whether each value is the mean of what each example scores alone: then runs are compared example by example."""

    @property
    def value_names(self) -> tuple[str, ...]:
        """The names of the metric's values."""
        return type(self).values or (self.name,)

    def each(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> list[dict[str, float]]:
        """Scores every example separately.

        Args:
            predictions: One text for each example.
            references: The correct texts of each example, at least one.
            examples: The examples.

        Returns:
            For each example, the values by name.
        """
        alone = zip(predictions, references, examples, strict=True)
        return [self.score([prediction], [right], [example]) for prediction, right, example in alone]

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Scores predictions that are known to be valid, for metrics whose checks take longer than scoring.

        Args:
            predictions: One text for each example.
            references: The correct texts of each example, at least one.
            examples: The examples.

        Returns:
            The values by name, as from ``compute``.
        """
        return self.compute(predictions, references, examples)

    def compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Scores the predictions.

        Args:
            predictions: One text for each example.
            references: The correct texts of each example, at least one.
            examples: The examples, for metrics that need the source, the candidates or ``extra``.

        Returns:
            The values by name. A metric with one value uses its own name.
        """
        raise NotImplementedError


class Meter(Component):
    """Reads one kind of cost while a model trains. Keep its state in pydantic private attributes."""

    budgets: ClassVar[tuple[str, ...]] = ()
    """Of its readings, those that ``[train.budget]`` can limit: ``joules``."""

    def start(self, model: nn.Module) -> None:
        """Runs once before the first step.

        Args:
            model: The model as it will be trained.
        """

    def begin(self) -> None:
        """Runs before each optimizer step, once its batch is available."""

    def end(self) -> None:
        """Runs after each optimizer step, before its compute is counted."""

    def step(self, record: StepRecord) -> None:
        """Runs after ``end``. Counting takes time, memory and energy that are not part of the step.

        Args:
            record: The samples, tokens, seconds and operations of the step.
        """

    def read(self) -> dict[str, float]:
        """Returns the cost of training so far, without evaluation.

        Returns:
            The readings by name, with the unit in the name, such as ``train_seconds``.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Returns what a resumed run needs, by default all private attributes.

        Returns:
            Values that JSON can hold, by name.
        """
        return dict(self.__pydantic_private__ or {})

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state`` returned.

        Args:
            state: Values by name, as from ``state``.
        """
        for key, value in state.items():
            setattr(self, key, value)
