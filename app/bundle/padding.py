"""Texts and series as arrays: rows of different lengths, padded to one.

Training and serving call the same functions, so they cannot differ. A text is its UTF-8, padded
with 0, which no text holds; a series is its steps, padded with NaN, which no step consists of. The
graph sees by these where a row ends, so that padding changes nothing.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.bundle.tensors import Array

#: Lengths are rounded up to multiples of these: only rows of one length can share a run.
TEXT_BYTES: Final = 32
SERIES_STEPS: Final = 8
NUL: Final = "\0"


class TooLarge(ValueError):
    """One long row among many short ones, all padded to it."""


def padded_texts(texts: Sequence[str], most_bytes: int | None = None) -> NDArray[np.uint8]:
    """uint8 [rows, length]; no text may hold NUL.

    Raises:
        TooLarge: that would be more than so many bytes.
    """
    encoded = [text.encode() for text in texts]
    length = rounded_up(max(map(len, encoded)), TEXT_BYTES)
    _check_size(len(encoded) * length, most_bytes)
    joined = bytearray().join(one.ljust(length, b"\0") for one in encoded)
    return np.frombuffer(joined, np.uint8).reshape(len(encoded), length)


def text_of(row: Array) -> str:
    """The text of one row of `padded_texts`."""
    return row.tobytes().rstrip(b"\0").decode()


def padded_series(
    series: Sequence[Any],
    channels: int,
    dtype: Any = np.float32,
    most_bytes: int | None = None,
) -> NDArray[np.floating[Any]]:
    """Float [rows, length, channels].

    Args:
        series: each [steps, channels] as nested numbers or an array; numbers beyond the dtype
            become infinite.
    Raises:
        TooLarge: that would be more than so many bytes.
    """
    length = rounded_up(max(map(len, series)), SERIES_STEPS)
    _check_size(len(series) * length * channels * np.dtype(dtype).itemsize, most_bytes)
    padded = np.full((len(series), length, channels), np.nan, dtype)
    for row, steps in zip(padded, series, strict=True):
        row[: len(steps)] = steps
    return padded


def _check_size(size_bytes: int, most_bytes: int | None) -> None:
    if most_bytes is not None and size_bytes > most_bytes:
        raise TooLarge(
            f"padded to the longest, they are {size_bytes:,} bytes; at most {most_bytes:,}"
        )


def series_of(row: Array) -> Array:
    """The steps of one row of `padded_series`, float [steps, channels]."""
    return row[: row_lengths(row[None])[0]]


def row_lengths(padded: Array) -> NDArray[np.int64]:
    """Bytes or steps of each row before its padding, int64 [rows]."""
    is_there = ~np.isnan(padded).all(axis=2) if padded.ndim == 3 else padded != 0
    return np.asarray(
        (is_there * np.arange(1, padded.shape[1] + 1)).max(axis=1, initial=0), dtype=np.int64
    )


def trimmed(padded: Array) -> Array:
    """The same rows, with no more padding than serving would give them."""
    unit = SERIES_STEPS if padded.ndim == 3 else TEXT_BYTES
    return padded[:, : rounded_up(int(row_lengths(padded).max(initial=0)), unit)]


def rounded_up(length: int, unit: int) -> int:
    """The next multiple of the unit, at least one."""
    return max(1, -(-length // unit)) * unit
