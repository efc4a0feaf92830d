"""Series of a user's own, in long form: a row a step, with the number of its series."""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl

from app.bundle.padding import padded_series
from app.bundle.signature import SeriesField, TensorSpec
from app.bundle.tensors import Array
from training.data.concerns import imbalance
from training.data.dataset import Dataset
from training.data.files import read_table
from training.data.infer import SQUARABLE, Column, days_of, numbers_of, text_column
from training.data.records import Table, named_lines
from training.data.split import split_rule
from training.data.table import FEWEST_ROWS, Collected, TableSource, keys_of, source_of, with_key
from training.data.target import find_goal
from training.errors import UsageError
from training.tasks import Targets, Task

SERIES: Final = "series"
EXAMPLE_STEPS: Final = 20
#: Of the padded array; beyond, one long series would cost too much for all.
MOST_BYTES: Final = 4 * 2**30


@dataclass(frozen=True)
class Layout:
    """Which columns make series of rows.

    Attributes:
        series: rows with the same value here are one series.
        step: puts the rows of a series in order; None for the order of the file.
    """

    series: str
    step: str | None = None


def series_dataset(
    field: str,
    channels: tuple[str, ...],
    series: Array,
    targets: Targets,
    task: Task,
    *,
    source: str,
    **more: Any,
) -> Dataset:
    """Input `series`, float32 [rows, length, channels], padded with NaN.

    Args:
        more: of the data set, `test_rows` or `keys`.
    """
    spec = TensorSpec(
        name=SERIES,
        datatype="FP32",
        shape=("batch", "length", len(channels)),
        description="steps in their order, padded with NaN",
    )
    lengths = (~np.isnan(series[:, :, 0])).sum(axis=1)
    shortest = int(lengths.argmin())
    example = series[shortest, : min(lengths[shortest], EXAMPLE_STEPS)]
    about = SeriesField(
        name=field,
        tensor=SERIES,
        channels=channels,
        maximum_length=max(1_000, 2 * int(lengths.max())),
        example=tuple(tuple(float(str(number)) for number in step) for step in example),
    )
    return Dataset(source, (spec,), (about,), {SERIES: series}, targets, task, **more)


def collect_series(source: TableSource, layout: Layout, split: str = "auto") -> Collected:
    """A table of steps, whose numbers are the channels, and the target of each series.

    Args:
        split: as for `collect_table`; a column that divides has one value a series.
    Raises:
        UsageError: as for `collect_table`, or a series has two targets or two rows for a step.
        EnvironmentTrouble: the file cannot be read.
    """
    table = read_table(source.path)
    rule = split_rule(split)
    own = [layout.series, *([layout.step] if layout.step else [])]
    for name in own:
        text_column(table, name)
        if name in source.target:
            raise UsageError(f"{name!r} is the target, and cannot be a field as well")
        table = table.without(table.frame[name].is_null().to_numpy(), f"no value in {name!r}")
    if rule.column is not None:
        table = with_key(table, rule)
    one_each = [name for name in (*source.target, rule.column) if name is not None]
    for name in one_each:
        text_column(table, name)
        _check_one_each(table, layout.series, name)
    apart = {*own, *source.target, rule.column}
    apart |= {name for name, kind in source.fields.items() if kind == "drop"}
    channels = [name for name in table.frame.columns if name not in apart]
    if not channels:
        raise UsageError(f"{table.name}: no column is left to be a channel of the series")
    table = _complete(_in_order(table, layout), channels)
    first = table.frame.select(pl.col(layout.series).is_first_distinct()).to_series()
    heads = replace(
        table, frame=table.frame.filter(first), lines=table.lines[first.to_numpy()], left_out=()
    )
    goal = find_goal(heads, source.target, source.kind)
    ids = goal.table.frame[layout.series].to_list()
    if len(ids) < FEWEST_ROWS:
        raise UsageError(
            f"{table.name} has {len(ids)} series with a target; {FEWEST_ROWS} are the least"
        )
    dataset = series_dataset(
        SERIES,
        tuple(channels),
        _padded(table, layout.series, ids, channels),
        goal.targets,
        goal.task,
        source=source_of(table, source),
        keys=keys_of(goal.table, rule),
    )
    notes = (
        f"{goal.task.kind}: {goal.why}",
        f"{len(ids):,} series of {len(channels)} channels",
        *table.remarks,
        *(str(one) for one in (*table.left_out, *goal.table.left_out)),
        *imbalance(dataset),
    )
    return Collected(dataset, _columns(table, layout, channels, source), notes)


