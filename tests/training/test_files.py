from pathlib import Path

import numpy as np
import polars as pl
import pytest

from training.data.files import read_table
from training.data.records import Table
from training.data.target import find_goal
from training.errors import EnvironmentTrouble, UsageError

pytestmark = pytest.mark.training

GOOD = [f"{number},word {number % 3}" for number in range(40)]


def write(tmp_path: Path, lines: list[str] | bytes | str, name: str = "table.csv") -> Path:
    path = tmp_path / name
    text = "\n".join(lines) if isinstance(lines, list) else lines
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(tmp_path: Path, lines: list[str] | bytes | str, name: str = "table.csv") -> Table:
    return read_table(write(tmp_path, lines, name))


def test_cells_are_text_and_lines_are_those_of_the_file(tmp_path: Path):
    table = read(tmp_path, 'Länge (cm), "b" \r\n1.50, x \r\n\r\n"two\r\nlines",NA\r\n,y\r\n')

    assert table.frame.columns == ["Länge (cm)", '"b"']
    assert table.frame.rows() == [("1.50", "x"), ("two\r\nlines", None), (None, "y")]
    assert table.lines.tolist() == [2, 4, 6]


@pytest.mark.parametrize(
    ("name", "text"),
    [("t.tsv", "a\tb\n1\t2"), ("t.csv", "a;b\n1;2"), ("t.csv", "\ufeffa,b\n1,2"),
     ("t.ndjson", '{"a": "1", "b": "2"}\n')],
)  # fmt: skip
def test_forms_of_text_give_the_same_table(tmp_path: Path, name: str, text: str):
    assert read(tmp_path, text, name).frame.rows() == [("1", "2")]


def test_parquet_and_json_lines_say_what_columns_hold(tmp_path: Path):
    frame = pl.DataFrame({"n": [1.5, float("nan")], "t": ["1", None], "b": [True, False]})
    frame = frame.with_columns(pl.Series("d", ["2024-05-17", None]).str.to_date())
    frame.write_parquet(tmp_path / "t.parquet")
    lines = '{"n": 1.5, "t": "1", "b": true}\n{"n": NaN, "b": false}\n'

    typed, json = read_table(tmp_path / "t.parquet"), read(tmp_path, lines, "t.ndjson")

    assert typed.native == {"n": "number", "t": "text", "b": "boolean", "d": "date"}
    assert typed.frame.rows() == [("1.5", "1", "true", "2024-05-17"), (None, None, "false", None)]
    assert json.native == {"n": "number", "t": "text", "b": "boolean"}
    assert json.frame.rows() == [("1.5", "1", "true"), (None, None, "false")]


def test_bytes_in_parquet_are_kept_and_told_where_they_make_no_sense(tmp_path: Path):
    frame = pl.DataFrame(
        {
            "raw": [b"\xff\xd8\xff", None],
            "hub": [{"bytes": b"RIFF", "path": "a.webp"}] * 2,
            "lean": [{"bytes": None, "path": "a.png"}] * 2,
        }
    )
    frame.write_parquet(tmp_path / "t.parquet")

    table = read_table(tmp_path / "t.parquet")

    assert table.native == {"raw": "bytes", "hub": "bytes", "lean": "text"}
    assert table.frame.rows() == [(b"\xff\xd8\xff", b"RIFF", "a.png"), (None, b"RIFF", "a.png")]
    with pytest.raises(UsageError, match="column 'raw' holds bytes, which can be pictures only"):
        find_goal(table, ("raw",), "auto")


def test_rows_of_another_length_are_left_out_and_told_with_their_lines(tmp_path: Path):
    lines = ["a,b", *GOOD[:20], "1", *GOOD[20:], "1,2,3"]

    table = read(tmp_path, lines)

    assert len(table.frame) == 40
    assert [str(one) for one in table.left_out] == [
        "1 row is left out: too few cells for 2 columns (line 22)",
        "1 row is left out: too many cells for 2 columns (line 43)",
    ]


def test_rows_that_are_taken_away_are_told(tmp_path: Path):
    table = read(tmp_path, ["a,b", *GOOD]).without(np.arange(40) % 5 == 0, "by request")

    assert str(table.left_out[0]) == (
        "8 rows are left out: by request (lines 2, 7, 12, 17, 22 and 3 more)"
    )
    assert table.lines.tolist()[:5] == [3, 4, 5, 6, 8]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "t.csv", "t.csv is empty"),
        ("\n\n", "t.csv", "t.csv is empty"),
        ("a,b\n", "t.csv", "has names of columns, but no rows"),
        ("a,b\n1,2\nn\xfc,3".encode("latin-1"), "t.csv", "line 3: byte 0xfc is not UTF-8"),
        ("a,b\n1,2".encode("utf-16"), "t.csv", "line 1: byte 0xff is not UTF-8"),
        ("a,b,a\n1,2,3", "t.csv", "columns 1 and 3 are both named 'a'"),
        ("a,e\u0301,\u00e9\n1,2,3", "t.csv", "columns 2 and 3 are both named 'é'"),
        ("a,,c\n1,2,3", "t.csv", "column 2 has no name"),
        ("a,b\u200bc\n1,2", "t.csv", "the name of column 2, 'b.+u200bc', must hold no control"),
        ('a,b\n1,2\n"1,2\n3,4', "t.csv", "line 3: unexpected end of data"),
        ('a,b\n1,"x"y', "t.csv", "line 2: ',' expected after '\"'"),
        ("a,b\n1\n2\n1,2", "t.csv", "2 of 3 rows are broken, among them .*too few cells"),
        ("not json", "t.jsonl", "1 of 1 rows are broken"),
        ('{"a": 1}\n{"a": "x"}', "t.jsonl", "'a' has mixed types: number in line 1, text in line"),
        ('{"a": [1]}', "t.jsonl", "line 1: 'a' holds a list"),
        ("PAR1 and so on", "t.parquet", "is not a readable Parquet file"),
        ("a,b", "t.xlsx", "files end in one of .csv"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(
    tmp_path: Path, text: str | bytes, name: str, message: str
):
    with pytest.raises(UsageError, match=message) as caught:
        read(tmp_path, text, name)

    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_trouble_of_the_environment(tmp_path: Path):
    with pytest.raises(EnvironmentTrouble, match=r"none\.csv cannot be read: No such file"):
        read_table(tmp_path / "none.csv")
