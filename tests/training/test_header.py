from pathlib import Path

import polars as pl
import pytest

from training.data.files import read_table
from training.data.header import MOST_CHARACTERS, column_names

pytestmark = pytest.mark.training


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "a,b\n1,2\n"),
        ("t.csv", "\ufeffa, b \r\n1,2\r\n"),
        ("t.csv", "\n\na,b\n1,2\n"),
        ("t.csv", '"a, b","c\n"\n1,2\n'),
        ("t.csv", "La\u0308nge;b\n1;2\n"),
        ("t.txt", "a|b\n1|2\n"),
        ("t.csv", "a;b,c\n1;2,3\n"),
        ("t.TSV", "a,b\tc\n1\t2\n"),
        ("t.csv", "a\n1\n"),
    ],
)
def test_the_beginning_tells_the_columns_that_are_read(name: str, content: str, tmp_path: Path):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")

    assert column_names(path) == tuple(read_table(path).frame.columns)


def test_of_parquet_the_schema_is_read(tmp_path: Path):
    pl.DataFrame({"a ": [1], "b": ["x"]}).write_parquet(tmp_path / "t.parquet")

    assert column_names(tmp_path / "t.parquet") == ("a", "b")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b""),
        ("t.csv", b"a,a\n1,2\n"),
        ("t.csv", b"a,\xff\n1,2\n"),
        ("t.csv", b'a,"b\n1,2\n'),
        ("t.csv", b"a,b" + b" " * MOST_CHARACTERS + b"\n1,2\n"),
        ("t.ndjson", b'{"a": 1}\n'),
        ("t.parquet", b"PAR1 and no more"),
        ("t.xlsx", b"PK"),
    ],
)
def test_what_the_beginning_does_not_tell_is_left_to_the_reader(
    name: str, content: bytes, tmp_path: Path
):
    (tmp_path / name).write_bytes(content)

    assert column_names(tmp_path / name) is None


def test_a_file_that_is_not_there_tells_nothing(tmp_path: Path):
    assert column_names(tmp_path / "t.csv") is None
    assert column_names(tmp_path / "t.parquet") is None
