"""A table of a user's own as a data set: fields named as its columns, and what was decided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from app.bundle.signature import CategoryField, InputField, NumberField, TensorSpec
from app.bundle.tensors import Array
from training.data.concerns import concerns
from training.data.dataset import Dataset
from training.data.files import content_hash, read_table
from training.data.infer import Column, days_of, finite_column, infer, numbers_of, text_column
from training.data.kinds import TaskKind
from training.data.records import Table, named_lines
from training.data.split import SplitRule, split_rule
from training.data.target import find_goal
from training.data.words import most_frequent
from training.errors import UsageError

NUMBERS = "numbers"
CATEGORIES = "categories"
FEWEST_ROWS = 20
DAYS = "days since 1970-01-01"


@dataclass(frozen=True)
class TableSource:
    """Where a table is, and what its owner says of it.

    Attributes:
        target: the column to predict, or several where each is a label.
        fields: kinds of columns, by name; the others are guessed.
    """

    path: Path
    target: tuple[str, ...]
    kind: TaskKind = "auto"
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Collected:
    """A data set, with all that was guessed and left out on the way.

    Attributes:
        columns: every column but the targets.
        notes: decisions and losses, then warnings.
    """

    dataset: Dataset
    columns: tuple[Column, ...]
    notes: tuple[str, ...]

    @property
    def noted(self) -> Dataset:
        """The data set with the notes, and with the columns that are left out among them."""
        dropped = [one for one in self.columns if one.kind == "drop"]
        left_out = (f"column {one.name!r} is left out: {one.why}" for one in dropped)
        return replace(self.dataset, notes=(*self.notes, *left_out))


def collect_table(
    source: TableSource, split: str = "auto", table: Table | None = None
) -> Collected:
    """Read, guess and check a table.

    Args:
        split: how it will be divided, as `RunConfig.split` says; columns that divide are not
            among the fields unless they are given a kind.
        table: of the source, where it is read already.
    Raises:
        UsageError: the file or a column cannot be used; the message has the line where there is
            one.
        EnvironmentTrouble: the file cannot be read.
    """
    table = table or read_table(source.path)
    rule = split_rule(split)
    if rule.column is not None:
        table = with_key(table, rule)
    for name in source.target:
        if name in source.fields:
            raise UsageError(f"{name!r} is the target, and cannot be a field as well")
    goal = find_goal(table, source.target, source.kind)
    table = goal.table
    if len(table.frame) < FEWEST_ROWS:
        rows = len(table.frame)
        raise UsageError(f"{table.name} has {rows} rows with a target; {FEWEST_ROWS} are the least")
    given = dict(source.fields)
    if rule.column is not None:
        given.setdefault(rule.column, "drop")
    names = [name for name in table.frame.columns if name not in source.target]
    columns = infer(table, names, given)
    numbers = [column for column in columns if column.kind in ("number", "date")]
    words = [column for column in columns if column.kind in ("category", "boolean")]
    if not numbers and not words:
        why = "; ".join(f"{column.name}: {column.why}" for column in columns)
        raise UsageError(f"{table.name}: no column is left to predict from ({why or 'none'})")
    inputs: dict[str, Array] = {}
    specs: list[TensorSpec] = []
    remarks: list[str] = []
    if numbers:
        parts = [finite_column(table, column) for column in numbers]
        inputs[NUMBERS] = np.stack([values for values, _ in parts], axis=1)
        remarks += [remark for _, said in parts for remark in said]
        about = "numbers in the order of the fields; NaN where missing"
        specs.append(_spec(NUMBERS, "FP32", len(numbers), about))
    if words:
        inputs[CATEGORIES] = _strings(table, [column.name for column in words])
        about = "text in the order of the fields; empty where missing"
        specs.append(_spec(CATEGORIES, "BYTES", len(words), about))
    unordered = [*_number_fields(numbers, inputs), *_word_fields(words, inputs)]
    fields = sorted(unordered, key=lambda field: names.index(field.name))
    dataset = Dataset(
        source=source_of(table, source),
        specs=tuple(specs),
        fields=tuple(fields),
        inputs=inputs,
        targets=goal.targets,
        task=goal.task,
        keys=keys_of(table, rule),
    )
    notes = (
        f"{goal.task.kind}: {goal.why}",
        *table.remarks,
        *(str(one) for one in table.left_out),
        *remarks,
        *concerns(dataset, table),
    )
    return Collected(dataset, columns, notes)


def source_of(table: Table, source: TableSource) -> str:
    """The file, for the card."""
    return f"{table.name} (sha256 {content_hash(source.path)})"


def with_key(table: Table, rule: SplitRule) -> Table:
    """The rows that have a value in the column that divides them."""
    name = text_column(table, rule.column or "")
    missing = table.frame[name].is_null().to_numpy()
    return table.without(missing, f"no value in {name!r}, which divides the rows")


def keys_of(table: Table, rule: SplitRule) -> dict[str, Array]:
    """The column that divides the rows: text for groups, float64 for times."""
    if rule.column is None:
        return {}
    series = table.frame[rule.column]
    if rule.way == "group":
        return {rule.column: series.to_numpy().astype(object)}
    times = numbers_of(series)
    if times.has_nulls():
        days = days_of(series)
        if days is None:
            wrong = times.is_null().to_numpy()
            raise UsageError(
                f"{table.name}: column {rule.column!r} holds neither numbers nor dates of one "
                f"form ({named_lines(table.lines_where(wrong))})"
            )
        times = days
    return {rule.column: times.to_numpy().astype(np.float64)}


def _spec(name: str, datatype: Any, width: int, description: str) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=("batch", width), description=description)


def _strings(table: Table, names: Sequence[str]) -> Array:
    """Object array of `str` [rows, columns]; missing is empty."""
    array = np.empty((len(table.frame), len(names)), dtype=object)
    for column, name in enumerate(names):
        array[:, column] = table.frame[name].fill_null("").to_list()
    return array


def _number_fields(columns: Sequence[Column], inputs: Mapping[str, Array]) -> list[InputField]:
    """Without bounds: what a model has not seen it may still be asked."""
    fields: list[InputField] = []
    for place, column in enumerate(columns):
        values = inputs[NUMBERS][:, place]
        gaps = bool(np.isnan(values).any())
        present = values[~np.isnan(values)]
        example = float(str(present[0])) if len(present) else None  # as short as float32 is
        fields.append(
            NumberField(
                name=column.name,
                tensor=NUMBERS,
                column=place,
                unit=DAYS if column.kind == "date" else None,
                required=not gaps,
                nullable=gaps,
                example=example,
            )
        )
    return fields


def _word_fields(columns: Sequence[Column], inputs: Mapping[str, Array]) -> list[InputField]:
    fields: list[InputField] = []
    for place, column in enumerate(columns):
        values = inputs[CATEGORIES][:, place]
        gaps = bool((values == "").any())
        fields.append(
            CategoryField(
                name=column.name,
                tensor=CATEGORIES,
                column=place,
                vocabulary=most_frequent(values, fewest=1, most=len(values)),
                accept_unknown=column.kind == "category",
                required=not gaps,
                nullable=gaps,
                example=column.example or None,
            )
        )
    return fields
