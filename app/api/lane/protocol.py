"""uvicorn's HTTP/1.1 protocol with a short way for inference, and guards for every request.

    bytes -> parser -> head within its limits? -> inference: handler -> reply
                                               -> anything else: uvicorn's ASGI cycle

Requests may come before those before them are answered. They are worked on at once where they are
inference, and answered in their order.
"""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
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
from app.ops.metrics import PROTOCOL

logger = logging.getLogger(__name__)

_ORDINARY_EXTRA_S: Final = 1.0
_OLD: Final = "1.0"
#: Longer bodies do not come with their heads.
_MOST_DEFERRED_BYTES: Final = 16 * 1024
_OFFERS: Final = (b"upgrade", b"http2-settings")
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
        count_refusal: given the code of the error of what never became a request of a route.
        addresses: of inference; where it has none, every request goes the ordinary way.
    """

    handler: Callable[[], Handler]
    count_refusal: Callable[[str], None]
    addresses: Addresses
    max_body_bytes: int
    guards: Guards = field(default_factory=Guards)


class _AsSeenByCycle:
    """A transport of which uvicorn's cycle, where it would close it, ends the connection."""

    def __init__(self, transport: Any, end: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = end


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
        #: How often the parser has told something that was awaited.
        self._steps = 0
        #: Of the pieces that hold the head that is being read, at least; and of those before.
        self._read_bytes = self._held_bytes = 0
        #: Of pieces of which the parser has told nothing yet.
        self._unfinished_bytes = 0
        self._thrown_bytes = 0
        #: What was written and not read when this was looked at last; since when it is no less.
        self._unread_bytes = 0
        self._unread_since_s = self._now_s
        #: The last request said that it is the last.
        self._caller_ends = False
        #: No more requests are taken: the last one that was is the last.
        self._is_last = False
        #: Nothing more of what comes counts.
        self._is_deaf = False
        #: Content-Length of the request that is arriving.
        self._length: bytes | None = None
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
        steps = self._steps
        self._now_s = self.loop.time()
        self._read_bytes = len(data) + self._held_bytes
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            self._is_deaf = True
            self._parser_failed(error)
        arriving = self._arriving
        if arriving is not None and arriving.deferred is not None:
            # Its body takes longer, so that its time begins, and its refusal may come first.
            arriving.let_in(self._lane.handler())
        stage = self._stage
        self._held_bytes = self._read_bytes if stage is _Stage.HEAD else 0
        if steps == self._steps and (stage is _Stage.HEAD or stage is _Stage.BODY):
            self._check_unfinished(len(data))
        if self._line and len(self.connections) == 1:
            self._join_nobody()
        if len(self._line) >= self._guards.pipelined:
            self.flow.pause_reading()

    def _join_nobody(self) -> None:
        """No other caller can come in this turn of the loop."""
        with suppress(NotReady):
            self._lane.handler().together.run()
        last = self._line[-1] if self._line else None
        if isinstance(last, Direct) and last.whole and last.ticket is not None:
            last.ticket.hurry()

    def _parse(self, data: bytes | memoryview) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                data = memoryview(data)[offer.args[0] :]
                self._decline()

    def _decline(self) -> None:
        """Read the head again without its offer to speak another protocol.

        Clients offer HTTP/2 with any request, and mean its body to be read; the parser, once it saw
        the offer, takes that for the other protocol.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        line = b"%b %b HTTP/%b\r\n" % (method, self.url, version.encode())
        kept = [(name, _without_offer(value) if name == b"connection" else value)
                for name, value in self.headers if name != b"upgrade"]  # fmt: skip
        if self._length is not None:
            kept.append((b"content-length", self._length))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"%b%b\r\n" % (line, wire.fields(kept)))

    def _throw_away(self, size_bytes: int) -> None:
        self._thrown_bytes += size_bytes
        if self._thrown_bytes <= self._guards.linger_bytes:
            return
        if self._line:
            self.flow.pause_reading()
        else:
            self.transport.abort()

    def _check_unfinished(self, size_bytes: int) -> None:
        """The parser tells of a field when it is whole, and keeps it until then: of a head, or
        behind a body in chunks."""
        self._unfinished_bytes += size_bytes
        if self._unfinished_bytes > self._guards.head_bytes and not self._is_deaf:
            self._break_off(self._head_too_large())

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
                self._end()
                return
        self._refuse_now(error)

    def _refuse_now(self, error: ModelportError) -> None:
        """Stand in line with a refusal that is the connection's last answer."""
        request = request_id({})
        log_failure(error, request, PROTOCOL)
        self._lane.count_refusal(error.code)
        exchange = Direct(self._advance, False)
        self._line.append(exchange)
        self._is_last = True
        exchange.answer(error_reply(error, request, close=True))

    # ------------------------------------------------------------ a request arrives

    def on_message_begin(self) -> None:
        if self._is_last:
            raise _Stop
        self._steps += 1
        self._unfinished_bytes = 0
        self.url = b""
        self.headers = []
        self._length = None
        self.expect_100_continue = False
        self._arriving = None
        self._stage, self._since_s = _Stage.HEAD, self._now_s

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage is not _Stage.HEAD:
            return  # It came behind a body in chunks, when all was judged.
        name = name.lower()
        if name == b"content-length":
            self._length = value  # The parser refuses a second one, and what is no number.
            return
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
        if self._is_last:
            raise _Stop  # since it began
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise RequestError("this is no proxy")
            return  # It is read again.
        self._stage, self._since_s = _Stage.BODY, self._now_s
        self._steps += 1
        self._unfinished_bytes = 0
        if self._read_bytes > self._guards.head_bytes:
            self._check_size_of_head()
        place = None
        if self.parser.get_method() == b"POST":
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
        self._is_last = self._caller_ends = not keep_alive
        length = None if self._length is None else int(self._length)
        head = self._known_head(place, length)
        if head is not None and length is not None:
            if 0 < length <= _MOST_DEFERRED_BYTES and not self.expect_100_continue:
                exchange.defer(head, length)
                return
            admitted = handler.enter(head, length)
        else:
            admitted = self._admit(handler, place)
        if isinstance(admitted, Reply):
            exchange.answer(admitted)
            return
        exchange.ticket = admitted
        if self.expect_100_continue and is_new:
            exchange.expects = True
            self._advance()

    def _known_head(self, place: Place, length: int | None) -> Head | None:
        """Callers say the same in each head, but for the length; it is read once."""
        place_before, headers_before, head = self._head_before
        same = place is place_before and self.headers == headers_before
        return head if same and length is not None and length <= self._lane.max_body_bytes else None

    def _admit(self, handler: Handler, place: Place) -> Ticket | Reply:
        headers = dict(self.headers)
        if self._length is not None:
            headers[b"content-length"] = self._length
        admitted = handler.admit(place.route, place.model, place.version, headers)
        if not isinstance(admitted, Reply):
            self._head_before = (place, self.headers, admitted.head)
        return admitted

    def _go_the_ordinary_way(self) -> None:
        """As uvicorn would have come here, but that requests of both ways stand in one line."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        if not url.startswith(b"/") and httptools.parse_url(url).path is None:
            raise RequestError("the request's target has no path")
        super().on_message_begin()
        self.url = url
        self.expect_100_continue = expect and self.parser.get_http_version() != _OLD
        self.headers.extend(headers)
        if self._length is not None:
            self.headers.append((b"content-length", self._length))
        self.cycle = None  # type: ignore[assignment]  # or uvicorn would line it up itself
        super().on_headers_complete()
        cycle = self.cycle
        cycle.transport = _AsSeenByCycle(self.transport, self._end)  # type: ignore[assignment]
        self._is_last = self._caller_ends = not cycle.keep_alive

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Called by uvicorn for a request that is to be started."""
        start = partial(super()._start_asgi_task, cycle, app)
        self._line.append(Ordinary(cycle, start))
        self._advance()

    def on_body(self, body: bytes) -> None:
        self._steps += 1
        self._unfinished_bytes = 0
        arriving = self._arriving
        if arriving is None:
            super().on_body(body)
        else:
            arriving.receive(body, self._lane.max_body_bytes)

    def on_message_complete(self) -> None:
        if self._stage is _Stage.HEAD:
            return  # It is read again.
        arriving = self._arriving
        if self._stage is not _Stage.LINGER:
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
        if len(self._line) < self._guards.pipelined and not self.flow.write_paused:
            # Whatever is awaited could not come meanwhile.
            self._since_s = self.loop.time()
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
        """The last answer is written. A caller that may still send is listened to for a while,
        or its system might throw the answer away."""
        self._leave_all()
        if self.transport.is_closing() or self._stage is _Stage.LINGER:
            return
        all_read = self._stage is _Stage.IDLE and not (self._is_deaf or self.flow.read_paused)
        self._is_deaf = self._is_last = True
        if (all_read and self._caller_ends) or not self.transport.can_write_eof():
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
        self.flow.pause_reading()
        super().pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_on()

    def look_after(self, now_s: float) -> None:
        """End what takes too long; called now and then."""
        guards = self._guards
        unread_bytes = self.transport.get_write_buffer_size()
        if not 0 < unread_bytes >= self._unread_bytes:
            self._unread_since_s = now_s
        self._unread_bytes = unread_bytes
        if now_s - self._unread_since_s > guards.write_s:
            self.transport.abort()
            return
        waited_s = now_s - self._since_s
        is_paused = self.flow.read_paused
        match self._stage:
            case _Stage.LINGER if unread_bytes:
                self._since_s = now_s
            case _Stage.LINGER if waited_s > guards.linger_s:
                self.transport.abort()
            case _Stage.HEAD if waited_s > guards.head_s and not (is_paused or self._is_last):
                self._break_off(RequestTimeout("the request's head took too long to arrive"))
            case _Stage.BODY if waited_s > guards.body_s and not is_paused:
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


def _without_offer(connection: bytes) -> bytes:
    """What a Connection field says besides."""
    words = [word.strip() for word in connection.split(b",")]
    return b", ".join([word for word in words if word.lower() not in _OFFERS])
