"""Where every failure becomes the one error body, the framework's own failures included."""

import http
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.handler import (
    REQUEST_ID_HEADER,
    as_modelport_error,
    error_body,
    error_reply,
    log_failure,
    request_id,
)
from app.errors import (
    Detail,
    MethodNotAllowed,
    ModelportError,
    NotFound,
    RequestError,
    ValidationFailed,
)
from app.ops.metrics import Metrics

logger = logging.getLogger(__name__)

_KEY: Final = "modelport"
#: Label of every route that is not for inference.
_ROUTE: Final = "other"
_CODES: Final[Mapping[int, type[RequestError]]] = {404: NotFound, 405: MethodNotAllowed}


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
                await _send_error(send_with_id, known, context.request)
        finally:
            if not context.counted:
                self._metrics.received[_ROUTE] += 1
                self._metrics.outcomes[_ROUTE, "", context.outcome] += 1


async def _send_error(send: Send, error: ModelportError, request: str) -> None:
    reply = error_reply(error, request)
    await send(
        {"type": "http.response.start", "status": reply.status, "headers": list(reply.headers)}
    )
    await send({"type": "http.response.body", "body": reply.body})


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
    kind = _CODES.get(error.status_code)
    if kind is None:
        phrase = http.HTTPStatus(error.status_code).phrase
        return _respond_as(request, error.status_code, phrase.lower(), error.headers or {})
    message = (
        "there is nothing at this address"
        if kind is NotFound
        else f"{request.method} is not allowed here"
    )
    return _respond(request, kind(message), error.headers or {})


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (registered for this type)
    details = [Detail(tuple(e["loc"]), e["msg"], e["type"]) for e in error.errors()]
    return _respond(request, ValidationFailed("the request is not valid", details), {})


def _respond(request: Request, error: ModelportError, headers: Mapping[str, str]) -> Response:
    context: _Context = request.scope[_KEY]
    context.outcome = error.code
    log_failure(error, context.request, _ROUTE)
    extra = dict(headers)
    if error.retry_after_s is not None:
        extra["Retry-After"] = str(error.retry_after_s)
    body = orjson.dumps(error_body(error, context.request))
    return Response(body, error.status, extra, media_type="application/json")


def _respond_as(request: Request, status: int, phrase: str, headers: Mapping[str, str]) -> Response:
    """A framework error that our tree has no word for."""
    context: _Context = request.scope[_KEY]
    code = context.outcome = phrase.replace(" ", "_")
    body = orjson.dumps({"error": phrase, "code": code, "request_id": context.request})
    return Response(body, status, dict(headers), media_type="application/json")
