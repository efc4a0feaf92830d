"""The rows of a file before anything is known of them: cells of text, lines, what was broken."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from training.data.dataset import Indices

MOST_LINES_NAMED = 5

#: What a file says of a column itself; text files say nothing.
Native = Literal["text", "number", "boolean", "date", "bytes"]


@dataclass(frozen=True)
class LeftOut:
    """Rows that cannot be used, and why."""

    reason: str
    lines: tuple[int, ...]

    def __str__(self) -> str:
        rows = "1 row is" if len(self.lines) == 1 else f"{len(self.lines):,} rows are"
        return f"{rows} left out: {self.reason} ({named_lines(self.lines)})"


@dataclass(frozen=True)
class Table:
    """A file's rows.

    Attributes:
        frame: a text column for each of the file's, or one of bytes; null is missing.
        lines: int64 [rows], the line at which a row begins; for Parquet the row's number from 1.
        native: the kinds of columns in files that have types.
        left_out: what was broken in the file.
        folder: where the file is.
    """

    name: str
    frame: pl.DataFrame
    lines: Indices
    native: dict[str, Native] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    remarks: tuple[str, ...] = ()
    folder: Path = Path()

    def lines_where(self, rows: Any) -> tuple[int, ...]:
        """The lines of some rows, given as a boolean mask or as row numbers."""
        return tuple(self.lines[np.asarray(rows)].tolist())

    def without(self, mask: Any, reason: str) -> "Table":
        """The rows where the mask, bool [rows], does not hold; says what was left out."""
        mask = np.asarray(mask, dtype=np.bool_)
        if not mask.any():
            return self
        gone = LeftOut(reason, self.lines_where(mask))
        return replace(
            self,
            frame=self.frame.filter(pl.Series(~mask)),
            lines=self.lines[~mask],
            left_out=(*self.left_out, gone),
        )


def named_lines(lines: Sequence[int]) -> str:
    """`line 7`, or `lines 7, 9, 12 and 4 more`."""
    shown = ", ".join(str(line) for line in lines[:MOST_LINES_NAMED])
    more = len(lines) - MOST_LINES_NAMED
    rest = f" and {more:,} more" if more > 0 else ""
    return f"line{'s' if len(lines) > 1 else ''} {shown}{rest}"
