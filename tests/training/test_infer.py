from pathlib import Path

import numpy as np
import pytest

from training.data.files import read_table
from training.data.infer import Column, finite_column, infer
from training.data.records import Table
from training.errors import UsageError

pytestmark = pytest.mark.training

ROWS = 60


def table_of(tmp_path: Path, **columns: list[object]) -> Table:
    path = tmp_path / "t.csv"
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(map(str, row)) for row in (columns, *rows)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_table(path)


def guessed(tmp_path: Path, values: list[object], name: str = "x", **given: str) -> Column:
    table = table_of(tmp_path, **{name: values, "other": list(range(len(values)))})
    return infer(table, [name], given)[0]


@pytest.mark.parametrize(
    ("values", "kind", "why"),
    [
        ([1.5, 2, "1e3", -4] * 15, "number", "all values are numbers"),
        ([3, 4, 7, 4] * 15, "number", "all values are whole numbers"),
        (["", 4, 7, 4] * 15, "number", "all values are numbers"),
        (["red", "blue", "", "blue"] * 15, "category", "text, 2 values"),
        (["00417", "12345", "02345"] * 20, "category", "text, 3 values"),
        (["True", "False", "", "True"] * 15, "boolean", "two truth values"),
        (["yes", "no"] * 30, "boolean", "two truth values"),
        (["2024-05-17", "2023-01-02"] * 30, "drop", "dates; days to come"),
        (["17.05.2024 ", "02.01.2023"] * 30, "drop", "dates; days to come"),
        ([""] * 60, "drop", "no row has a value"),
        (["same"] * 60, "drop", "all values are 'same'"),
        (list(range(7, 67)), "drop", "numbers of the rows"),
        ([f"name {i}" for i in range(60)], "drop", "nearly every row has a text of its own"),
        ([f"name {i // 3}" for i in range(60)], "drop", "none of its 20 values is in 5 rows"),
        ([f"name {i // 5}" for i in range(60)], "category", "text, 12 values"),
    ],
)
def test_kinds_are_guessed_with_a_reason(tmp_path: Path, values: list[object], kind: str, why: str):
    found = guessed(tmp_path, values)

    assert (found.kind, found.why[: len(why)]) == (kind, why)
    assert found.missing == values.count("") / ROWS


def test_identifiers_are_known_by_name_too(tmp_path: Path):
    values: list[object] = [i * i for i in range(60)]

    assert guessed(tmp_path, values, "customer_id").kind == "drop"
    assert guessed(tmp_path, values, "area").kind == "number"


def test_mixed_types_are_refused_with_the_line(tmp_path: Path):
    values: list[object] = [*range(57), "none", "?", 3.5]

    with pytest.raises(UsageError) as caught:
        guessed(tmp_path, values)

    assert str(caught.value) == (
        "t.csv: column 'x' has mixed types: 2 of 60 values are no numbers, such as 'none' "
        "(lines 59, 60); say x=number as a field to take these as missing, or x=category"
    )
    assert guessed(tmp_path, values, x="category").kind == "category"


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (["a", "b"] * 30, "number", "no value of the column is a number"),
        (["a", "b", "c"] * 20, "boolean", "the column has 3 values"),
        (["a", "b"] * 30, "date", "are not dates of one form, such as 2024-05-17; an example"),
        (["01/02/2024", "03/04/2024"] * 30, "date", "are not dates of one form"),
        ([""] * 60, "number", "no value of the column is a number"),
        (["a", "b"] * 30, "integer", "kinds are number, category"),
    ],
)
def test_a_kind_that_does_not_fit_is_refused(
    tmp_path: Path, values: list[object], kind: str, message: str
):
    with pytest.raises(UsageError, match=message):
        guessed(tmp_path, values, x=kind)


def test_an_unknown_column_brings_the_nearest(tmp_path: Path):
    with pytest.raises(UsageError, match=r"no column 'othr' \(did you mean 'other'\?\)"):
        guessed(tmp_path, [1, 2, 4], othr="number")


def numbers(tmp_path: Path, values: list[object]) -> tuple[np.ndarray, tuple[str, ...]]:
    table = table_of(tmp_path, x=values)
    (column,) = infer(table, ["x"], {"x": "number"})
    return finite_column(table, column)


def test_numbers_that_cannot_be_are_missing_and_told(tmp_path: Path):
    values, remarks = numbers(tmp_path, ["1", "inf", "-1e39", "?", "NA", *["2.5"] * 15])

    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, [1, np.nan, np.nan, np.nan, np.nan, *[2.5] * 15])
    assert remarks == (
        "column 'x': 1 taken as missing that are no number (line 5)",
        "column 'x': 2 taken as missing that are infinite, or too large (lines 3, 4)",
    )


def test_a_number_whose_square_overflows_among_others_is_missing(tmp_path: Path):
    values, remarks = numbers(tmp_path, [*range(30), "3.3e38", "1e20"])

    assert np.flatnonzero(np.isnan(values)).tolist() == [30, 31]
    assert remarks == (
        "column 'x': 2 taken as missing that are infinite, or too large (lines 32, 33)",
    )


def test_a_column_of_large_numbers_is_taken_as_it_is(tmp_path: Path):
    values, remarks = numbers(tmp_path, [f"{n}e30" for n in range(30)])

    assert (float(values.max()), remarks) == (pytest.approx(29e30), ())


def test_a_column_of_numbers_too_large_for_float32_is_refused_with_lines(tmp_path: Path):
    with pytest.raises(UsageError, match=r"30 numbers of column 'x' are .* such as 1e38 \(lines 2"):
        numbers(tmp_path, ["1e38", "-1e38"] * 15)


def test_a_nul_is_told_with_its_line(tmp_path: Path):
    values: list[object] = [1.5] * 58 + ["\0", "1\0"]

    with pytest.raises(UsageError, match=r"'x' holds NUL characters \(lines 60, 61\): the file is"):
        guessed(tmp_path, values)
    assert guessed(tmp_path, values, x="number").kind == "number"


@pytest.mark.parametrize("form", ["1970-01-11", "11.01.1970", "1970-01-11T00:00:00Z", "1970/01/11"])
def test_dates_are_days_since_1970(tmp_path: Path, form: str):
    table = table_of(tmp_path, x=[form, form])
    (column,) = infer(table, ["x"], {"x": "date"})

    assert finite_column(table, column)[0].tolist() == [10, 10]


def test_days_and_months_are_told_apart_by_the_values(tmp_path: Path):
    table = table_of(tmp_path, x=["01/02/1970", "31/01/1970"])
    (column,) = infer(table, ["x"], {"x": "date"})

    assert finite_column(table, column)[0].tolist() == [31, 30]
