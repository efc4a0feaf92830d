"""Answers as bytes, and the one form of every failure: its body, and its line in the log."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.types import Send

from app.api.codecs import Content
from app.errors import ModelportError

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER: Final = b"x-request-id"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as bytes.

    Attributes:
        close: the connection must end after it, because the request's body was not read.
    """

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    close: bool = False


def error_body(error: ModelportError, request: str) -> dict[str, Any]:
    """The one form of every failure."""
    body: dict[str, Any] = {"error": str(error), "code": error.code, "request_id": request}
    if error.details:
        body["details"] = [
            {"loc": list(detail.loc), "msg": detail.msg, "type": detail.type}
            for detail in error.details
        ]
    return body


def make_reply(
    status: int,
    content: Content,
    request: str,
    *,
    retry_after_s: int | None = None,
    close: bool = False,
    more_headers: Sequence[tuple[bytes, bytes]] = (),
) -> Reply:
    body, described = content
    headers = [
        *described,
        (b"content-length", str(len(body)).encode()),
        (REQUEST_ID_HEADER, request.encode()),
        *more_headers,
    ]
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    if close:
        headers.append((b"connection", b"close"))
    return Reply(status, body, tuple(headers), close)


def error_reply(error: ModelportError, request: str, *, close: bool = False) -> Reply:
    return make_reply(
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


def log_failure(error: ModelportError, request: str, route: str, model: str = "") -> None:
    """One line a failure, without payload.

    What nobody foresaw comes with its traceback. The cause of a model's failure does not: the
    runtime's own message may quote input values.
    """
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
        },
        exc_info=None if foreseen else error.__cause__,
    )
