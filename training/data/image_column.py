"""A table with a column of pictures as a data set, and the target of each."""

import numpy as np

from training.config import RunConfig
from training.data.concerns import imbalance
from training.data.files import read_table
from training.data.images import (
    Decoded,
    brought_to,
    check_broken,
    choose_format,
    image_dataset,
    image_field,
    listed,
    read_pictures,
    twins,
)
from training.data.infer import Column, known_column
from training.data.picture_cells import picture_cells
from training.data.records import Table
from training.data.split import split_rule
from training.data.table import FEWEST_ROWS, Collected, TableSource, keys_of, source_of, with_key
from training.data.target import Goal, find_goal
from training.errors import EnvironmentTrouble, UsageError


def collect_image_column(
    source: TableSource, column: str, config: RunConfig, table: Table | None = None
) -> Collected:
    """Input `image`, as of a folder of pictures, in a field named as the column.

    Args:
        config: says how rows are divided, and how pictures are read.
        table: of the source, where it is read already.
    Raises:
        UsageError: as for `collect_table`; or more pictures than `broken_share` cannot be read,
            the message has the lines of the first.
        EnvironmentTrouble: the table cannot be read, or the disk takes no more.
    """
    table = table or read_table(source.path)
    known_column(table, column)
    if column in source.target:
        raise UsageError(f"{column!r} is the target, and cannot be a field as well")
    _check_alone(source, column)
    names = [name for name in table.frame.columns if name not in source.target]
    rule = split_rule(config.split)
    if rule.column is not None:
        table = with_key(table, rule)
    empty = table.frame[column].is_null().to_numpy()
    if empty.all():
        raise UsageError(f"{table.name}: column {column!r} has no picture in any row")
    table = table.without(empty, f"no picture in {column!r}")
    goal = find_goal(table, source.target, source.kind)
    try:
        pictures = picture_cells(goal.table, column)
        field = image_field(column, choose_format(pictures, config.image_size))
        decoded = read_pictures(pictures, field, config)
    except OSError as error:
        raise EnvironmentTrouble(f"{error.filename or source.path}: {error.strerror}") from None
    check_broken(decoded.broken, len(pictures), config.broken_share)
    goal = _of_readable(goal, decoded, source)
    if len(goal.targets) < FEWEST_ROWS:
        raise UsageError(
            f"{table.name} has {len(goal.targets)} pictures with a target; {FEWEST_ROWS} are the "
            "least"
        )
    dataset = image_dataset(
        field,
        decoded.images,
        goal.targets,
        goal.task,
        source=source_of(table, source),
        keys=keys_of(goal.table, rule),
    )
    others = [name for name in names if name not in (column, rule.column)]
    alone = f"left out, as pictures are learnt from alone: {', '.join(others)}"
    notes = (
        f"{goal.task.kind}: {goal.why}",
        brought_to(field),
        *([f"{alone}; {column}=drop learns from these instead"] if others else []),
        *table.remarks,
        *(str(one) for one in goal.table.left_out),
        *twins(decoded.images),
        *imbalance(dataset),
    )
    why = "as given" if column in source.fields else "pictures, by their names or first bytes"
    gone = float(empty.mean())
    columns = tuple(
        Column(name, "image", why, gone, pictures[0].name.partition(": ")[2])
        if name == column
        else Column(name, "drop", _why_not(name, column, rule.column), 0.0, "")
        for name in names
    )
    return Collected(dataset, columns, notes)


def _check_alone(source: TableSource, column: str) -> None:
    """Raise UsageError where another column is asked for as a field."""
    for name, kind in source.fields.items():
        if name != column and kind != "drop":
            raise UsageError(
                f"field {name}={kind}: pictures are learnt from alone; say {name}=drop, or "
                f"{column}=drop to learn from the other columns"
            )


def _of_readable(goal: Goal, decoded: Decoded, source: TableSource) -> Goal:
    """The same of the rows whose pictures were read: classes may have become too small."""
    if not decoded.broken:
        return goal
    lost = np.ones(len(goal.targets), dtype=np.bool_)
    lost[decoded.readable] = False
    rest = goal.table.without(lost, f"unreadable pictures, {listed(decoded.broken)}")
    return find_goal(rest, source.target, source.kind)


def _why_not(name: str, column: str, key: str | None) -> str:
    if name == key:
        return "it divides the rows"
    return f"the picture {column!r} is what is predicted from"
