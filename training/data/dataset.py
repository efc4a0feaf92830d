"""A collected data set: the rows as the graph takes them, and as a client would send them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundle.padding import series_of, text_of
from app.bundle.signature import ImageField, InputField, SeriesField, TensorSpec, TextField
from app.bundle.tensors import Array, Tensors, take_rows
from training.tasks import Classification, MultiLabel, Regression, Targets, Task

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Some rows of a data set.

    Attributes:
        inputs: named arrays as the graph takes them, each [rows, ...].
        targets: as the task holds them, [rows, ...].
    """

    inputs: Tensors
    targets: Targets
    task: Task
    fields: tuple[InputField, ...]

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def expected(self) -> list[Any]:
        """The truth of each row: a label, a list of labels or a number."""
        return self.task.expected(self.targets)

    @cached_property
    def instances(self) -> list[dict[str, Any]]:
        """Each row as the JSON object that a client sends; missing values are null."""
        return [
            {one.name: _value(one, self.inputs[one.tensor][row]) for one in self.fields}
            for row in range(len(self))
        ]


def _value(field: InputField, row: Array) -> Any:
    """One field of one row: nested lists, a float, a string, or None for missing."""
    if isinstance(field, SeriesField):
        return series_of(row).tolist()
    if isinstance(field, TextField) and row.ndim:
        return text_of(row)
    if isinstance(field, ImageField) or field.column is None:
        return row.tolist()
    value = row[field.column]
    if isinstance(value, str):
        return value or None
    return None if np.isnan(value) else float(value)


@dataclass(frozen=True)
class Dataset:
    """Everything that was collected, before it is split.

    Attributes:
        source: where the rows come from, for the card.
        specs: the graph's inputs; the first dim of each is "batch".
        fields: what a person sends, with an example from a real row.
        inputs: named arrays as the graph takes them, each [rows, ...].
        targets: as the task holds them, [rows, ...].
        test_rows: those that whoever made the data set apart for testing, sorted; None where the
            split is ours to draw.
        keys: columns by which the rows can be divided, by name: text or float64 [rows].
        notes: what a person should know of the rows: decisions, losses, warnings.
    """

    source: str
    specs: tuple[TensorSpec, ...]
    fields: tuple[InputField, ...]
    inputs: Tensors
    targets: Targets
    task: Task
    test_rows: Indices | None = None
    keys: Mapping[str, Array] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def rows(self, indices: Indices) -> Rows:
        return Rows(take_rows(self.inputs, indices), self.targets[indices], self.task, self.fields)

    @cached_property
    def sha256(self) -> str:
        """Hash of the content: names, types, shapes, values, targets and labels."""
        digest = hashlib.sha256("\x1f".join(self.task.labels).encode())
        for name, array in sorted({**self.inputs, "target": self.targets}.items()):
            digest.update(f"\x1e{name} {array.dtype} {array.shape}\x1e".encode())
            digest.update(_content(array))
        if self.test_rows is not None:
            digest.update(b"\x1etest" + self.test_rows.tobytes())
        return digest.hexdigest()


def _content(array: Array) -> bytes | memoryview:
    if array.dtype == object:
        return "\x1f".join(array.ravel().tolist()).encode()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def class_counts(rows: Rows) -> Mapping[str, int]:
    """Rows of each label; nothing where the answer is a number."""
    match rows.task:
        case Classification(labels):
            counts = np.bincount(rows.targets, minlength=len(labels))
        case MultiLabel(labels):
            counts = rows.targets.sum(axis=0).astype(np.int64)
        case Regression():
            return {}
    return dict(zip(rows.task.labels, counts.tolist(), strict=True))
