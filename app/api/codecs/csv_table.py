"""Typed rows as comma-separated values: a line with field names, then an instance a line.

Source: RFC 4180. An empty cell without quotes is missing where its field may be; numbers are
written as in JSON. Rows are checked as in the typed JSON form.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import orjson
from pydantic import ValidationError

from app.api.codecs import CSV, Content, Decoded, Headers, ModelRef, accepts, never
from app.api.codecs.instance_check import request_adapter
from app.api.codecs.rows import Row, RowsCodec, invalid
from app.bundle.signature import (
    InputField,
    IntegerField,
    NumberField,
    ScoresPrediction,
    SeriesField,
    Signature,
    TensorField,
    TensorPrediction,
)
from app.bundle.tensors import Array
from app.errors import Detail, MalformedBody, UnsupportedMediaType, ValidationFailed

#: A cell up to its end, in quotes or not. Possessive, so that it never searches bytes twice.
_CELL: Final = re.compile(r'(?:"([^"]*+(?:""[^"]*+)*+)"|([^",\r\n]*+))(?=,|\r?\n|\Z)')
_LINE_END: Final = re.compile(r"\r?\n")
_CHARSET: Final = re.compile(rb";\s*charset\s*=\s*\"?([^\s\";]*)", re.IGNORECASE)
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]*+)", re.ASCII)
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?", re.ASCII)
#: No number that fits a tensor needs more.
_MAX_NUMBER_CHARACTERS: Final = 400
_NEEDS_QUOTES: Final = re.compile(r'[",\r\n]')

#: A cell's text; None for an empty one without quotes.
Cell = str | None


class Table(NamedTuple):
    """Checked rows, the line and the columns of each, and whether the answer shall be a table."""

    rows: list[Row]
    lines: Sequence[int]
    columns: Mapping[str, int]
    wants_table: bool


def fits(signature: Signature) -> bool:
    """A cell holds one value, or a picture in base64."""
    return not any(isinstance(field, SeriesField | TensorField) for field in signature.fields)


class CsvCodec(RowsCodec):
    """See `app.api.codecs.Codec`. With `Accept: text/csv` it answers with a table."""

    def __init__(self, signature: Signature, max_rows: int) -> None:
        super().__init__(signature, max_rows)
        self._adapter = request_adapter(signature, max_rows)
        self._readers = {name: _reader(field) for name, field in self._fields.items()}
        self._can_answer = not any(isinstance(p, TensorPrediction) for p in signature.predictions)

    def parse(self, body: bytes, headers: Headers) -> Table:
        records = _records(_text(body, headers), len(self._fields))
        names = self._names(next(records, (1, []))[1])
        readers = [(name, self._readers[name]) for name in names]
        rows: list[dict[str, Any]] = []
        lines: list[int] = []
        for line, cells in records:
            if len(rows) == self._max_rows:
                raise self._too_many_rows()
            if len(cells) != len(names):
                raise MalformedBody(
                    f"line {line} has {len(cells)} cells, the first line names {len(names)} fields"
                )
            row: dict[str, Any] = {}
            for (name, read), cell in zip(readers, cells, strict=True):
                read(row, name, cell)
            rows.append(row)
            lines.append(line)
        columns = {name: column for column, name in enumerate(names, start=1)}
        table = Table(cast(list[Row], rows), lines, columns, self._wants_table(headers))
        try:
            self._adapter.validate_python({"instances": rows})
        except ValidationError as error:
            raise _placed(self._translate(error), table) from None
        return table

    def _wants_table(self, headers: Headers) -> bool:
        return self._can_answer and accepts(headers, CSV)

    def _names(self, cells: Sequence[Cell]) -> list[str]:
        """The first line as names of fields, each once, all that are required among them."""
        names: list[str] = []
        for column, cell in enumerate(cells, start=1):
            name = cell or ""
            if name not in self._fields:
                known = ", ".join(self._fields)
                place = ("header", name[:64])
                said = (
                    f"line 1, column {column}: Not a field of the model, leave it out; "
                    f"known: {known}"
                )
                raise invalid([Detail(place, said, "extra_forbidden")])
            if name in names:
                raise MalformedBody(f"name {name!r} appears twice in the first line")
            names.append(name)
        missing = [name for name, f in self._fields.items() if f.required and name not in names]
        if missing:
            said = "line 1: Field required; the first line must name it"
            raise invalid([Detail(("header", name), said, "missing") for name in missing])
        return names

    def takes_long(self, document: Table) -> bool:
        return super().takes_long(document.rows)

    def decode(self, document: Table, is_abandoned: Callable[[], bool] = never) -> Decoded:
        try:
            decoded = super().decode(document.rows, is_abandoned)
        except ValidationFailed as error:
            raise _placed(error, document) from None
        return Decoded(decoded.inputs, decoded.rows, {"table": document.wants_table})

    def encode(self, outputs: Mapping[str, Array], decoded: Decoded, model: ModelRef) -> Content:
        if not decoded.context["table"]:
            return super().encode(outputs, decoded, model)
        rows = self._predictions.rows(outputs, decoded.rows)
        lines = [self._answer_names(), *(_answer_cells(row) for row in rows)]
        return Content(
            b"".join(b",".join(line) + b"\r\n" for line in lines), ((b"content-type", CSV),)
        )

    def _answer_names(self) -> list[bytes]:
        names: list[str] = []
        for prediction in self._signature.predictions:
            if isinstance(prediction, ScoresPrediction):
                names += [f"{prediction.name}.{label}" for label in prediction.labels]
            else:
                names.append(prediction.name)
        return [_quoted(name) for name in names]


Read = Callable[[dict[str, Any], str, Cell], None]


def _reader(field: InputField) -> Read:
    """How a cell becomes a row's value. What is no number stays text, which the check refuses."""
    if isinstance(field, IntegerField):
        value: Callable[[str], Any] = _integer
    elif isinstance(field, NumberField):
        value = _number
    else:
        value = str

    def read(row: dict[str, Any], name: str, cell: Cell) -> None:
        if cell is not None:
            row[name] = value(cell)
        elif not field.nullable:
            row[name] = ""
        elif field.required:
            row[name] = None

    return read


