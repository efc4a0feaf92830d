"""Typed rows as JSON lines: an instance a line, each checked as in the typed JSON form."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import orjson
from pydantic import ValidationError

from app.api.codecs import NDJSON, Content, Decoded, Headers, ModelRef, accepts, never
from app.api.codecs.instance_check import row_adapter
from app.api.codecs.json_guard import refuse_bulk, refuse_deep_nesting, refuse_duplicate_names
from app.api.codecs.rows import MAX_DETAILS, Row, RowsCodec, invalid
from app.bundle.signature import Signature
from app.bundle.tensors import Array
from app.errors import Detail, MalformedBody, ValidationFailed


class Lines(NamedTuple):
    """Checked rows, and whether the answer shall be lines too."""

    rows: list[Row]
    wants_lines: bool


class NdjsonCodec(RowsCodec):
    """See `app.api.codecs.Codec`. With `Accept: application/x-ndjson` it answers in lines."""

    def __init__(self, signature: Signature, max_rows: int) -> None:
        super().__init__(signature, max_rows)
        self._adapter = row_adapter(signature)

    def parse(self, body: bytes, headers: Headers) -> Lines:
        text = body.removesuffix(b"\n")
        if text.count(b"\n") >= self._max_rows:
            raise self._too_many_rows()
        refuse_deep_nesting(text)
        too_many = f"more than {self._max_rows} instances in one request, or names without number"
        refuse_bulk(text, self._max_rows, self._max_rows * len(self._fields), too_many)
        lines = text.split(b"\n")
        rows = self._checked(lines)
        if text.count(b":") != sum(map(len, rows)):
            for line, row in zip(lines, rows, strict=True):
                refuse_duplicate_names(line, len(row))
        return Lines(rows, accepts(headers, NDJSON))

    def _checked(self, lines: list[bytes]) -> list[Row]:
        rows: list[Row] = []
        details: list[Detail] = []
        for index, line in enumerate(lines):
            try:
                rows.append(self._adapter.validate_json(line))
            except ValidationError as error:
                fault = self._translate(error, ("instances", index))
                if not isinstance(fault, ValidationFailed):
                    raise MalformedBody(f"line {index + 1}: {fault}") from None
                details += fault.details
                if len(details) >= MAX_DETAILS:
                    break
        if details:
            raise invalid(details[:MAX_DETAILS])
        return rows

    def takes_long(self, document: Lines) -> bool:
        return super().takes_long(document.rows)

    def decode(self, document: Lines, is_abandoned: Callable[[], bool] = never) -> Decoded:
        decoded = super().decode(document.rows, is_abandoned)
        return Decoded(decoded.inputs, decoded.rows, {"lines": document.wants_lines})

    def encode(self, outputs: Mapping[str, Array], decoded: Decoded, model: ModelRef) -> Content:
        if not decoded.context["lines"]:
            return super().encode(outputs, decoded, model)
        rows = self._predictions.rows(outputs, decoded.rows)
        option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        return Content(
            b"".join(orjson.dumps(row, option=option) for row in rows),
            ((b"content-type", NDJSON),),
        )
