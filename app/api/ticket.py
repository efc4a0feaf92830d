"""One admitted inference request, from its body to its answer."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from app.api.codecs import Codec, Decoded, WireFormat
from app.api.head import Head
from app.api.inflate import Encoding, Inflater
from app.api.reply import Fields, Reply, as_modelport_error, error_reply, log_failure
from app.bundle.tensors import Array
from app.engine.model import Model, Pending
from app.engine.scheduling.job_queue import JobQueue
from app.errors import Cancelled, DeadlineExceeded, ModelportError
from app.ops.metrics import Metrics, ModelMetrics

_OK: Final = 200
#: Compressed bodies up to so many bytes are begun on the event loop, ...
_SMALL_BODY_BYTES: Final = 32 * 1024
#: ... and are done there if they hold no more than this (some 0.3 ms).
_SMALL_CONTENT_BYTES: Final = 128 * 1024
#: A turn of a worker thread (some 3 ms).
_STEP_BYTES: Final = 1024 * 1024


class Way(NamedTuple):
    """How requests of one wire format reach one model."""

    wire: WireFormat
    codec: Codec
    figures: ModelMetrics
    #: Of a request that names no time limit.
    timeout_s: float
    #: Header fields of every answer.
    fields: Fields


class Owner(Protocol):
    """What a ticket needs of the handler that gave it."""

    loop: asyncio.AbstractEventLoop
    metrics: Metrics
    decoders: JobQueue

    @property
    def max_body_bytes(self) -> int: ...

    def reserve(self, count: int) -> None: ...

    def release(self, count: int) -> None: ...

    def count(self, route: str, model: str, outcome: str) -> None: ...


class Ticket:
    """One admitted request: `finish` or `refuse` it once, or `cancel` it.

    Attributes:
        head: of the request; another with the same one may be let in by it.
        is_announced: the length of its body was, and has been judged.
    """

    _timer: asyncio.TimerHandle | None = None
    _pending: Pending | None = None
    _decoded: Decoded | None = None
    _ended = False
    _started_s = 0.0

    def __init__(  # noqa: PLR0917 (made for every request: names would cost)
        self,
        handler: Owner,
        head: Head,
        way: Way,
        model: Model,
        request: str,
        admitted_s: float,
        deadline_s: float,
        body_bytes: int,
    ) -> None:
        self.head = head
        self._handler = handler
        self._way = way
        self._model = model
        self._request = request
        # Deadlines are on the loop's clock; stages are timed by one that is finer on some loops.
        self._admitted_s = admitted_s
        self._deadline_s = deadline_s
        self._body_bytes = body_bytes
        self.is_announced = body_bytes > 0
        self._reply: Callable[[Reply], None] = _drop

    def grow(self, received_bytes: int) -> None:
        """Note how much of the body has come, where its length was not announced.

        Raises:
            Overloaded: all bodies together would be over the limit.
        """
        more = received_bytes - self._body_bytes
        if more > 0:
            self._handler.reserve(more)
            self._body_bytes = received_bytes

    def finish(self, body: bytes, reply: Callable[[Reply], None]) -> None:
        """Answer the request; `reply` is called exactly once, unless it is cancelled."""
        self._reply = reply
        self._started_s = time.perf_counter()
        encoding = self.head.encoding
        if encoding is None:
            self._read(body)
        else:
            self._inflate(body, encoding)

    def _inflate(self, body: bytes, encoding: Encoding) -> None:
        """Small bodies here and now; large ones by turns of the workers, a piece a turn.

        Between two pieces the event loop counts what there is, and lets go of what has ended.
        """
        inflater = Inflater(body, encoding, self._handler.max_body_bytes)
        try:
            if len(body) <= _SMALL_BODY_BYTES:
                inflater.step(_SMALL_CONTENT_BYTES)
            self._inflated(inflater, len(body))
        except Exception as error:
            self._fail(error)

    def _inflated(self, inflater: Inflater, sent_bytes: int) -> None:
        self.grow(sent_bytes + inflater.size_bytes)
        if inflater.is_done:
            self._read(inflater.content())
        else:
            self._on_thread(
                lambda: inflater.step(_STEP_BYTES), lambda _: self._inflated(inflater, sent_bytes)
            )

    def _read(self, body: bytes) -> None:
        codec = self._way.codec
        try:
            decoded = codec.recognise(body, self.head.divided_at)
            if decoded is not None:
                self._submit(decoded)
                return
            document = codec.parse(body, self.head.headers)
            if codec.takes_long(document):
                self._on_thread(lambda: codec.decode(document, lambda: self._ended), self._submit)
            else:
                self._submit(codec.decode(document))
        except Exception as error:
            self._fail(error)

    def _on_thread(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """What takes long: by the workers' turns, and no longer than the request's time."""
        handler = self._handler
        loop = handler.loop

        def job() -> None:
            if self._ended:
                return
            try:
                result, error = work(), None
            except Exception as caught:
                result, error = None, caught
            loop.call_soon_threadsafe(self._back_on_loop, then, result, error)

        handler.decoders.submit(job)
        if self._timer is None:
            self._timer = loop.call_at(self._deadline_s, self._expire)

    def _expire(self) -> None:
        self._fail(DeadlineExceeded("the request's time limit has passed"))

    def _back_on_loop(
        self, then: Callable[[Any], None], result: Any, error: Exception | None
    ) -> None:
        if self._ended:
            return
        try:
            if error is not None:
                raise error
            then(result)
        except Exception as known:
            self._fail(known)

    def _submit(self, decoded: Decoded) -> None:
        decode_s = time.perf_counter() - self._started_s
        if self._timer is not None:
            self._timer.cancel()
        self._way.figures.decode_s.observe(decode_s)
        self._decoded = decoded
        if decoded.timeout_us is not None:
            # The loop's own clock may be as coarse as a millisecond.
            if decode_s * 1e6 >= decoded.timeout_us:
                raise DeadlineExceeded("the request's time limit has passed")
            limit_s = self._admitted_s + decoded.timeout_us / 1e6
            self._deadline_s = min(self._deadline_s, limit_s)
        self._pending = self._model.submit(
            decoded.inputs, decoded.rows, self._deadline_s, self._done
        )

    def _done(self, outcome: Mapping[str, Array] | ModelportError) -> None:
        if isinstance(outcome, ModelportError):
            self._fail(outcome)
            return
        decoded = self._decoded
        assert decoded is not None  # noqa: S101 (set before the request was submitted)
        way = self._way
        started = time.perf_counter()
        try:
            content = way.codec.encode(outcome, decoded, self._model.ref)
        except Exception as error:
            self._fail(error)
            return
        now = time.perf_counter()
        way.figures.encode_s.observe(now - started)
        self._pending = None  # it has ended by itself
        self._end("ok", Reply(_OK, content, self._request, way.fields), now)

    def _fail(self, error: Exception) -> None:
        known = as_modelport_error(error)
        self._log(known)
        self._end(known.code, error_reply(known, self._request), time.perf_counter())

    def hurry(self) -> None:
        """Nothing more comes in this turn of the event loop."""
        self._model.hurry()

    def refuse(self, error: ModelportError, reply: Callable[[Reply], None]) -> None:
        """End a request whose body never came whole, or that is not waited for any longer."""
        if self._ended:
            return
        self._log(error)
        self._reply = reply
        answer = error_reply(error, self._request, close=True)
        self._end(error.code, answer, time.perf_counter())

    def _log(self, error: ModelportError) -> None:
        log_failure(error, self._request, self.head.name, self._model.name)

    def _end(self, outcome: str, reply: Reply, now_s: float) -> None:
        if self._ended:
            return
        self._close()
        route = self.head.name
        self._handler.count(route, self._model.name, outcome)
        started_s = self._started_s or now_s
        self._handler.metrics.request_s[route].observe(now_s - started_s)
        self._reply(reply)

    def cancel(self) -> None:
        """The caller has left: what waits is dropped, and nobody is answered."""
        if self._ended:
            return
        self._close()
        self._handler.count(self.head.name, self._model.name, Cancelled.code)

    def _close(self) -> None:
        self._ended = True
        self._handler.release(self._body_bytes)
        # What waits knows this ticket, and this holds the model: a circle would outlast a swap.
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pending is not None:
            self._pending.cancel()  # does nothing to what has ended
            self._pending = None
        self._decoded = None


def _drop(reply: Reply) -> None:
    """Before `finish` there is nobody to answer."""
