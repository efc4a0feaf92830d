"""The names of a file's columns, from its beginning alone.

A mistyped column is found so before a large file is read. Whatever is wrong with the file itself is
left to `read_table` to say, which knows the line.
"""

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from training.errors import UsageError, nearest

#: A header that is longer, in characters, is met with the rows.
MOST_CHARACTERS: Final = 2**20
#: Columns that a message names.
MOST_NAMED: Final = 40
_TABS: Final = (".tsv", ".tab")
_OTHER_SEPARATORS: Final = ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"))


def check_columns(path: Path, names: Iterable[str]) -> None:
    """That a file has columns of these names, as far as its beginning tells.

    Raises:
        UsageError: it has none of that name; the message has the nearest.
    """
    columns = column_names(path)
    for name in names:
        if columns is not None and name not in columns:
            raise no_column(path.name, name, columns)


def column_names(path: Path) -> tuple[str, ...] | None:
    """The names as fields have them; None where the beginning does not tell.

    It does not in NDJSON, where every row may bring a column, nor where it is damaged or two
    columns have one name.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv", ".tab", ".txt"):
            names = _of_text(path)
        elif suffix in (".parquet", ".pq"):
            names = _of_parquet(path)
        else:
            return None
        tidy = tuple(map(tidy_name, names))
        "".join(tidy).encode()
    except (OSError, ValueError, csv.Error):
        return None
    return tidy if tidy and len(set(tidy)) == len(tidy) else None


def tidy_name(name: str) -> str:
    """Without blanks around it and in Unicode's normal form."""
    return unicodedata.normalize("NFC", name.strip())


def no_column(file: str, name: str, columns: Sequence[str]) -> UsageError:
    """The error for a column that is not there."""
    shown = ", ".join(columns[:MOST_NAMED])
    more = f" and {len(columns) - MOST_NAMED:,} more" if len(columns) > MOST_NAMED else ""
    close = nearest(name, columns)
    hint = f" (did you mean {close!r}?)" if close else ""
    return UsageError(f"{file} has no column {name!r}{hint}; there are: {shown}{more}")


def separator_of(suffix: str, text: str) -> tuple[str, str]:
    """What divides cells, and its name where that is no matter of course.

    By the first line: spreadsheets of half the world write `;` where a comma is said.

    Args:
        suffix: of the file, in lower case.
        text: its beginning, at least the first line.
    """
    if suffix in _TABS:
        return "\t", ""
    first = text.lstrip("\r\n").partition("\n")[0]
    if "," not in first:
        for other, name in _OTHER_SEPARATORS:
            if other in first:
                return other, name
    return ",", ""


def _of_text(path: Path) -> list[str]:
    # A row that is not UTF-8 is none of this; a name that is not cannot be encoded again.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        text = file.read(MOST_CHARACTERS)
    separator, _ = separator_of(path.suffix.lower(), text)
    lines = io.StringIO(text, newline="")
    records = csv.reader(lines, delimiter=separator, strict=True)
    names = next((cells for cells in records if cells), [])
    return names if lines.tell() < MOST_CHARACTERS else []


def _of_parquet(path: Path) -> list[str]:
    import polars as pl  # noqa: PLC0415 (a CSV's columns are known without it)

    try:
        return list(pl.read_parquet_schema(path))
    except pl.exceptions.PolarsError:
        return []