def _integer(cell: str) -> int | str:
    return int(cell) if _is(_INTEGER, cell) else cell


def _number(cell: str) -> float | str:
    return float(cell) if _is(_NUMBER, cell) else cell


def _is(number: re.Pattern[str], cell: str) -> bool:
    return len(cell) <= _MAX_NUMBER_CHARACTERS and number.fullmatch(cell) is not None


def _text(body: bytes, headers: Headers) -> str:
    charset = _CHARSET.search(headers.get(b"content-type", b""))
    if charset is not None and charset[1].lower() not in (b"utf-8", b"us-ascii"):
        raise UnsupportedMediaType("send text/csv in UTF-8")
    try:
        return body.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise MalformedBody("body is not UTF-8") from None


def _records(text: str, most_cells: int) -> Iterator[tuple[int, list[Cell]]]:
    """Lines of cells, each with the number of its first line.

    Raises:
        MalformedBody: quotes that do not close, or more cells than there are fields.
    """
    at, line = 0, 1
    while at < len(text):
        begins = line
        cells: list[Cell] = []
        while True:
            where = f"line {line}, column {len(cells) + 1}"
            if len(cells) == most_cells:
                raise MalformedBody(f"{where}: there are only {most_cells} fields")
            cell = _CELL.match(text, at)
            if cell is None:
                raise MalformedBody(
                    f"{where}: a cell with quotes or line breaks must be in quotes, its quotes"
                    " doubled"
                )
            quoted, plain = cell.groups()
            cells.append((plain or None) if quoted is None else quoted.replace('""', '"'))
            line += (quoted or "").count("\n")
            at = cell.end()
            if not text.startswith(",", at):
                break
            at += 1
        end = _LINE_END.match(text, at)
        at = end.end() if end else at
        line += 1
        yield begins, cells


def _placed(error: Exception, table: Table) -> Exception:
    """The same fault with the line and the column where it is."""
    if not isinstance(error, ValidationFailed):
        return error
    return invalid([_placed_detail(detail, table) for detail in error.details])


def _placed_detail(detail: Detail, table: Table) -> Detail:
    if len(detail.loc) < 3:
        return detail
    _, row, name, *_ = detail.loc
    column = table.columns.get(str(name))
    where = f"line {table.lines[int(row)]}" + (f", column {column}" if column else "")
    return Detail(detail.loc, f"{where}: {detail.msg}", detail.type)


def _answer_cells(row: Mapping[str, Any]) -> list[bytes]:
    cells: list[bytes] = []
    for value in row.values():
        for one in value.values() if isinstance(value, dict) else (value,):
            if isinstance(one, str):
                cells.append(_quoted(one))
            else:
                cells.append(orjson.dumps(one, option=orjson.OPT_SERIALIZE_NUMPY))
    return cells


def _quoted(text: str) -> bytes:
    if text and not _NEEDS_QUOTES.search(text):
        return text.encode()
    return '"{}"'.format(text.replace('"', '""')).encode()
