"""The typed JSON form: `{"instances": [{field: value}]}` to `{"predictions": [{…}]}`.

The check of a request is compiled once from the signature.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from pydantic import ValidationError

from app.api.codecs import Content, Headers, ModelRef
from app.api.codecs.instance_check import request_adapter
from app.api.codecs.json_guard import refuse_bulk, refuse_deep_nesting, refuse_duplicate_names
from app.api.codecs.number_rows import NumberRows
from app.api.codecs.rows import Row, RowsCodec
from app.bundle.signature import Signature
from app.bundle.tensors import Array
from app.errors import RequestError


class InstancesCodec(RowsCodec):
    """See `app.api.codecs.Codec`."""

    def __init__(self, signature: Signature, max_rows: int) -> None:
        super().__init__(signature, max_rows)
        self._adapter = request_adapter(signature, max_rows)
        self._too_many = f"more than {max_rows} instances in one request, or names without number"
        self._lone = LoneRow(self, self._numbers) if self._numbers else None

    def parse(self, body: bytes, headers: Headers) -> list[Row]:  # noqa: ARG002
        refuse_deep_nesting(body)
        most = self._max_rows
        refuse_bulk(body, 1 + most, 1 + most * len(self._fields), self._too_many)
        try:
            rows = cast(list[Row], self._adapter.validate_json(body)["instances"])
        except ValidationError as error:
            raise self._translate(error) from None
        refuse_duplicate_names(body, 1 + sum(map(len, rows)))
        return rows

    def find(self, body: bytes, divided_at: int | None) -> "LoneRow | None":  # noqa: ARG002
        return self._lone

    def encode_together(
        self,
        outputs: Mapping[str, Array],
        known: "LoneRow",  # noqa: ARG002
        count: int,
        model: ModelRef,
    ) -> Sequence[Content] | None:
        return self._predictions.contents(outputs, count, model)


class LoneRow:
    """A request of one row of numbers; see `oip_known.Known`, whose place it takes."""

    has_time_limit = False

    def __init__(self, codec: InstancesCodec, rows: NumberRows) -> None:
        self._codec = codec
        self._rows = rows
        self.name, self.shape, self.dtype = rows.name, rows.shape, rows.dtype

    def numbers(self, body: bytes) -> bytes | None:
        """The row, packed; None for a request that has more, or has to be refused."""
        try:
            row, *others = self._codec.parse(body, {})
        except RequestError:
            return None
        return None if others else self._rows.pack(row)
