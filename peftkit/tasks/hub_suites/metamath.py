"""The data of the method comparison in the repository of huggingface/peft: MetaMathQA for training, GSM8K for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftkit.components import OptionProblem
from peftkit.tasks.columns import get_text
from peftkit.tasks.file_task import DataPath
from peftkit.tasks.hub_suites.hub_task import HubTask, suite_task
from peftkit.tasks.hub_suites.reasoning_suites import GSM8K, WorkedAnswers
from peftkit.tasks.sources import split_loading
from peftkit.tasks.sources.data_source import DataSource
from peftkit.tasks.sources.splitting import draw_sample

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

DEV_SEED = 0
"""The seed of NumPy's legacy generator with which the method comparison draws its dev rows."""
COLUMNS = {"question": "query", "answer": "response"}
"""The columns of GSM8K by those of MetaMathQA."""


class MetaMathGsm8k(WorkedAnswers):
    r"""Mathematical problem → worked answer: MetaMathQA (Yu et al., 2024) trains, GSM8K (Cobbe et al., 2021) tests.

    The rows, the prompt and the extraction of answers are those of the method comparison of huggingface/peft. Prompt:
    ``Question: {source} Think step by step.\nAnswer:``. Training rows of more than ``max_characters`` are left out;
    dev is a sample of GSM8K's training rows, and test its test split. The last step is reported beside the selected
    one.
    """

    name: Literal["metamath_gsm8k"] = "metamath_gsm8k"  # type: ignore[assignment]

    path: DataPath = "meta-math/MetaMathQA"
    """Hub id, or a local folder or files with the same columns: query, response."""
    gsm8k_path: str = GSM8K.sets[""].path
    """Hub id of GSM8K, or a local folder with the same layout and columns: question, answer."""
    source_column: str = "query"
    """Column of the problem."""
    target_column: str = "response"
    """Column of the worked answer."""
    max_characters: int = Field(default=1300, gt=0)
    """Characters of a training row's problem and answer together; longer rows are left out."""
    dev_rows: int = Field(default=50, gt=0)
    """Rows of GSM8K's training split that are dev."""

    metric_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {"extracted_match": {"extract": ["answer_is", "hash"]}}
    reports_last_step: ClassVar[bool] = True
    duplicates: ClassVar[bool] = True
    source: ClassVar[str] = (
        "MetaMathQA and GSM8K, https://huggingface.co/datasets/meta-math/MetaMathQA and "
        "https://huggingface.co/datasets/openai/gsm8k"
    )
    licence: ClassVar[str] = "MIT"
    hub_id: ClassVar[str] = "meta-math/MetaMathQA"
    published_sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {"": {"train": 395000}}

    def prompt_template(self) -> str:
        return self.prompt or "Question: {source} Think step by step.\nAnswer:"

    @property
    def ignores_rows(self) -> bool:
        """Long training rows are left out."""
        return not self.is_evaluation_set

    def is_ignored(self, row: Mapping[str, Any]) -> bool:
        """Returns whether a training row is too long."""
        return len(f"{get_text(row, self.source_column)} {get_text(row, self.target_column)}") > self.max_characters

    def load(self) -> DatasetDict:
        """Loads the training rows of MetaMathQA, and dev and test of GSM8K.

        Raises:
            InputError: One of the datasets cannot be read, lacks a split or a column, or has not its published size.
        """
        splits = super().load()
        if self.is_evaluation_set or self._sample is not None:
            return splits
        rows = split_loading.load_splits(self._gsm8k_source("train")).splits["train"]
        splits["dev"] = self._prepared(rows.select(self._dev_indices(len(rows))), "dev")
        splits["test"] = self._prepared(split_loading.load_splits(self._gsm8k_source("test")).splits["test"], "test")
        return splits

    def find_data_problems(self, *, download: bool = False) -> list[OptionProblem]:
        """Finds what is wrong with both datasets."""
        gsm8k = [replace(each, option="gsm8k_path") for each in self._gsm8k().find_data_problems(download=download)]
        return [*super().find_data_problems(download=download), *gsm8k]

    def describe_row(self, split: str, index: int) -> str:
        """Describes a row by its file or dataset; rows of dev are those of GSM8K's training split."""
        if split == "train" or self.is_evaluation_set:
            return super().describe_row(split, index)
        source = self._gsm8k_source("train" if split == "dev" else "test")
        if split == "dev":
            index = self._dev_indices(len(split_loading.load_splits(source).splits["train"]))[index]
        return split_loading.row_location(source, source.only or "", index)

    def _data_source(self) -> DataSource:
        source = super()._data_source()
        return source if self.is_evaluation_set else replace(source, only="train", sizes=source.sizes)

    def _gsm8k(self) -> HubTask:
        return _gsm8k_class().model_validate({"path": self.gsm8k_path})

    def _gsm8k_source(self, split: str) -> DataSource:
        """Returns one split of GSM8K, with all of its rows."""
        return replace(self._gsm8k()._data_source(), dev_fraction=None, names=("train", None, "test"), only=split)

    def _dev_indices(self, rows: int) -> list[int]:
        """Returns the rows of dev, in the order of the method comparison."""
        import numpy as np

        indices = np.arange(rows)
        np.random.RandomState(DEV_SEED).shuffle(indices)
        return [*map(int, indices[: self.dev_rows])]

    def _prepared(self, rows: Dataset, split: str) -> Dataset:
        """Returns rows of GSM8K with the columns of MetaMathQA, and no more than ``max_rows``."""
        names = {"query": self.source_column, "response": self.target_column}
        rows = rows.rename_columns({old: names[new] for old, new in COLUMNS.items()})
        return draw_sample(rows, self.max_rows, self.split_seed, split, None) if self.max_rows else rows


@cache
def _gsm8k_class() -> type[HubTask]:
    return suite_task(GSM8K)
