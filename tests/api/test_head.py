"""What is judged by a request's head alone."""

import pytest

from app.api.head import may_stay_open
from app.errors import Draining, ModelportError, Overloaded, PayloadTooLarge


@pytest.mark.parametrize(
    ("error", "headers", "stays"),
    [
        (Overloaded("full"), {b"content-length": b"100"}, True),
        (Draining("closing"), {b"content-length": b"65536"}, True),
        (Overloaded("full"), {b"content-length": b"65537"}, False),
        (Overloaded("full"), {}, False),
        (Overloaded("full"), {b"content-length": b"9", b"expect": b"100-continue"}, False),
        (PayloadTooLarge("large"), {b"content-length": b"100"}, False),
    ],
)
def test_a_connection_outlives_a_refusal_where_little_is_left_to_swallow(
    error: ModelportError, headers: dict[bytes, bytes], stays: bool
) -> None:
    assert may_stay_open(error, headers) == stays
