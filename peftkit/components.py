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
        """The reasons, with remedies, why this component cannot be used so; options may add to ``refusals``."""
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
        """The reasons, with remedies, why this method cannot be used so."""
        reasons = super().refuses(situation)
        if situation.quantization and not self.takes_quantized:
            reasons.append(
                f"it does not learn beside weights of {situation.quantization.removesuffix('bit')} bits; leave out "
                "model.quantization, or use lora"
            )
        return reasons

    def search_for(self, model_kind: ModelKind | None) -> Search:
        """What ``[tune]`` draws from with a model of that kind: by default ``search``, whatever the kind.

        Nothing where the method trains an encoder's classification head alone: the head's learning rate is tuned apart.
        """
        return type(self).search

    def virtual_tokens(self, model_kind: ModelKind) -> Mapping[Side, int]:
        """How many of the model's positions the method takes for vectors of its own, on each side: by default none.

        Texts are fitted into the positions that are left.

        Args:
            model_kind: an encoder has the side ``encoder``, a decoder ``decoder``, an encoder-decoder both.
        """
        return {}

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Changes the model so that exactly the parameters that should learn have ``requires_grad``.

        The classification head (``context.head_parameters``) is made trainable afterwards, whatever this leaves.

        Args:
            model: the loaded model, all of whose parameters require gradients.
            context: the run it is applied in.

        Returns:
            The model to train, the same object or a wrapper around it.
        """
        raise NotImplementedError

    def penalty(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor | None:
        """What the method adds to the mean loss of a step beside the task's own, which alone is recorded.

        Args:
            model: the model, after its forward pass over the batch.
            batch: the rows of one pass, with ``labels``; the passes of a step and its processes are averaged.
        """
        return None

    def after_backward(self, model: nn.Module, step: int) -> None:
        """Called after the last backward of each optimizer step, gradients in place; steps count from 1."""

    def after_step(self, model: nn.Module, step: int) -> None:
        """Called after ``optimizer.step()`` and before the gradients are cleared; steps count from 1."""

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """What ``after_step`` keeps from step to step beside the weights that learn, for a run to be resumed."""
        return {}

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Puts back what ``state`` gave."""

    def rate(self, parameter: str) -> float:
        """How many times the recipe's learning rate the parameter of that name learns with."""
        return 1.0

    def open(self, model: nn.Module, folder: Path, context: Context) -> nn.Module:
        """What ``save`` wrote, on a fresh model: by default ``apply`` and ``load``.

        Raises:
            ValueError: the files are not those of the method.
        """
        opened = self.apply(model, context)
        train_head(opened, context.head_parameters)
        self.load(opened, folder)
        return opened

    def merge(self, model: nn.Module) -> nn.Module:
        """Folds what was learnt into the weights of the model that it was applied to, where that gives the same model.

        Returns:
            The model without anything of the method; by default the same object, which suits a method that adds none.

        Raises:
            InputError: the method cannot be merged, with the reason.
        """
        return model

    def may_be_silent(self, parameter: str) -> bool:
        """Whether a parameter that learns may have no gradient in the first steps."""
        return False

    def may_move(self, tensor: str) -> bool:
        """Whether a tensor without a gradient may change while training, by the method's own doing."""
        return False

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes what was trained into the empty folder, as safetensors: by default ``trainable.safetensors``."""
        from safetensors.torch import save_file

        tensors = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
        save_file(tensors, folder / "trainable.safetensors", metadata={"format": "pt"})

    def saved_bytes(self, model: nn.Module) -> int:
        """What the tensors that ``save`` writes take, for ``peftkit cost``: by default those that are trained.

        Args:
            model: the model that the method was applied to; its tensors may be on ``meta``.
        """
        return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Reads what ``save`` wrote into a model that ``apply`` has prepared.

        Raises:
            ValueError: the file's tensors are not those that the model trains.
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
        """The splits ``train``, ``dev`` and ``test``."""
        raise NotImplementedError

    def resolve_revision(self) -> str | None:
        """The commit of the hub data set that ``load`` would read now; None where it reads none, or none is known."""
        return None

    def at_revision(self, commit: str) -> Task:
        """The same task, which reads that commit of its hub data set."""
        return self

    def sampled(self, rows: int) -> tuple[Task, int | None] | None:
        """For estimates: the task with so many rows of ``train`` and no other split, and how many there really are.

        None, as here, where nothing is spared by it; a task whose rows would have to be fetched may do better.
        """
        return None

    def encode(self, row: Mapping[str, Any]) -> Example:
        """One row of a split as an example.

        Raises:
            RowError: the row cannot be one; the runner adds where it stands.
        """
        raise NotImplementedError

    def to_prompt(self, row: Mapping[str, Any]) -> Example:
        """A row as an example for prediction: source and candidates as from ``encode``, without the answer.

        The default calls ``encode`` with placeholders for the fields that the row lacks. That suits tasks which take
        the answer as it stands; a task that looks it up, as in ``names[row["label"]]``, has to override this.

        Args:
            row: a row, which needs only the fields that the prompt shows and the candidates come from.

        Raises:
            MissingFieldsError: the row lacks such fields; it names all of them, also for an empty row.
            RowError: a field is wrong.
        """
        return without_answer(self.encode, row)

    def where(self, split: str, index: int) -> str:
        """Where a user finds the row of a split, counted from 0; asked only when something is wrong with it."""
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
        """What ``score`` returns of each example alone."""
        alone = zip(predictions, references, examples, strict=True)
        return [self.score([prediction], [right], [example]) for prediction, right, example in alone]

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """What ``compute`` returns, for rows that are known to be right: where checking takes longer than scoring."""
        return self.compute(predictions, references, examples)

    def compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Scores the predictions.

        Args:
            predictions: one text per example.
            references: the right texts of each example, at least one.
            examples: the examples themselves, for metrics that need the source, the candidates or ``extra``.

        Returns:
            The values by name; a metric of one value calls it by its own name.
        """
        raise NotImplementedError


class Meter(Component):
    """Reads one kind of cost while a model trains. Keep its state in pydantic private attributes."""

    budgets: ClassVar[tuple[str, ...]] = ()
    """Of its readings, those that ``[train.budget]`` can limit: ``joules``."""

    def start(self, model: nn.Module) -> None:
        """Called once, before the first step, with the model as it will be trained."""

    def begin(self) -> None:
        """Called before every optimizer step, when its batch is there."""

    def end(self) -> None:
        """Called when the step is done, before its work is counted and anything else is done."""

    def step(self, record: StepRecord) -> None:
        """Called after ``end``, with what the step was; counting that took time, memory and energy of its own."""

    def read(self) -> dict[str, float]:
        """The cost so far, by name with its unit (``train_seconds``); evaluation is not part of it."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a resumed run must know, as JSON has it: by default every private attribute."""
        return dict(self.__pydantic_private__ or {})

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``state`` gave."""
        for key, value in state.items():
            setattr(self, key, value)