def _check_one_each(table: Table, series: str, name: str) -> None:
    """Raise UsageError where a series has two values of a column."""
    changes = table.frame.select(
        (pl.col(name).ne_missing(pl.col(name).first().over(series))).alias("other")
    ).to_series()
    if changes.any():
        row = int(changes.arg_true()[0])
        which = table.frame[series][row]
        lines = table.lines_where((table.frame[series] == which).to_numpy())
        raise UsageError(
            f"{table.name}, line {table.lines[row]}: {name!r} changes within series {which!r}, "
            f"which begins in line {lines[0]}"
        )


def _in_order(table: Table, layout: Layout) -> Table:
    """Rows of a series together and by their step, series in the order of the file."""
    number = table.frame[layout.series].rank("dense").cast(pl.Int64).to_numpy()
    _, begins, number = np.unique(number, return_index=True, return_inverse=True)
    place = begins[number]
    if layout.step is None:
        order = np.argsort(place, kind="stable")
    else:
        steps = _steps(table, layout.step)
        order = np.lexsort((steps, place))
        same = (np.diff(place[order]) == 0) & (np.diff(steps[order]) == 0)
        if same.any():
            twice = order[int(same.argmax()) + 1]
            raise UsageError(
                f"{table.name}, line {table.lines[twice]}: series "
                f"{table.frame[layout.series][int(twice)]!r} has step "
                f"{table.frame[layout.step][int(twice)]!r} twice"
            )
    return replace(table, frame=table.frame[order], lines=table.lines[order])


def _steps(table: Table, name: str) -> Array:
    """float64 [rows]: numbers, or dates as days."""
    series = table.frame[name]
    values = numbers_of(series)
    if values.has_nulls():
        days = days_of(series)
        if days is None:
            wrong = table.lines_where(values.is_null().to_numpy())
            raise UsageError(
                f"{table.name}: the step {name!r} is neither a number nor a date of one form "
                f"({named_lines(wrong)})"
            )
        values = days
    return values.to_numpy().astype(np.float64)


def _complete(table: Table, channels: list[str]) -> Table:
    """The steps of which every channel is a number.

    Raises:
        UsageError: a channel holds something else.
    """
    for name in channels:
        cells = table.frame[text_column(table, name)]
        values = numbers_of(cells)
        wrong = (values.is_null() & cells.is_not_null()).to_numpy()
        wrong |= (values.abs() > SQUARABLE).fill_null(value=False).to_numpy()
        if wrong.any():
            lines = table.lines_where(wrong)
            raise UsageError(
                f"{table.name}: channel {name!r} holds what is no finite number, such as "
                f"{cells.filter(pl.Series(wrong))[0]!r} ({named_lines(lines)}); leave the column "
                f"out by {name}=drop"
            )
    missing = table.frame.select(pl.any_horizontal(pl.col(channels).is_null())).to_series()
    return table.without(missing.to_numpy(), "a step without all its numbers")


def _padded(table: Table, series: str, ids: list[str], channels: list[str]) -> Array:
    """float32 [series, length, channels], in the order of `ids`."""
    numbers = np.stack(
        [numbers_of(table.frame[name]).to_numpy().astype(np.float32) for name in channels], axis=1
    )
    # Rows of a series stand together.
    column = table.frame[series]
    starts = np.flatnonzero((column != column.shift(1)).fill_null(value=True).to_numpy())
    pieces = np.split(numbers, starts[1:])
    longest = max(map(len, pieces))
    if 4 * len(ids) * longest * len(channels) > MOST_BYTES:
        raise UsageError(
            f"{table.name}: the longest series has {longest:,} steps; padded to it, {len(ids):,} "
            f"series need more than {MOST_BYTES // 2**30} GiB. Cut the longest into several"
        )
    by_id = dict(zip(column.gather(starts).to_list(), pieces, strict=True))
    return padded_series([by_id[one] for one in ids], len(channels))


def _columns(
    table: Table, layout: Layout, channels: list[str], source: TableSource
) -> tuple[Column, ...]:
    said = {layout.series: "tells series apart", layout.step: "the order of the steps"}
    return tuple(
        Column(
            name,
            "number" if name in channels else "drop",
            "a channel" if name in channels else said.get(name, "left out as asked"),
            0.0,
            table.frame[name][0] or "",
        )
        for name in table.frame.columns
        if name not in source.target
    )
