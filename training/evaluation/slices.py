"""Where a model is weak: its chief metric on the test rows that have something in common."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from app.bundle.quality import Slice
from app.bundle.signature import CategoryField, InputField, IntegerField, NumberField
from app.bundle.tensors import Array
from training.data.dataset import Rows
from training.evaluation.bootstrap import intervals
from training.evaluation.metrics import measures_of, values_of
from training.tasks import Task

#: Of a slice with fewer rows the value says little.
FEW_ROWS = 30
#: So many are measured for certain and told of, the worst first.
TOLD = 40
RESAMPLES = 400

Mask = NDArray[np.bool_]


def slices_of(train: Rows, test: Rows, answers: Array, seed: int) -> tuple[Slice, ...]:
    """The worst slices, worst first; those of few rows come last.

    The ranges of numbers are quarters of the training rows.

    Pictures and text have none.

    Args:
        answers: of the test rows, as `evaluate` takes them.
    """
    task = test.task
    chief = task.chief
    valued = []
    for field in test.fields:
        for words, mask in _parts(field, train, test):
            if 0 < mask.sum() < len(test):
                measures = measures_of(task, answers[mask], test.targets[mask])
                value = values_of({chief.name: measures[chief.name]}, int(mask.sum()))[chief.name]
                valued.append((chief.rank(value), field.name, words, mask, value))
    # Python's sort is stable: equals stay in the order of the fields.
    valued.sort(key=lambda one: (one[3].sum() < FEW_ROWS, -one[0]))
    return tuple(
        _slice(task, answers[mask], test.targets[mask], seed, field=name, words=words, value=value)
        for _, name, words, mask, value in valued[:TOLD]
    )


def _slice(
    task: Task, answers: Array, targets: Array, seed: int, *, field: str, words: str, value: float
) -> Slice:
    name, rows = task.chief.name, len(targets)
    measure = {name: measures_of(task, answers, targets)[name]}
    spread = intervals(measure, rows, seed=seed, resamples=RESAMPLES)[name]
    return Slice(
        field=field,
        values=words,
        rows=rows,
        metric=name,
        value=value,
        interval=spread,
        few=rows < FEW_ROWS,
    )


def _parts(field: InputField, train: Rows, test: Rows) -> Iterator[tuple[str, Mask]]:
    """What the rows may have in common in this field, in words, and which do."""
    match field:
        case CategoryField():
            yield from _by_word(_column(field, test), field.vocabulary)
        case NumberField() | IntegerField():
            seen = _column(field, train).astype(np.float64)
            yield from _by_quarter(_column(field, test).astype(np.float64), seen)
        case _:
            return


def _column(field: InputField, rows: Rows) -> Array:
    tensor = rows.inputs[field.tensor]
    return tensor.reshape(len(tensor), -1)[:, field.column or 0]


def _by_word(column: Array, vocabulary: Sequence[str]) -> Iterator[tuple[str, Mask]]:
    for word in vocabulary:
        yield word, np.asarray(column == word)
    yield "missing", np.asarray(column == "")
    yield "not among the known values", ~np.isin(column.astype(str), ("", *vocabulary))


def _by_quarter(column: Array, seen: Array) -> Iterator[tuple[str, Mask]]:
    yield "missing", np.isnan(column)
    present = seen[~np.isnan(seen)]
    if len(present) == 0:
        return
    edges = np.unique(np.quantile(present, (0.25, 0.5, 0.75)))
    ends = [-np.inf, *edges.tolist(), np.inf]
    for low, high in itertools.pairwise(ends):
        yield _range(low, high), np.asarray((column > low) & (column <= high))


def _range(low: float, high: float) -> str:
    if np.isinf(low):
        return f"up to {high:,.4g}"
    return f"above {low:,.4g}" if np.isinf(high) else f"{low:,.4g} to {high:,.4g}"
