"""Answers as bytes, and the one form of every failure: its body, and its line in the log."""

import logging
import time
from collections import Counter
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.types import Send

from app.api.codecs import Content
from app.errors import ModelportError, Overloaded

#: Between two lines about requests that one model refuses by overload.
_QUIET_S: Final = 1.0

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER: Final = b"x-request-id"

Fields = tuple[tuple[bytes, bytes], ...]


class Reply:
    """An answer as bytes.

    Attributes:
        described: header fields that say what the body is.
        request: the request's id.
        more: further header fields.
        retry_after_s: when another try may go better.
        close: the connection must end after it, because the request's body was not read.
    """

    __slots__ = ("body", "close", "described", "more", "request", "retry_after_s", "status")

    def __init__(
        self,
        status: int,
        content: Content,
        request: str,
        more: Fields = (),
        *,
        retry_after_s: int | None = None,
        close: bool = False,
    ) -> None:
        self.status = status
        self.body, self.described = content
        self.request = request
        self.more = more
        self.retry_after_s = retry_after_s
        self.close = close

    @property
    def headers(self) -> Fields:
        """All header fields, in the order in which they are sent."""
        return (
            *self.described,
            (b"content-length", b"%d" % len(self.body)),
            (REQUEST_ID_HEADER, self.request.encode()),
            *self.more,
            *self.last_headers,
        )

    @property
    def last_headers(self) -> Fields:
        """Those that few answers have."""
        last: list[tuple[bytes, bytes]] = []
        if self.retry_after_s is not None:
            last.append((b"retry-after", b"%d" % self.retry_after_s))
        if self.close:
            last.append((b"connection", b"close"))
        return tuple(last)


def error_body(error: ModelportError, request: str) -> dict[str, Any]:
    """The one form of every failure."""
    body: dict[str, Any] = {"error": str(error), "code": error.code, "request_id": request}
    if error.details:
        body["details"] = [
            {"loc": list(detail.loc), "msg": detail.msg, "type": detail.type}
            for detail in error.details
        ]
    return body


def error_reply(error: ModelportError, request: str, *, close: bool = False) -> Reply:
    return Reply(
        error.status,
        Content(orjson.dumps(error_body(error, request))),
        request,
        retry_after_s=error.retry_after_s,
        close=close,
    )


async def send_reply(send: Send, reply: Reply) -> None:
    """Send an answer over ASGI."""
    headers = list(reply.headers)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def as_modelport_error(error: BaseException) -> ModelportError:
    """What the caller may see: our own errors as they are, anything else as a plain 500."""
    if isinstance(error, ModelportError):
        return error
    hidden = ModelportError("internal error; the log has more under this request id")
    hidden.__cause__ = error
    return hidden


class _Refusals:
    """Counts what is refused by overload: a line for each would cost more than the refusal."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._quiet_until_s: dict[tuple[str, str], float] = {}

    def line_is_due(self, route: str, model: str) -> int:
        """How many there were since the last line; 0 for one that is only counted."""
        key = (route, model)
        self._counts[key] += 1
        now_s = time.monotonic()
        if now_s < self._quiet_until_s.get(key, 0.0):
            return 0
        self._quiet_until_s[key] = now_s + _QUIET_S
        return self._counts.pop(key)


_refusals: Final = _Refusals()


def log_failure(error: ModelportError, request: str, route: str, model: str = "") -> None:
    """One line a failure, without payload; of refusals by overload, one a second and model.

    What nobody foresaw comes with its traceback. The cause of a model's failure does not: the
    runtime's own message may quote input values.
    """
    refused = _refusals.line_is_due(route, model) if isinstance(error, Overloaded) else 1
    if not refused:
        return
    level = logging.ERROR if error.status == HTTPStatus.INTERNAL_SERVER_ERROR else logging.INFO
    foreseen = type(error) is not ModelportError
    logger.log(
        level,
        "request failed",
        extra={
            "request_id": request,
            "route": route,
            "model": model,
            "status": error.status,
            "code": error.code,
            "error": str(error),
        }
        | ({"requests": refused} if refused > 1 else {}),
        exc_info=None if foreseen else error.__cause__,
    )
