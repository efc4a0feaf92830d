"""Tables as people have them: CSV, TSV, Parquet and NDJSON, read without losing a row in silence.

A cell is text as the file has it, or None where it is missing; the lines of all rows are kept, so
that whatever is wrong with a row can be said with its line.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from app.bundle.signature import name_problem
from training.data.header import separator_of, tidy_name
from training.data.records import LeftOut, Native, Table, named_lines
from training.errors import EnvironmentTrouble, UsageError

#: What stands for a missing cell in a text file, besides nothing.
MISSING_WORDS = frozenset({"", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"})
#: Above this share of broken rows a file is taken for something else.
MOST_BROKEN = 0.1
#: Rows that are turned into a frame at a time: Python's strings are large.
_PIECE_ROWS = 50_000


def read_table(path: Path) -> Table:
    """Read a file by its ending: .csv, .tsv, .tab, .txt, .parquet, .pq, .ndjson, .jsonl.

    Raises:
        UsageError: not such a file, empty, damaged, not UTF-8, or two columns of one name.
        EnvironmentTrouble: it is not there or may not be read.
    """
    readers = {
        ".csv": _read_csv, ".tsv": _read_csv, ".tab": _read_csv, ".txt": _read_csv,
        ".parquet": _read_parquet, ".pq": _read_parquet,
        ".ndjson": _read_ndjson, ".jsonl": _read_ndjson,
    }  # fmt: skip
    read = readers.get(path.suffix.lower())
    if read is None:
        known = ", ".join(readers)
        raise UsageError(f"{path.name}: files end in one of {known}, not in {path.suffix!r}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EnvironmentTrouble(f"{path} cannot be read: {error.strerror}") from None
    if not content.strip():
        raise UsageError(f"{path.name} is empty")
    table = read(path, content)
    if len(table.frame) == 0:
        raise UsageError(f"{path.name} has names of columns, but no rows that can be used")
    return replace(_tidily_named(table), folder=path.parent)


def _tidily_named(table: Table) -> Table:
    """Names without blanks around them and in Unicode's normal form, as fields have them."""
    tidy = {name: tidy_name(name) for name in table.frame.columns}
    native = {tidy[name]: kind for name, kind in table.native.items()}
    return replace(table, frame=table.frame.rename(tidy), native=native)


def content_hash(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_csv(path: Path, content: bytes) -> Table:
    text = _decoded(path, content)
    separator, remarks = _separator(path, text)
    records = _records(path, text, separator)
    names = next((cells for _, cells in records if cells), None)
    if names is None:
        raise UsageError(f"{path.name} is empty")
    _check_names(path, names)
    kept: list[list[str]] = []
    lines: list[int] = []
    broken: dict[str, list[int]] = {}
    pieces: list[pl.DataFrame] = []
    for line, cells in records:
        if len(cells) == len(names):
            kept.append(cells)
            lines.append(line)
        elif cells:  # a line with nothing on it is no row
            few = "few" if len(cells) < len(names) else "many"
            broken.setdefault(f"too {few} cells for {len(names)} columns", []).append(line)
        if len(kept) == _PIECE_ROWS:
            pieces.append(_frame(names, kept))
            kept = []
    pieces.append(_frame(names, kept))
    left_out = tuple(LeftOut(reason, tuple(found)) for reason, found in broken.items())
    _check_broken(path, left_out, len(lines))
    frame = _missing_as_null(pl.concat(pieces))
    return Table(path.name, frame, np.array(lines, dtype=np.int64), {}, left_out, remarks)


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path.name}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def _separator(path: Path, text: str) -> tuple[str, tuple[str, ...]]:
    """As the header says; a remark where that is no matter of course."""
    separator, name = separator_of(path.suffix.lower(), text)
    return separator, (f"cells are divided by {name}",) if name else ()


