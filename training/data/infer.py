"""What a column of a table holds: guessed from its values, or as its owner says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from app.bundle.tensors import Array
from training.data.header import no_column
from training.data.kinds import KINDS, Kind
from training.data.picture_cells import hold_pictures
from training.data.records import Table, named_lines
from training.data.words import FEWEST
from training.errors import UsageError

#: Spellings of two truth values, in lower case, the false one first.
TRUTHS: Final = (("false", "true"), ("no", "yes"), ("f", "t"), ("n", "y"))
DATE_FORMATS: Final = (
    "%Y-%m-%d",
    "%Y-%m-%dT%H:%M:%S%.fZ",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
)
#: A column of which this share is numbers, but not all, is one or the other: its owner must say.
MOSTLY: Final = 0.8
#: A text column in which more than this share of the values are met once says who, not what.
MOSTLY_DISTINCT: Final = 0.9
#: Below it no column is said to be an identifier.
FEWEST_TO_JUDGE: Final = 20
LARGEST: Final = float(np.finfo(np.float32).max)
#: The square of a larger number is infinite in float32.
SQUARABLE: Final = LARGEST**0.5
#: Differences of numbers up to this are finite in float32, with room to spare.
SUBTRACTABLE: Final = LARGEST / 16
#: Few numbers that are too large are errors, or stand for missing; more are the column's nature.
FEW: Final = 0.1


@dataclass(frozen=True)
class Column:
    """A column, what it is taken for, and why.

    Attributes:
        missing: share of the rows, 0–1, that have no value.
        example: a value as the file has it; empty where there is none.
    """

    name: str
    kind: Kind
    why: str
    missing: float
    example: str


def infer(table: Table, names: Sequence[str], given: Mapping[str, str]) -> tuple[Column, ...]:
    """The kinds of some columns of a table.

    Args:
        given: kinds that the owner chose, by name of column.
    Raises:
        UsageError: an unknown column or kind is given, a column has mixed types, or its values
            do not fit the kind that was given.
    """
    for name, kind in given.items():
        known_column(table, name)
        if kind not in KINDS:
            raise UsageError(f"field {name}={kind}: kinds are {', '.join(KINDS)}")
    return tuple(_column(table, name, given.get(name)) for name in names)


def known_column(table: Table, name: str) -> str:
    """The name itself.

    Raises:
        UsageError: the table has no such column; the message has the nearest.
    """
    columns = table.frame.columns
    if name in columns:
        return name
    raise no_column(table.name, name, columns)


def text_column(table: Table, name: str) -> str:
    """As `known_column`, for a column that may not hold bytes."""
    if table.native.get(known_column(table, name)) == "bytes":
        raise UsageError(
            f"{table.name}: column {name!r} holds bytes, which can be pictures only; say "
            f"{name}=image, or {name}=drop"
        )
    return name


def _column(table: Table, name: str, given: str | None) -> Column:
    series = table.frame[name]
    present = series.drop_nulls()
    missing = 1 - len(present) / len(series)
    if given is None:
        kind, why = _guess(table, name, present)
    else:
        kind, why = _as_given(table, name, given)
    example = present[0] if len(present) else ""
    shown = f"{len(example):,} bytes" if isinstance(example, bytes) else example
    return Column(name, kind, why, missing, shown)


def _guess(table: Table, name: str, present: pl.Series) -> tuple[Kind, str]:
    if len(present) == 0:
        return "drop", "no row has a value"
    if table.native.get(name) == "bytes":
        if hold_pictures(table, present):
            return "image", "bytes of pictures"
        return "drop", "bytes that are no pictures"
    check_nul(table, name)
    distinct = present.n_unique()
    if distinct == 1:
        return "drop", f"all values are {present[0]!r}"
    native = table.native.get(name)
    if native == "number" or (native is None and _are_numbers(present)):
        return _guess_number(name, present, len(table.frame))
    if native == "boolean" or truth_values(present) is not None:
        return "boolean", "two truth values"
    if native == "date" or (native is None and days_of(present) is not None):
        why = f"dates; days to come are unlike any seen, {name}=date takes it nevertheless"
        return "drop", why
    if native is None:
        _check_mixed(table, name)
    if hold_pictures(table, present):
        return "image", "names of picture files"
    if distinct > MOSTLY_DISTINCT * len(present) and len(present) >= FEWEST_TO_JUDGE:
        own = f"nearly every row has a text of its own ({distinct:,} of {len(present):,})"
        return "drop", f"{own}; {name}=text learns from the texts alone"
    if len(present) >= FEWEST_TO_JUDGE and _most_met(present) < FEWEST:
        rare = f"none of its {distinct:,} values is in {FEWEST} rows, so that all were unknown"
        return "drop", f"{rare}; {name}=category takes it nevertheless"
    return "category", f"text, {distinct:,} values"


def _most_met(present: pl.Series) -> int:
    """Rows of the most frequent value."""
    return int(np.max(present.unique_counts().to_numpy()))


def check_nul(table: Table, name: str) -> None:
    """Raise UsageError where a cell has a NUL: no table has one on purpose."""
    wrong = table.frame[name].str.contains("\0", literal=True).fill_null(value=False).to_numpy()
    if wrong.any():
        lines = table.lines_where(wrong)
        raise UsageError(
            f"{table.name}: column {name!r} holds NUL characters ({named_lines(lines)}): the file "
            "is damaged, or not in UTF-8. Write it anew, or without this column"
        )


def _guess_number(name: str, present: pl.Series, rows: int) -> tuple[Kind, str]:
    values = numbers_of(present)
    finite = values.filter(values.is_finite())
    whole = len(finite) == rows and bool((finite == finite.round()).all())
    if whole and finite.n_unique() == rows and rows >= FEWEST_TO_JUDGE:
        low, high = _ends(finite)
        if high - low == rows - 1:
            return "drop", "numbers of the rows"
        if name.lower().replace("_", " ").split()[-1] in ("id", "nr", "key", "index", "number"):
            return "drop", "an identifier by name, and different in every row"
    return "number", "all values are whole numbers" if whole else "all values are numbers"


def _ends(values: pl.Series) -> tuple[float, float]:
    array = values.to_numpy()
    return float(array.min()), float(array.max())


def _as_given(table: Table, name: str, kind: str) -> tuple[Kind, str]:
    """Check that the values fit the kind."""
    present = table.frame[name].drop_nulls()
    found = next(one for one in KINDS if one == kind)
    if found not in ("drop", "image"):
        text_column(table, name)
    if found == "number" and not numbers_of(present).is_not_null().any():
        raise UsageError(f"field {name}=number: no value of the column is a number")
    if found == "boolean" and present.n_unique() > 2:
        raise UsageError(f"field {name}=boolean: the column has {present.n_unique():,} values")
    if found == "date" and days_of(present) is None:
        raise UsageError(
            f"field {name}=date: the values are not dates of one form, such as 2024-05-17; "
            f"an example is {present[0] if len(present) else 'missing'!r}"
        )
    if found != "drop" and len(present) == 0:
        raise UsageError(f"field {name}={kind}: no row has a value")
    return found, "as given"


def _are_numbers(present: pl.Series) -> bool:
    """Codes such as 00417 are not: as numbers they would lose their zeros."""
    return not numbers_of(present).has_nulls() and not present.str.contains(r"^0\d").any()


def _check_mixed(table: Table, name: str) -> None:
    """Raise UsageError where most values are numbers and some are not."""
    series = table.frame[name]
    wrong = (series.is_not_null() & numbers_of(series).is_null()).to_numpy()
    present = len(series) - series.null_count()
    if wrong.sum() <= (1 - MOSTLY) * present and not series.str.contains(r"^0\d").any():
        lines = table.lines_where(wrong)
        example = series.filter(pl.Series(wrong))[0]
        raise UsageError(
            f"{table.name}: column {name!r} has mixed types: {len(lines):,} of {present:,} values "
            f"are no numbers, such as {example!r} ({named_lines(lines)}); say {name}=number as a "
            f"field to take these as missing, or {name}=category"
        )


def numbers_of(series: pl.Series) -> pl.Series:
    """float64; null where the text is no number."""
    return series.cast(pl.Float64, strict=False)


def truth_values(present: pl.Series) -> tuple[str, str] | None:
    """The spellings of false and true where a column has just these."""
    spellings = present.unique().to_list()
    lower = {spelling.lower(): spelling for spelling in spellings}
    for no, yes in TRUTHS:
        if len(spellings) == 2 and set(lower) == {no, yes}:
            return lower[no], lower[yes]
    return None


def days_of(series: pl.Series) -> pl.Series | None:
    """Days since 1970-01-01 as float64; None where the texts are not all dates of one form.

    Days and months are told apart by the values: 03/04 in all rows is of no known form.
    """
    present = series.drop_nulls()
    fitting = [one for one in DATE_FORMATS if not _parsed(present.head(100), one).has_nulls()]
    fitting = [one for one in fitting if not _parsed(present, one).has_nulls()]
    if not fitting or len(present) == 0 or set(fitting) == {"%d/%m/%Y", "%m/%d/%Y"}:
        return None
    seconds = _parsed(series, fitting[0]).dt.epoch("us").cast(pl.Float64) / 1e6
    return seconds / 86_400


def _parsed(series: pl.Series, form: str) -> pl.Series:
    if "%H" in form:
        return series.str.to_datetime(form, strict=False, time_unit="us")
    return series.str.to_date(form, strict=False).cast(pl.Datetime("us"))


def finite_column(table: Table, column: Column) -> tuple[Array, tuple[str, ...]]:
    """A column as float32 [rows], NaN where missing, and what had to be taken as missing.

    Args:
        column: a number or a date.
    """
    series = table.frame[column.name]
    parsed: Any = days_of(series) if column.kind == "date" else numbers_of(series)
    values = parsed.fill_null(np.nan).to_numpy().astype(np.float64)
    present = series.is_not_null().to_numpy()
    remarks = []
    for wrong, what in (
        (present & np.isnan(values), "no number"),
        (_too_large(table, column.name, values), "infinite, or too large"),
    ):
        if wrong.any():
            lines = table.lines_where(wrong)
            remarks.append(
                f"column {column.name!r}: {len(lines):,} taken as missing that are {what} "
                f"({named_lines(lines)})"
            )
            values = np.where(wrong, np.nan, values)
    return values.astype(np.float32), tuple(remarks)


def _too_large(table: Table, name: str, values: Array) -> Array:
    """bool [rows]: infinite, or so large that what is made of it in float32 would be infinite.

    Raises:
        UsageError: these are not few.
    """
    size = np.abs(np.nan_to_num(values, posinf=np.inf, neginf=-np.inf))
    present = ~np.isnan(values)
    finite = present & np.isfinite(size)
    few = FEW * present.sum()
    are_usual = (finite & (size > SQUARABLE)).sum() > few
    wrong = size > (SUBTRACTABLE if are_usual else SQUARABLE)
    finite &= wrong
    if finite.sum() > few:
        lines = table.lines_where(finite)
        raise UsageError(
            f"{table.name}: {len(lines):,} numbers of column {name!r} are too large for float32, "
            f"such as {table.frame[name].filter(pl.Series(finite))[0]} ({named_lines(lines)}); "
            f"divide all by a power of ten, write NA where they stand for missing ones, or say "
            f"{name}=drop as a field to leave the column out"
        )
    return np.asarray(wrong)
