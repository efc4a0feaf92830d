"""Rows whose lengths are free, as the proof and the golden rows need them: cut, and padded more."""

from collections.abc import Iterator, Sequence

import numpy as np

from app.bundle.padding import row_lengths, trimmed
from app.bundle.signature import InputField, SeriesField, TextField
from app.bundle.tensors import Array, Tensors, row_count, take_rows

#: Rows that are tried alone, each as long as itself, and together at other lengths.
ALONE = 8
TOGETHER = 32
#: Padding that serving would not give.
MORE = (1, 3, 40)


def is_padded(field: InputField, array: Array) -> bool:
    """Whether the rows of the field's tensor end where padding begins."""
    is_text = isinstance(field, TextField) and array.dtype == np.uint8
    return is_text or isinstance(field, SeriesField)


def as_short(inputs: Tensors, fields: Sequence[InputField]) -> dict[str, Array]:
    """The same rows, with no more padding than serving would give them together."""
    short = {f.tensor: trimmed(inputs[f.tensor]) for f in fields if is_padded(f, inputs[f.tensor])}
    return {**inputs, **short}


def of_other_lengths(inputs: Tensors, fields: Sequence[InputField]) -> Iterator[dict[str, Array]]:
    """Some of the rows without any padding, one at a time, and with much; none without free
    lengths."""
    padded = [field.tensor for field in fields if is_padded(field, inputs[field.tensor])]
    if not padded:
        return
    for row in range(min(ALONE, row_count(inputs))):
        alone = dict(take_rows(inputs, slice(row, row + 1)))
        for name in padded:
            alone[name] = alone[name][:, : max(1, int(row_lengths(alone[name])[0]))]
        yield alone
    some = as_short(take_rows(inputs, slice(TOGETHER)), fields)
    for more in MORE:
        yield some | {name: longer(some[name], more) for name in padded}


def longer(padded: Array, more: int) -> Array:
    """The same rows with so many positions of padding behind them."""
    nothing = np.nan if padded.dtype.kind == "f" else 0
    tail = np.full((len(padded), more, *padded.shape[2:]), nothing, padded.dtype)
    return np.concatenate([padded, tail], axis=1)