def _records(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each record with its first line; RFC 4180, strictly."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UsageError(
                f"{path.name}, line {line}: {error}; a cell with quotes must be in quotes, its "
                "quotes doubled"
            ) from None
        yield line, record


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Raise UsageError for columns without a name, two of one name, or one no field can have."""
    tidy = [tidy_name(name) for name in names]
    for number, name in enumerate(tidy, start=1):
        if not name:
            raise UsageError(f"{path.name}: column {number} has no name")
        if name in tidy[: number - 1]:
            first = tidy.index(name) + 1
            raise UsageError(f"{path.name}: columns {first} and {number} are both named {name!r}")
        problem = name_problem(name)
        if problem:
            raise UsageError(f"{path.name}: the name of column {number}, {name!r}, {problem}")


def _check_broken(path: Path, left_out: Sequence[LeftOut], good: int) -> None:
    broken = sum(len(one.lines) for one in left_out)
    if broken > MOST_BROKEN * (broken + good):
        first = left_out[0]
        raise UsageError(
            f"{path.name}: {broken:,} of {broken + good:,} rows are broken, among them those with "
            f"{first.reason} ({named_lines(first.lines)})"
        )


def _frame(names: Sequence[str], rows: Sequence[Sequence[str | None]]) -> pl.DataFrame:
    schema = dict.fromkeys(names, pl.String)
    return pl.DataFrame([list(row) for row in rows], schema=schema, orient="row")


def _missing_as_null(frame: pl.DataFrame) -> pl.DataFrame:
    stripped = frame.select(pl.all().str.strip_chars())
    return stripped.select(
        pl.when(pl.col(name).is_in(list(MISSING_WORDS)))
        .then(None)
        .otherwise(pl.col(name))
        .alias(name)
        for name in stripped.columns
    )


def _read_ndjson(path: Path, content: bytes) -> Table:
    text = _decoded(path, content)
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    broken: list[int] = []
    for line, one in enumerate(text.split("\n"), start=1):
        if not one.strip():
            continue
        try:
            row = json.loads(one)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
            lines.append(line)
        else:
            broken.append(line)
    left_out = (LeftOut("not an object in JSON", tuple(broken)),) if broken else ()
    _check_broken(path, left_out, len(rows))
    names = list(dict.fromkeys(name for row in rows for name in row))
    _check_names(path, names)
    native = {name: _json_kind(path, name, rows, lines) for name in names}
    frame = _frame(names, [[_json_text(row.get(name)) for name in names] for row in rows])
    found = {name: kind for name, kind in native.items() if kind is not None}
    return Table(path.name, frame, np.array(lines, dtype=np.int64), found, left_out)


def _json_kind(
    path: Path, name: str, rows: Sequence[dict[str, Any]], lines: Sequence[int]
) -> Native | None:
    """One kind of value in a column of JSON; None where all are missing.

    Raises:
        UsageError: there are two, or lists and objects.
    """
    kinds: dict[type, Native] = {str: "text", bool: "boolean", int: "number", float: "number"}
    found: tuple[Native, int] | None = None
    for row, line in zip(rows, lines, strict=True):
        value = row.get(name)
        if value is None:
            continue
        kind = kinds.get(type(value))
        if kind is None:
            raise UsageError(
                f"{path.name}, line {line}: {name!r} holds a {type(value).__name__}; a cell is "
                "text, a number, true, false or null"
            )
        if found is not None and kind != found[0]:
            raise UsageError(
                f"{path.name}: column {name!r} has mixed types: {found[0]} in line {found[1]}, "
                f"{kind} in line {line}"
            )
        found = found or (kind, line)
    return found[0] if found else None


def _json_text(value: Any) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _read_parquet(path: Path, content: bytes) -> Table:
    try:
        typed = pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, OSError) as error:
        said = str(error).partition("\n")[0]
        raise UsageError(f"{path.name} is not a readable Parquet file: {said}") from None
    _check_names(path, typed.columns)
    native: dict[str, Native] = {}
    columns = []
    for series in map(_unpacked, typed):
        kind = _parquet_kind(series.dtype)
        if kind is None:
            raise UsageError(
                f"{path.name}: column {series.name!r} holds {series.dtype}; a cell is text, a "
                "number, a truth value, a date or the bytes of a picture. Leave the column out of "
                "the file"
            )
        if series.null_count() < len(series):
            native[series.name] = kind
        columns.append(series if kind == "bytes" else _as_text(series, kind))
    lines = np.arange(1, len(typed) + 1, dtype=np.int64)
    return Table(path.name, pl.DataFrame(columns), lines, native)


def _unpacked(series: pl.Series) -> pl.Series:
    """A picture as Hugging Face's data sets have it, with its bytes or its path, as that alone."""
    if not isinstance(series.dtype, pl.Struct):
        return series
    parts = {field.name: series.struct.field(field.name) for field in series.dtype.fields}
    if set(parts) != {"bytes", "path"}:
        return series
    found = parts["path" if parts["bytes"].is_null().all() else "bytes"]
    return found.rename(series.name)


def _parquet_kind(dtype: pl.DataType) -> Native | None:
    if dtype.is_numeric():
        return "number"
    if dtype == pl.Boolean:
        return "boolean"
    if dtype in (pl.Date, pl.Datetime):
        return "date"
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return "text"
    if dtype == pl.Binary:
        return "bytes"
    return None


def _as_text(series: pl.Series, kind: Native) -> pl.Series:
    if kind == "number" and series.dtype.is_float():
        series = series.fill_nan(None)
    if kind == "date":
        series = series.dt.to_string("iso")
    text = series.cast(pl.String)
    return text.replace("", None) if kind == "text" else text
