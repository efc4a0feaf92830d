"""What is judged by a request's head, before any of its body is read."""

import itertools
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from app.api.codecs import Headers, WireFormat
from app.api.codecs.oip_binary import HEAD_LENGTH
from app.api.inflate import ENCODINGS, Encoding
from app.api.reply import REQUEST_ID_HEADER
from app.errors import (
    MalformedBody,
    ModelportError,
    PayloadTooLarge,
    RequestError,
    Unavailable,
    UnsupportedMediaType,
)

TIMEOUT_HEADER: Final = b"modelport-timeout-ms"
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_MAX_TIMEOUT_MS: Final = 3_600_000
_SHORT_BODY_BYTES: Final = 64 * 1024
_PROCESS_ID: Final = secrets.token_hex(6)
_numbers: Final = itertools.count(1)


class Route(Protocol):
    """What a head needs of the route that it is for."""

    @property
    def name(self) -> str: ...

    @property
    def by_media_type(self) -> Mapping[bytes | None, WireFormat]: ...

    @property
    def formats(self) -> Sequence[WireFormat]: ...


class Head:
    """What a request's head says by itself, but for the length; requests with the same share it.

    Attributes:
        name: of the route.
        model, version: as addressed; None for the default, and for the one that is served.
        wire: the body's format, None where the route does not know it.
        encoding: how the body is compressed.
        timeout_s: the request's own time limit.
        given_id: the caller's own request id.
        is_divided: the body is said to be JSON and raw tensors.
        divided_at: the length of that JSON, where it is a number.
    """

    __slots__ = (
        "divided_at",
        "encoding",
        "given_id",
        "headers",
        "is_divided",
        "model",
        "name",
        "route",
        "timeout_s",
        "version",
        "wire",
    )

    def __init__(
        self, route: Route, model: str | None, version: str | None, headers: Headers, most: int
    ) -> None:
        """Read it.

        Args:
            most: bytes of a body.
        Raises:
            RequestError: it cannot be obeyed.
        """
        self.route = route
        self.name = route.name
        self.model = model
        self.version = version
        self.headers = headers
        check_length(headers, most)
        self.encoding = encoding(headers)
        own_ms = timeout_ms(headers)
        self.timeout_s = None if own_ms is None else own_ms / 1e3
        self.wire = wire_format(headers, route.by_media_type)
        self.given_id = given_id(headers)
        divided = headers.get(HEAD_LENGTH)
        self.is_divided = divided is not None
        self.divided_at = (
            int(divided) if divided and divided.isdigit() and len(divided) < 19 else None
        )


def _length(given: bytes | None) -> int | None:
    return int(given) if given is not None and given.isdigit() and len(given) < 19 else None


def request_id(headers: Headers) -> str:
    """The caller's own id where it is a plain short word, else a new one."""
    return given_id(headers) or new_id()


def given_id(headers: Headers) -> str | None:
    given = headers.get(REQUEST_ID_HEADER)
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return None


def new_id() -> str:
    return f"{_PROCESS_ID}-{next(_numbers):x}"


def check_length(headers: Headers, max_body_bytes: int) -> None:
    """Refuse by its length what can be refused before it is read.

    Raises:
        PayloadTooLarge: the announced length is over the limit.
        RequestError: the length is not a number.
    """
    length = headers.get(b"content-length")
    if length is None:
        return
    if not length.isdigit():
        raise RequestError("Content-Length must be a whole number")
    if len(length) > 18 or int(length) > max_body_bytes:
        raise too_large(max_body_bytes)


def encoding(headers: Headers) -> Encoding | None:
    """How the body is compressed, None where it is not.

    Raises:
        UnsupportedMediaType: in another way than those known here, or in several.
    """
    given = headers.get(b"content-encoding")
    if given is None:
        return None
    word = given.strip().lower()
    if word == b"identity":
        return None
    if word not in ENCODINGS:
        raise UnsupportedMediaType("send the body without Content-Encoding, or as gzip or deflate")
    return ENCODINGS[word]


def wire_format(headers: Headers, formats: Mapping[bytes | None, WireFormat]) -> WireFormat | None:
    """The format that Content-Type names, None where it is none of these.

    Args:
        formats: by media type; that of None is for requests that name none.
    """
    given = headers.get(b"content-type")
    found = formats.get(given)
    if found is None and given is not None:
        found = formats.get(given.partition(b";")[0].strip().lower())
    return found


def check_division(given: bytes, wire: WireFormat) -> None:
    """Judge Inference-Header-Content-Length, the length of the JSON before raw tensors.

    Raises:
        MalformedBody: nothing divides a body of this format.
        RequestError: it is not a number.
    """
    if not wire.divisible:
        raise MalformedBody(
            "Inference-Header-Content-Length belongs to /v2/models/{name}/infer, with Content-Type"
            " application/octet-stream"
        )
    if not given.isdigit() or len(given) > 18:
        raise RequestError(
            "Inference-Header-Content-Length must be a whole number, the length of the JSON"
        )


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
