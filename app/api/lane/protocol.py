"""uvicorn's HTTP/1.1 protocol with a short way for inference, and guards for every request.

    bytes -> parser -> head within its limits? -> inference: handler -> reply
                                               -> anything else: uvicorn's ASGI cycle

Requests may come before those before them are answered. They are worked on at once where they are
inference, and answered in their order.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.handler import Handler
from app.api.head import Head, request_id
from app.api.lane import wire
from app.api.lane.addresses import Addresses, Place
from app.api.lane.exchanges import Direct, Exchange, Ordinary
from app.api.lane.guards import Guards
from app.api.reply import Reply, error_reply, log_failure
from app.api.ticket import Ticket
from app.errors import (
    Draining,
    HeadTooLarge,
    ModelportError,
    NotReady,
    Overloaded,
    RequestError,
    RequestTimeout,
)

logger = logging.getLogger(__name__)

#: Label of what is refused before it is known what it is.
_ROUTE: Final = "protocol"
_ORDINARY_EXTRA_S: Final = 1.0
_OLD: Final = "1.0"
_EXPECTED: Final = b"100-continue"


class _Stage(Enum):
    """What the connection waits for."""

    IDLE = "a request"
    HEAD = "the rest of a head"
    BODY = "the rest of a body"
    LINGER = "the caller to close"


class _Stop(Exception):
    """Nothing more of what was received counts."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What all connections share.

    Attributes:
        handler: the inference handler; raises NotReady where there is none now.
        addresses: of inference; where it has none, every request goes the ordinary way.
    """

    handler: Callable[[], Handler]
    addresses: Addresses
    max_body_bytes: int
    guards: Guards = field(default_factory=Guards)


class LaneProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, lane: Lane, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._lane = lane
        self._guards = lane.guards
        #: Requests that are not answered yet; the last of them may still be arriving.
        self._line: deque[Exchange] = deque()
        #: The inference request that is arriving.
        self._arriving: Direct | None = None
        self._stage = _Stage.IDLE
        #: Since when it waits for that; and when something was read last.
        self._since_s = self._now_s = self.loop.time()
        self._heads = 0
        #: Of the pieces that hold the head that is being read, at least.
        self._read_bytes = 0
        self._unfinished_bytes = 0
        self._thrown_bytes = 0
        #: Since when the caller reads nothing of what was written.
        self._unread_since_s: float | None = None
        #: No more requests are taken: the last one that was is the last.
        self._is_last = False
        #: Nothing more of what comes counts.
        self._is_deaf = False
        self._common: tuple[object, bytes] = (None, b"")
        self._head_before: tuple[Place | None, object, Head | None] = (None, None, None)

    # ------------------------------------------------------------ the connection

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self._guards.connections:
            self._refuse_now(Overloaded("too many connections are open"))

    def connection_lost(self, exc: Exception | None) -> None:
        line, self._line = self._line, deque()
        self._arriving = None
        for exchange in line:
            exchange.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf or self.transport.is_closing():
            self._throw_away(len(data))
            return
        was_at_head, heads = self._stage is _Stage.HEAD, self._heads
        self._now_s = self.loop.time()
        self._read_bytes = len(data) + (self._unfinished_bytes if was_at_head else 0)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._take_no_more()
        except httptools.HttpParserError as error:
            self._is_deaf = True
            self._parser_failed(error)
        arriving = self._arriving
        if arriving is not None and arriving.deferred is not None:
            # Its body takes longer, so that its time begins, and its refusal may come first.
            arriving.let_in(self._lane.handler())
        if self._stage is _Stage.HEAD and was_at_head and heads == self._heads:
            self._check_unfinished_head(len(data))
        if len(self._line) >= self._guards.pipelined:
            self.flow.pause_reading()

    def _throw_away(self, size_bytes: int) -> None:
        self._thrown_bytes += size_bytes
        if self._thrown_bytes <= self._guards.linger_bytes:
            return
        if self._line:
            self.flow.pause_reading()
        else:
            self.transport.abort()

    def _check_unfinished_head(self, size_bytes: int) -> None:
        """The parser tells of a field when it is whole, and keeps it until then."""
        self._unfinished_bytes += size_bytes
        if self._unfinished_bytes > self._guards.head_bytes and not self._is_deaf:
            self._is_deaf = True
            self._refuse_now(self._head_too_large())

    def _parser_failed(self, error: Exception) -> None:
        cause = error.__context__
        own = isinstance(error, httptools.HttpParserCallbackError)
        if not own or isinstance(cause, httptools.HttpParserError):
            self._break_off(RequestError("this is not a valid HTTP/1.1 request"))
        elif isinstance(cause, ModelportError):
            self._break_off(cause)
        elif not isinstance(cause, _Stop):
            logger.error("a connection failed", exc_info=cause)
            self._break_off(ModelportError("internal error; the log has more"))

    def _break_off(self, error: ModelportError) -> None:
        """Refuse what is arriving; what arrived whole before is answered first."""
        self._is_deaf = self._is_last = True
        arriving, self._arriving = self._arriving, None
        if arriving is not None:
            arriving.let_in(self._lane.handler())
            arriving.keep_alive = False
            if arriving.reply is None:
                arriving.refuse(error)
            elif arriving not in self._line:
                self._end()  # It was answered without its body.
            return
        last = self._line[-1] if self._line else None
        if isinstance(last, Ordinary) and not last.whole:
            self._line.pop().leave()
            if last.cycle.response_started:
                self.transport.close()
                return
        self._refuse_now(error)

    def _refuse_now(self, error: ModelportError) -> None:
        """Stand in line with a refusal that is the connection's last answer."""
        request = request_id({})
        log_failure(error, request, _ROUTE)
        exchange = Direct(self._advance, False)
        self._line.append(exchange)
        self._is_last = True
        exchange.answer(error_reply(error, request, close=True))

    def _take_no_more(self) -> None:
        """What comes after the request that was just received is not HTTP."""
        self._is_deaf = self._is_last = True
        if self._line:
            self._line[-1].keep_alive = False

    # ------------------------------------------------------------ a request arrives

    def on_message_begin(self) -> None:
        if self._is_last:
            raise _Stop
        self._heads += 1
        self._unfinished_bytes = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._arriving = None
        self._stage, self._since_s = _Stage.HEAD, self._now_s

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == _EXPECTED:
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > self._guards.head_fields:
            raise self._head_too_large()

    def _check_size_of_head(self) -> None:
        """Called where what was read is long enough for one that is too large."""
        size = len(self.url) + sum([len(name) + len(value) for name, value in self.headers])
        if size > self._guards.head_bytes:
            raise self._head_too_large()

    def _head_too_large(self) -> HeadTooLarge:
        guards = self._guards
        return HeadTooLarge(
            f"the request's head is larger than {guards.head_bytes} bytes"
            f" or {guards.head_fields} fields"
        )

    def on_headers_complete(self) -> None:
        self._stage, self._since_s = _Stage.BODY, self._now_s
        if self._read_bytes > self._guards.head_bytes:
            self._check_size_of_head()
        place = None
        if self.parser.get_method() == b"POST" and not self.parser.should_upgrade():
            place = self._lane.addresses.find(self.url)
        if place is None:
            self._go_the_ordinary_way()
            return
        try:
            handler = self._lane.handler()
        except NotReady:
            self._go_the_ordinary_way()
            return
        is_new = self.parser.get_http_version() != _OLD
        keep_alive = is_new and self.parser.should_keep_alive()
        exchange = self._arriving = Direct(self._advance, keep_alive)
        self._line.append(exchange)
        self._is_last = self._is_last or not keep_alive
        head = self._known_head(place)
        if head is not None and head.may_wait and not self.expect_100_continue:
            exchange.deferred = head
            return
        admitted = handler.enter(head) if head else self._admit(handler, place)
        if isinstance(admitted, Reply):
            exchange.answer(admitted)
            return
        exchange.ticket = admitted
        if self.expect_100_continue and is_new:
            exchange.expects = True
            self._advance()

    def _known_head(self, place: Place) -> Head | None:
        """Callers say the same in each head; what it means is found out once."""
        place_before, headers_before, head = self._head_before
        return head if place is place_before and self.headers == headers_before else None

    def _admit(self, handler: Handler, place: Place) -> Ticket | Reply:
        admitted = handler.admit(place.route, place.model, place.version, dict(self.headers))
        if not isinstance(admitted, Reply):
            self._head_before = (place, self.headers, admitted.head)
        return admitted

    def _go_the_ordinary_way(self) -> None:
        """As uvicorn would have come here, but that requests of both ways stand in one line."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        self.cycle = None  # type: ignore[assignment]  # or uvicorn would line it up itself
        super().on_headers_complete()
        cycle = self.cycle
        if self.parser.should_upgrade():
            cycle.keep_alive = False
        self._is_last = not cycle.keep_alive

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Called by uvicorn for a request that is to be started."""
        start = partial(super()._start_asgi_task, cycle, app)
        self._line.append(Ordinary(cycle, start))
        self._advance()

    def on_body(self, body: bytes) -> None:
        arriving = self._arriving
        if arriving is None:
            super().on_body(body)
        else:
            arriving.receive(body, self._lane.max_body_bytes)

    def on_message_complete(self) -> None:
        arriving = self._arriving
        self._stage, self._since_s = _Stage.IDLE, self._now_s
        if arriving is None:
            super().on_message_complete()
        else:
            self._arriving = None
            if arriving.deferred is not None:
                handler = self._lane.handler()
                if arriving.finish_together(handler.together):
                    return
                arriving.let_in(handler)
            arriving.finish()

    # ------------------------------------------------------------ answers go out

    def _advance(self) -> None:
        """Send what is ready, in order."""
        line = self._line
        while line:
            exchange = line[0]
            if isinstance(exchange, Ordinary):
                exchange.start()
                break
            reply = exchange.reply
            if reply is None:
                if exchange.expects:
                    exchange.expects = False
                    if not exchange.whole:
                        self.transport.write(wire.CONTINUE)
                break
            line.popleft()
            self._send(reply, last=not exchange.keep_alive)
            if not exchange.keep_alive:
                self._end()
                return
        if self.flow.read_paused:
            self._read_on()

    def _read_on(self) -> None:
        """Unless enough stands in line, or the caller reads nothing."""
        if len(self._line) < self._guards.pipelined and self._unread_since_s is None:
            self.flow.resume_reading()

    def _send(self, reply: Reply, *, last: bool) -> None:
        self.server_state.total_requests += 1
        self._since_s = self.loop.time()
        headers = self.server_state.default_headers
        if self._common[0] is not headers:
            self._common = (headers, wire.fields(headers))
        self.transport.write(wire.answer(reply, self._common[1], close=last))

    def on_response_complete(self) -> None:
        """Called by uvicorn when the ordinary request at the head of the line is answered."""
        self.server_state.total_requests += 1
        if self._line:
            self._line.popleft()
        if self.transport.is_closing():
            self._leave_all()
            return
        self._since_s = self.loop.time()
        self._advance()

    def _end(self) -> None:
        """The last answer is written. A caller that still sends is listened to for a while, or
        its system might throw the answer away."""
        self._leave_all()
        self._is_deaf = self._is_last = True
        all_read = self._stage is _Stage.IDLE and not self.flow.read_paused
        if all_read or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._stage = _Stage.LINGER
        self._since_s = self.loop.time()
        self.flow.resume_reading()
        self.transport.write_eof()

    def _leave_all(self) -> None:
        line, self._line = self._line, deque()
        for exchange in line:
            exchange.leave()

    # ------------------------------------------------------------ time

    def pause_writing(self) -> None:
        self._unread_since_s = self.loop.time()
        self.flow.pause_reading()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since_s = None
        self._read_on()
        super().resume_writing()

    def look_after(self, now_s: float) -> None:
        """End what takes too long; called now and then."""
        guards = self._guards
        waited_s = now_s - self._since_s
        unread_s = 0.0 if self._unread_since_s is None else now_s - self._unread_since_s
        if unread_s > guards.write_s:
            self.transport.abort()
            return
        match self._stage:
            case _Stage.LINGER if waited_s > guards.linger_s:
                self.transport.abort()
            case _Stage.HEAD if waited_s > guards.head_s and not self._is_last:
                self._refuse_now(RequestTimeout("the request's head took too long to arrive"))
            case _Stage.BODY if waited_s > guards.body_s and not self.flow.read_paused:
                self._give_up_on_body(waited_s)
            case _Stage.IDLE if waited_s > guards.idle_s and not self._line:
                self.transport.close()

    def _give_up_on_body(self, waited_s: float) -> None:
        late = RequestTimeout("the body took too long to arrive")
        if self._arriving is not None:
            self._break_off(late)
        # An endpoint that reads a body has a limit of its own, and says more.
        elif waited_s > self._guards.body_s + _ORDINARY_EXTRA_S:
            if self._line:
                self._break_off(late)
            else:
                self.transport.close()  # It was answered without its body.

    # uvicorn's own way of doing this takes a timer for every request.
    def _unset_keepalive_if_required(self) -> None:
        pass

    # ------------------------------------------------------------ the end of the service

    def shutdown(self) -> None:
        """Take no new requests; what was taken is answered."""
        self._is_last = True
        if self._line:
            self._line[-1].keep_alive = False
        else:
            self.transport.close()

    def cut_off(self) -> None:
        """The grace period is over: say so to who waits."""
        for exchange in list(self._line):
            if isinstance(exchange, Direct):
                exchange.refuse(Draining("the service is shutting down"))
        # There is no time to listen to who still sends.
        self.transport.close()
