"""Texts of a user's own: one column of a table, as bytes."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.bundle.padding import NUL, padded_texts
from app.bundle.signature import TensorSpec, TextField
from training.data.concerns import duplicates, imbalance
from training.data.dataset import Dataset
from training.data.files import read_table
from training.data.infer import Column, text_column
from training.data.records import Table
from training.data.split import split_rule
from training.data.table import FEWEST_ROWS, Collected, TableSource, keys_of, source_of, with_key
from training.data.target import find_goal
from training.errors import UsageError
from training.tasks import Targets, Task

TEXT: Final = "text"
#: A longer one is left out, or all others would be padded to it.
MOST_CHARACTERS: Final = 10_000
#: Serving takes texts at least as long as this, whatever there was to learn from.
SERVED_CHARACTERS: Final = 1_000
EXAMPLE_CHARACTERS: Final = 80


def text_dataset(
    field: str,
    texts: Sequence[str],
    targets: Targets,
    task: Task,
    *,
    source: str,
    keys: Mapping[str, Any] | None = None,
) -> Dataset:
    """Texts without NUL as input `text`, uint8 [rows, length]."""
    spec = TensorSpec(
        name=TEXT,
        datatype="UINT8",
        shape=("batch", "length"),
        description="UTF-8, padded with 0",
    )
    longest = max(map(len, texts))
    about = TextField(
        name=field,
        tensor=TEXT,
        max_length=max(longest, SERVED_CHARACTERS),
        example=next((text for text in texts if len(text) <= EXAMPLE_CHARACTERS), None),
    )
    inputs = {TEXT: padded_texts(texts)}
    return Dataset(source, (spec,), (about,), inputs, targets, task, keys=keys or {})


def collect_text(source: TableSource, column: str, split: str = "auto") -> Collected:
    """A table's column of texts, and its target.

    Args:
        split: as for `collect_table`.
    Raises:
        UsageError, EnvironmentTrouble: as for `collect_table`.
    """
    table = read_table(source.path)
    text_column(table, column)
    rule = split_rule(split)
    if rule.column is not None:
        table = with_key(table, rule)
    if column in source.target:
        raise UsageError(f"{column!r} is the target, and cannot be a field as well")
    table = _usable(table, column)
    goal = find_goal(table, source.target, source.kind)
    texts = goal.table.frame[column].to_list()
    if len(texts) < FEWEST_ROWS:
        raise UsageError(
            f"{table.name} has {len(texts)} texts with a target; {FEWEST_ROWS} are the least"
        )
    dataset = text_dataset(
        column,
        texts,
        goal.targets,
        goal.task,
        source=source_of(table, source),
        keys=keys_of(goal.table, rule),
    )
    columns = tuple(
        Column(name, "text", "as given", 0.0, texts[0])
        if name == column
        else Column(name, "drop", f"the text {column!r} is what is predicted from", 0.0, "")
        for name in table.frame.columns
        if name not in source.target
    )
    notes = (
        f"{goal.task.kind}: {goal.why}",
        *table.remarks,
        *(str(one) for one in goal.table.left_out),
        *duplicates(goal.table),
        *imbalance(dataset),
    )
    return Collected(dataset, columns, notes)


def _usable(table: Table, column: str) -> Table:
    cells = table.frame[column]
    table = table.without(cells.is_null().to_numpy(), f"no text in {column!r}")
    cells = table.frame[column]
    long = (cells.str.len_chars() > MOST_CHARACTERS).to_numpy()
    table = table.without(long, f"more than {MOST_CHARACTERS:,} characters in {column!r}")
    with_nul = table.frame[column].str.contains(NUL, literal=True).to_numpy()
    return table.without(with_nul, f"a NUL character in {column!r}")
