"""An answer as the bytes that go over a connection."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from app.api.codecs import JSON_CONTENT
from app.api.reply import Fields, Reply

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_CLOSE: Final = b"connection: close\r\n"
_OK: Final = 200
_MOST_REMEMBERED: Final = 256


def answer(reply: Reply, common: bytes, *, close: bool) -> bytes:
    """Status line, header fields and body.

    Args:
        common: fields of every answer, as `fields` gives them.
        close: this is the connection's last answer.
    """
    described, more = reply.described, reply.more
    body = reply.body
    return b"".join(
        (
            _STATUS_LINES[reply.status],
            common,
            _JSON if described is JSON_CONTENT else fields(described),
            b"content-length: %d\r\nx-request-id: " % len(body),
            reply.request.encode(),
            b"\r\n",
            _known.get(more) or _remember(more),
            b"\r\n" if reply.status == _OK and not close else _end(reply, close=close),
            body,
        )
    )


def _end(reply: Reply, *, close: bool) -> bytes:
    # A refusal that must end the connection brings the field itself.
    last = fields(reply.last_headers) + (_CLOSE if close and not reply.close else b"")
    return last + b"\r\n"


def _remember(headers: Fields) -> bytes:
    """Fields that are alike in many answers, such as what ran a model."""
    if len(_known) >= _MOST_REMEMBERED:
        _known.clear()
    made = _known[headers] = fields(headers)
    return made


def fields(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


_JSON: Final = fields(JSON_CONTENT)
_known: Final[dict[Fields, bytes]] = {}
