"""An answer as the bytes that go over a connection."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from app.api.reply import Reply

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_CLOSE: Final = b"connection: close\r\n"


def head(reply: Reply, common: bytes, *, close: bool) -> bytes:
    """Status line and header fields.

    Args:
        common: fields of every answer, as `fields` gives them.
        close: this is the connection's last answer.
    """
    parts = [_STATUS_LINES[reply.status], common]
    for name, value in reply.headers:
        parts += (name, b": ", value, b"\r\n")
    # A refusal that must end the connection brings the field itself.
    parts.append(b"\r\n" if reply.close or not close else _CLOSE + b"\r\n")
    return b"".join(parts)


def fields(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)
