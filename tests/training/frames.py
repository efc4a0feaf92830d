"""Small real tables as runs, for tests of what is not about one table."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from app.bundle.signature import NumberField, TensorSpec
from training.config import RunConfig
from training.data.dataset import Dataset
from training.models import TREES, AnyCandidate
from training.preprocess.tensors import fit_table
from training.runs import Run
from training.tasks import Classification, Regression, Task

FIT = partial(fit_table, numbers="numbers", categories="categories")


def numbers_dataset(load: Callable[[], Any], *, gaps: bool = False) -> Dataset:
    """A data set of scikit-learn, every 17th value of the third column missing on demand."""
    bunch = load()
    numbers = bunch.data.astype(np.float32)
    if gaps:
        numbers[::17, 2] = np.nan
    task: Task = Regression()
    targets = bunch.target.astype(np.float32)
    if "target_names" in bunch and bunch.target.dtype.kind == "i":
        task = Classification(tuple(map(str, bunch.target_names)))
        targets = bunch.target.astype(np.int64)
    width = numbers.shape[1]
    fields = tuple(
        NumberField(
            name=f"x{column}",
            tensor="numbers",
            column=column,
            description="",
            required=not gaps,
            nullable=gaps,
            example=float(numbers[1, column]),
        )
        for column in range(width)
    )
    spec = TensorSpec(name="numbers", datatype="FP32", shape=("batch", width), description="")
    return Dataset("scikit-learn", (spec,), fields, {"numbers": numbers}, targets, task)


def run_of(
    name: str, dataset: Dataset, candidates: tuple[AnyCandidate, ...] = (TREES,), **config: Any
) -> Run:
    return Run(
        name=name,
        description="A table of scikit-learn",
        config=RunConfig().with_overrides(config),
        collect=lambda: dataset,
        fit_preprocess=FIT,
        candidates=candidates,
    )
