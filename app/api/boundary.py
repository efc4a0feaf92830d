"""Where every failure becomes the one error body, the framework's own failures included."""

import http
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.head import request_id
from app.api.reply import (
    REQUEST_ID_HEADER,
    as_modelport_error,
    error_body,
    error_reply,
    log_failure,
    send_reply,
)
from app.errors import (
    Detail,
    MethodNotAllowed,
    ModelportError,
    NotFound,
    RequestError,
    Unauthorized,
    ValidationFailed,
)
from app.ops.metrics import Metrics

_KEY: Final = "modelport"
#: Label of every route that is not for inference.
_ROUTE: Final = "other"


@dataclass(slots=True)
class _Context:
    request: str
    counted: bool = False
    outcome: str = "ok"


def mark_counted(scope: Scope) -> None:
    """The inference handler counts its own requests."""
    context = scope.get(_KEY)
    if context is not None:
        context.counted = True


class Boundary:
    """Pure ASGI middleware: request ids, counts, and the last resort for what nobody caught."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = scope[_KEY] = _Context(request_id(dict(scope["headers"])))
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = message["headers"] = list(message.get("headers", ()))
                if not any(name == REQUEST_ID_HEADER for name, _ in headers):
                    headers.append((REQUEST_ID_HEADER, context.request.encode()))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            known = as_modelport_error(error)
            context.outcome = known.code
            log_failure(known, context.request, _ROUTE)
            if not started:
                await send_reply(send_with_id, error_reply(known, context.request))
        finally:
            if not context.counted:
                self._metrics.received[_ROUTE] += 1
                self._metrics.outcomes[_ROUTE, "", context.outcome] += 1


def install(app: FastAPI, metrics: Metrics) -> None:
    """Make `app` fail in our form only."""
    app.add_middleware(Boundary, metrics=metrics)
    app.add_exception_handler(ModelportError, _known)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _known(request: Request, error: Exception) -> Response:
    return _respond(request, as_modelport_error(error), {})


async def _framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for this type)
    match error.status_code:
        case 404:
            known: RequestError = NotFound("there is nothing at this address")
        case 405:
            known = MethodNotAllowed(f"{request.method} is not allowed here")
        case other:
            known = _without_a_word(other)
    return _respond(request, known, error.headers or {})


def _without_a_word(status: int) -> RequestError:
    """A framework error that our tree has no word for."""
    phrase = http.HTTPStatus(status).phrase.lower()
    code = re.sub("[^a-z]+", "_", phrase)
    kind: type[RequestError] = type("Other", (RequestError,), {"status": status, "code": code})
    return kind(phrase)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (registered for this type)
    details = [Detail(tuple(e["loc"]), e["msg"], e["type"]) for e in error.errors()]
    return _respond(request, ValidationFailed("the request is not valid", details), {})


def _respond(request: Request, error: ModelportError, headers: Mapping[str, str]) -> Response:
    context: _Context = request.scope[_KEY]
    context.outcome = error.code
    log_failure(error, context.request, _ROUTE)
    extra = dict(headers)
    if isinstance(error, Unauthorized):
        extra["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        extra["Retry-After"] = str(error.retry_after_s)
    body = orjson.dumps(error_body(error, context.request))
    return Response(body, error.status, extra, media_type="application/json")
