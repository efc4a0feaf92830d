"""The column that is to be predicted: which task it makes, why, and the targets of the rows."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from app.bundle.tensors import Array
from training.data.infer import MOSTLY, SQUARABLE, check_nul, numbers_of, text_column, truth_values
from training.data.kinds import TaskKind
from training.data.records import Table, named_lines
from training.errors import UsageError
from training.tasks import Classification, MultiLabel, Regression, Targets, Task

#: Whole numbers with at most so many values are taken for classes.
MOST_NUMBERED_CLASSES: Final = 20
#: More classes than this are no classes.
MOST_CLASSES: Final = 1000
#: One row of a class for each part of a split.
FEWEST_OF_A_CLASS: Final = 3
#: What may stand between the labels in a cell.
SEPARATORS: Final = ("|", ";", ",")
_NO: Final = frozenset({"0", "false", "no", "n", "f", "0.0"})
_YES: Final = frozenset({"1", "true", "yes", "y", "t", "1.0"})


@dataclass(frozen=True)
class Goal:
    """What is predicted.

    Attributes:
        table: the rows that have a target.
        why: how the task was decided.
    """

    table: Table
    task: Task
    targets: Targets
    why: str


def find_goal(table: Table, names: tuple[str, ...], kind: TaskKind) -> Goal:
    """Decide the task by the target columns, and leave out the rows without a target.

    Raises:
        UsageError: no such column, no value, one class, classes of too few rows, a mixture of
            numbers and text, infinite numbers, or a kind that does not fit.
    """
    for name in names:
        check_nul(table, text_column(table, name))
    whose = f"the target column {names[0]!r}" if len(names) == 1 else "the target columns"
    for name in names:
        if table.frame[name].null_count() == len(table.frame):
            raise UsageError(f"{table.name}: the target column {name!r} has no value in any row")
    if len(names) > 1:
        if kind not in ("auto", "multilabel"):
            raise UsageError(f"{kind} has one target column, not {len(names)}")
        return _several_columns(_with_targets(table, names, whose), names)
    name = names[0]
    if kind == "multilabel":
        return _labels_in_cells(table, name)
    table = _with_targets(table, names, whose)
    chosen, why = _decide(table, name) if kind == "auto" else (kind, "as given")
    if chosen == "regression":
        return _numbers(table, name, why)
    return _classes(table, name, why)


def _with_targets(table: Table, names: tuple[str, ...], whose: str) -> Table:
    missing = table.frame.select(pl.any_horizontal(pl.col(name).is_null() for name in names))
    return table.without(missing.to_series().to_numpy(), f"no value in {whose}")


def _decide(table: Table, name: str) -> tuple[TaskKind, str]:
    series = table.frame[name]
    distinct = series.n_unique()
    parsed = numbers_of(series)
    count = len(series) - parsed.null_count()
    if table.native.get(name) in ("text", "boolean") or count == 0:
        return "classification", f"{name!r} holds text, {distinct:,} values"
    if count < len(series):
        if count >= MOSTLY * len(series):
            wrong = parsed.is_null().to_numpy()
            lines = table.lines_where(wrong)
            raise UsageError(
                f"{table.name}: the target column {name!r} has mixed types: {len(lines):,} of "
                f"{len(series):,} values are no numbers, such as "
                f"{series.filter(pl.Series(wrong))[0]!r} ({named_lines(lines)})"
            )
        return "classification", f"{name!r} holds text, {distinct:,} values"
    whole = bool((parsed.is_finite() & (parsed == parsed.round())).all())
    if whole and distinct <= MOST_NUMBERED_CLASSES:
        return "classification", f"{name!r} holds whole numbers, only {distinct} different ones"
    return "regression", f"{name!r} holds numbers, {distinct:,} different ones"


def _numbers(table: Table, name: str, why: str) -> Goal:
    series = table.frame[name]
    values = numbers_of(series).fill_null(np.nan).to_numpy()
    for wrong, what in (
        (np.isnan(values), "are no numbers"),
        (np.isinf(values), "are infinite"),
        (np.abs(values) > SQUARABLE, "are too large for float32, or their squares are"),
    ):
        if wrong.any():
            lines = table.lines_where(wrong)
            raise UsageError(
                f"{table.name}: {len(lines):,} values of the target column {name!r} {what}, such "
                f"as {series.filter(pl.Series(wrong))[0]!r} ({named_lines(lines)})"
            )
    if values.min() == values.max():
        raise UsageError(f"{table.name}: all values of the target {name!r} are {series[0]}")
    return Goal(table, Regression(description=name), values.astype(np.float32), why)


def _classes(table: Table, name: str, why: str) -> Goal:
    series = table.frame[name]
    counts = dict(series.value_counts().sort(name).iter_rows())
    if len(counts) == 1:
        raise UsageError(
            f"{table.name}: the target {name!r} has one class only, {series[0]!r}; there is "
            "nothing to tell apart"
        )
    if len(counts) > MOST_CLASSES:
        raise UsageError(
            f"{table.name}: the target {name!r} has {len(counts):,} classes, more than "
            f"{MOST_CLASSES:,}"
        )
    for label, rows in counts.items():
        if rows < FEWEST_OF_A_CLASS:
            lines = table.lines_where((series == label).to_numpy())
            raise UsageError(
                f"{table.name}: class {label!r} of {name!r} has {rows} "
                f"row{'s' if rows > 1 else ''} ({named_lines(lines)}); a class needs "
                f"{FEWEST_OF_A_CLASS}, for training, choosing and testing"
            )
    labels = _ordered(series, list(counts))
    places = {label: place for place, label in enumerate(labels)}
    targets = np.array([places[label] for label in series.to_list()], dtype=np.int64)
    return Goal(table, Classification(labels), targets, why)


def _ordered(series: pl.Series, labels: list[str]) -> tuple[str, ...]:
    """False before true, numbers by value, text by its letters."""
    truths = truth_values(series)
    if truths is not None:
        return truths
    values = numbers_of(pl.Series(labels))
    if not values.has_nulls():
        labels = [label for _, label in sorted(zip(values.to_list(), labels, strict=True))]
    return tuple(labels)


def _several_columns(table: Table, names: tuple[str, ...]) -> Goal:
    """A column of truth values for each label."""
    columns = []
    for name in names:
        cells = table.frame[name].str.to_lowercase()
        wrong = (~cells.is_in(list(_NO | _YES))).to_numpy()
        if wrong.any():
            lines = table.lines_where(wrong)
            raise UsageError(
                f"{table.name}: the target column {name!r} holds "
                f"{table.frame[name].filter(pl.Series(wrong))[0]!r} ({named_lines(lines)}); where "
                "there are several target columns, each is true or false, 1 or 0"
            )
        columns.append(cells.is_in(list(_YES)).to_numpy())
    targets = np.stack(columns, axis=1).astype(np.float32)
    return _multilabel(table, names, targets, "each target column is a label")


def _labels_in_cells(table: Table, name: str) -> Goal:
    """A cell holds all labels of its row; an empty one none."""
    series = table.frame[name]
    counts = [int(series.str.contains(one, literal=True).sum()) for one in SEPARATORS]
    separator = SEPARATORS[int(np.argmax(counts))]
    if max(counts) == 0:
        known = " ".join(SEPARATORS)
        raise UsageError(
            f"{table.name}: no cell of {name!r} has several labels; they are divided by one of "
            f"{known}, or are columns of their own (--target a,b,c)"
        )
    cells = [
        {part.strip() for part in (cell or "").split(separator) if part.strip()}
        for cell in series.to_list()
    ]
    labels = tuple(sorted(set().union(*cells)))
    targets = np.array([[label in cell for label in labels] for cell in cells], dtype=np.float32)
    why = f"labels divided by {separator!r}; an empty cell has none"
    return _multilabel(table, labels, targets, why)


def _multilabel(table: Table, labels: tuple[str, ...], targets: Array, why: str) -> Goal:
    if len(labels) < 2:
        raise UsageError(f"{table.name}: there is one label only, {labels[0]!r}")
    for label, count in zip(labels, targets.sum(axis=0), strict=True):
        if not 0 < count < len(targets):
            rows = "all rows have" if count else "no row has"
            raise UsageError(f"{table.name}: {rows} the label {label!r}")
    return Goal(table, MultiLabel(labels), targets, why)
