"""One admitted inference request, from its body to its answer."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from app.api.codecs import Codec, Decoded, Headers
from app.api.inflate import Encoding, Inflater
from app.api.reply import Reply, as_modelport_error, error_reply, log_failure, make_reply
from app.bundle.tensors import Array
from app.engine.model import Model, Pending
from app.engine.scheduling.job_queue import JobQueue
from app.errors import Cancelled, DeadlineExceeded, ModelportError
from app.ops.metrics import Metrics, ModelMetrics

#: Compressed bodies up to so many bytes are begun on the event loop, ...
_SMALL_BODY_BYTES: Final = 32 * 1024
#: ... and are done there if they hold no more than this (some 0.3 ms).
_SMALL_CONTENT_BYTES: Final = 128 * 1024
#: A turn of a worker thread (some 3 ms).
_STEP_BYTES: Final = 1024 * 1024


class Owner(Protocol):
    """What a ticket needs of the handler that gave it."""

    loop: asyncio.AbstractEventLoop
    metrics: Metrics
    decoders: JobQueue

    @property
    def max_body_bytes(self) -> int: ...

    def reserve(self, count: int) -> None: ...

    def release(self, count: int) -> None: ...

    def model_metrics(self, model: Model) -> ModelMetrics: ...

    def count(self, route: str, model: str, outcome: str) -> None: ...


class Admission(NamedTuple):
    """What is known of a request when it is let in."""

    route: str
    request: str
    model: Model
    codec: Codec
    headers: Headers
    #: Both on the event loop's clock.
    admitted_s: float
    deadline_s: float
    #: As announced by Content-Length; 0 where it is not.
    body_bytes: int
    encoding: Encoding | None = None


class Ticket:
    """One admitted request: `finish` or `refuse` it once, or `cancel` it."""

    __slots__ = (
        "_admission",
        "_body_bytes",
        "_codec",
        "_deadline_s",
        "_decoded",
        "_ended",
        "_handler",
        "_model",
        "_pending",
        "_reply",
        "_started_s",
        "_timer",
    )

    def __init__(self, handler: Owner, admission: Admission) -> None:
        self._handler = handler
        self._admission = admission
        self._model = admission.model
        self._codec = admission.codec
        # Deadlines are on the loop's clock; stages are timed by one that is finer on some loops.
        self._deadline_s = admission.deadline_s
        self._started_s = time.perf_counter()
        self._body_bytes = admission.body_bytes
        self._timer: asyncio.TimerHandle | None = None
        self._pending: Pending | None = None
        self._decoded: Decoded | None = None
        self._reply: Callable[[Reply], None] = _drop
        self._ended = False

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
        encoding = self._admission.encoding
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
        try:
            document = self._codec.parse(body, self._admission.headers)
            if self._codec.takes_long(document):
                self._on_thread(
                    lambda: self._codec.decode(document, lambda: self._ended), self._submit
                )
            else:
                self._submit(self._codec.decode(document))
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
        self._handler.model_metrics(self._model).decode_s.observe(decode_s)
        self._decoded = decoded
        if decoded.timeout_us is not None:
            limit_s = self._admission.admitted_s + decoded.timeout_us / 1e6
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
        model = self._model
        started = time.perf_counter()
        try:
            content = self._codec.encode(outcome, decoded, model.ref)
        except Exception as error:
            self._fail(error)
            return
        now = time.perf_counter()
        self._handler.model_metrics(model).encode_s.observe(now - started)
        reply = make_reply(
            200, content, self._admission.request, more_headers=(model.provider_header,)
        )
        self._end("ok", reply, now)

    def _fail(self, error: Exception) -> None:
        known = as_modelport_error(error)
        self._log(known)
        self._end(known.code, error_reply(known, self._admission.request), time.perf_counter())

    def refuse(self, error: ModelportError, reply: Callable[[Reply], None]) -> None:
        """End a request whose body never came whole, or that is not waited for any longer."""
        if self._ended:
            return
        self._log(error)
        self._reply = reply
        answer = error_reply(error, self._admission.request, close=True)
        self._end(error.code, answer, time.perf_counter())

    def _log(self, error: ModelportError) -> None:
        log_failure(error, self._admission.request, self._admission.route, self._model.name)

    def _end(self, outcome: str, reply: Reply, now_s: float) -> None:
        if self._ended:
            return
        self._close()
        route = self._admission.route
        self._handler.count(route, self._model.name, outcome)
        self._handler.metrics.request_s[route].observe(now_s - self._started_s)
        self._reply(reply)

    def cancel(self) -> None:
        """The caller has left: what waits is dropped, and nobody is answered."""
        if self._ended:
            return
        self._close()
        self._handler.count(self._admission.route, self._model.name, Cancelled.code)

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
