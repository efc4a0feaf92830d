"""Inference as an ASGI endpoint: the reference way in, which any ASGI server can run."""

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.types import Receive, Scope, Send

from app.api.boundary import mark_counted
from app.api.handler import Handler, InferenceRoute
from app.api.head import too_large
from app.api.reply import Reply, send_reply
from app.api.ticket import Ticket
from app.errors import Draining, RequestError, RequestTimeout

#: A request that takes longer than this is watched for a caller that leaves; watching every
#: request would cost more than most requests do.
_WATCH_AFTER_S: Final = 0.05


class _CallerLeft(Exception):
    pass


class InferenceEndpoint:
    """Reads the body within its limits, hands it to the handler, and sends the answer."""

    def __init__(
        self, route: InferenceRoute, handler: Callable[[], Handler], body_timeout_s: float
    ) -> None:
        self.route = route
        self._handler = handler
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handler()
        mark_counted(scope)
        where = scope.get("path_params", {})
        admitted = handler.admit(
            self.route, where.get("name"), where.get("version"), dict(scope["headers"])
        )
        if isinstance(admitted, Reply):
            await send_reply(send, admitted)
            return
        reply = await self._answer(handler, admitted, receive)
        if reply is not None:
            await send_reply(send, reply)

    async def _answer(self, handler: Handler, ticket: Ticket, receive: Receive) -> Reply | None:
        """The reply, or None where the caller has left."""
        answer: asyncio.Future[Reply | None] = handler.loop.create_future()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                body = await read_body(receive, handler.limits.max_body_bytes, ticket.grow)
        except TimeoutError:
            ticket.refuse(RequestTimeout("the body took too long to arrive"), answer.set_result)
        except RequestError as error:
            ticket.refuse(error, answer.set_result)
        except _CallerLeft:
            ticket.cancel()
            return None
        except asyncio.CancelledError:
            return _cut_off(ticket)
        else:
            ticket.finish(body, answer.set_result)
        if answer.done():
            return answer.result()
        return await _wait(ticket, answer, receive, handler.loop)


async def read_body(receive: Receive, max_bytes: int, grow: Callable[[int], None]) -> bytes:
    """The whole body, counted as it arrives.

    Args:
        grow: told how many bytes have come; what it raises ends the reading.
    Raises:
        PayloadTooLarge: more than `max_bytes` came.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _CallerLeft
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise too_large(max_bytes)
        grow(size)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


async def _wait(
    ticket: Ticket,
    answer: asyncio.Future[Reply | None],
    receive: Receive,
    loop: asyncio.AbstractEventLoop,
) -> Reply | None:
    watchers: list[asyncio.Task[None]] = []

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        ticket.cancel()
        if not answer.done():
            answer.set_result(None)

    timer = loop.call_later(_WATCH_AFTER_S, lambda: watchers.append(loop.create_task(watch())))
    try:
        return await answer
    except asyncio.CancelledError:
        if answer.done() and not answer.cancelled():  # both came in one turn of the loop
            return answer.result()
        return _cut_off(ticket)
    finally:
        timer.cancel()
        for watcher in watchers:
            watcher.cancel()


def _cut_off(ticket: Ticket) -> Reply | None:
    """The server ends a request's task only when its grace period is over; it is told so."""
    replies: list[Reply] = []
    ticket.refuse(Draining("the service is shutting down"), replies.append)
    return replies[0] if replies else None
