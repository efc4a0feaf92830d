"""Cells of a table that are pictures: paths of files, seen from the table's folder, or bytes."""

import io
import os
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import polars as pl

from training.data.images import SUFFIXES, Encoded, open_file
from training.data.records import Table

#: Cells by which a column is judged.
LOOKED_AT: Final = 100
#: How files in these formats begin; a WebP has its length between two words.
_BEGINNINGS: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")


def picture_cells(table: Table, column: str) -> list[Encoded]:
    """The picture of each row, named by its line; no cell is missing."""
    cells = table.frame[column]
    if cells.dtype == pl.Binary:
        return [
            Encoded(f"line {line}: the picture", partial(_in_memory, cells, row))
            for row, line in enumerate(table.lines.tolist())
        ]
    return [
        Encoded(f"line {line}: {path}", partial(open_file, table.folder / path))
        for line, path in zip(table.lines.tolist(), cells.to_list(), strict=True)
    ]


def hold_pictures(table: Table, present: pl.Series) -> bool:
    """Whether the cells end like picture files, half of which at least are there, or begin like
    pictures; as far as some of them tell."""
    some = present.gather_every(max(1, len(present) // LOOKED_AT)).to_list()
    if not some:
        return False
    if present.dtype == pl.Binary:
        return all(cell.startswith(_BEGINNINGS) for cell in some)
    named = all(Path(cell).suffix.lower() in SUFFIXES for cell in some)
    there = (os.path.isfile(table.folder / cell) for cell in some)  # noqa: PTH113 (never raises)
    return named and 2 * sum(there) >= len(some)


def _in_memory(cells: pl.Series, row: int) -> BinaryIO:
    return io.BytesIO(cells[row])
