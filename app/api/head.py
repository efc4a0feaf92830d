"""What is judged by a request's head, before any of its body is read."""

import itertools
import re
import secrets
from collections.abc import Mapping
from typing import Final

from app.api.reply import JSON, REQUEST_ID_HEADER
from app.errors import (
    MalformedBody,
    ModelportError,
    PayloadTooLarge,
    RequestError,
    Unavailable,
    UnsupportedMediaType,
)

#: Header names in lower case.
Headers = Mapping[bytes, bytes]

TIMEOUT_HEADER: Final = b"modelport-timeout-ms"
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_MAX_TIMEOUT_MS: Final = 3_600_000
_SHORT_BODY_BYTES: Final = 64 * 1024
_PROCESS_ID: Final = secrets.token_hex(6)
_numbers: Final = itertools.count(1)


def request_id(headers: Headers) -> str:
    """The caller's own id where it is a plain short word, else a new one."""
    given = headers.get(REQUEST_ID_HEADER)
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return f"{_PROCESS_ID}-{next(_numbers):x}"


def check_head(headers: Headers, max_body_bytes: int) -> None:
    """Refuse what can be refused before the body is read.

    Raises:
        UnsupportedMediaType: not JSON, or compressed.
        PayloadTooLarge: the announced length is over the limit.
        RequestError: the length is not a number.
        MalformedBody: tensors are announced as binary.
    """
    media_type = headers.get(b"content-type")
    if media_type is not None and media_type.partition(b";")[0].strip().lower() != JSON:
        raise UnsupportedMediaType("send the body as Content-Type: application/json")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMediaType("send the body without Content-Encoding")
    if b"inference-header-content-length" in headers:
        raise MalformedBody("binary tensor data is not supported; send JSON tensors")
    length = headers.get(b"content-length")
    if length is None:
        return
    if not length.isdigit():
        raise RequestError("Content-Length must be a whole number")
    if len(length) > 18 or int(length) > max_body_bytes:
        raise too_large(max_body_bytes)


def body_bytes(headers: Headers) -> int:
    """The announced length of the body, 0 where it is not; `check_head` has judged it."""
    return int(headers.get(b"content-length", b"0"))


def may_stay_open(error: ModelportError, headers: Headers) -> bool:
    """Whether the connection can take another request after a refusal by the head.

    The rest of the body is still to come and has to be swallowed. Where it is short, that costs
    less than a new connection, which matters to a service that refuses because it is overloaded.
    """
    if not isinstance(error, Unavailable) or b"expect" in headers:
        return False
    return b"content-length" in headers and body_bytes(headers) <= _SHORT_BODY_BYTES


def too_large(max_body_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {max_body_bytes} bytes")


def timeout_ms(headers: Headers) -> int | None:
    """The request's own time limit, None where it has none.

    Raises:
        RequestError: it is not a whole number in range.
    """
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return None
    if not given.isdigit() or len(given) > 9 or not 1 <= int(given) <= _MAX_TIMEOUT_MS:
        raise RequestError(
            f"Modelport-Timeout-Ms must be a whole number from 1 to {_MAX_TIMEOUT_MS}"
        )
    return int(given)
