"""The typed JSON form: `{"instances": [{field: value}]}` to `{"predictions": [{…}]}`.

The check of a request is compiled once from the signature.
"""

from typing import cast

from pydantic import ValidationError

from app.api.codecs import Headers
from app.api.codecs.instance_check import request_adapter
from app.api.codecs.json_guard import refuse_bulk, refuse_deep_nesting, refuse_duplicate_names
from app.api.codecs.rows import Row, RowsCodec
from app.bundle.signature import Signature


class InstancesCodec(RowsCodec):
    """See `app.api.codecs.Codec`."""

    def __init__(self, signature: Signature, max_rows: int) -> None:
        super().__init__(signature, max_rows)
        self._adapter = request_adapter(signature, max_rows)

    def parse(self, body: bytes, headers: Headers) -> list[Row]:  # noqa: ARG002
        refuse_deep_nesting(body)
        too_many = f"more than {self._max_rows} instances in one request, or names without number"
        refuse_bulk(body, 1 + self._max_rows, 1 + self._max_rows * len(self._fields), too_many)
        try:
            rows = cast(list[Row], self._adapter.validate_json(body)["instances"])
        except ValidationError as error:
            raise self._translate(error) from None
        refuse_duplicate_names(body, 1 + sum(map(len, rows)))
        return rows
