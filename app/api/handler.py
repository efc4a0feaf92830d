"""The one inference handler. How bytes arrive and leave is not its business.

`admit` looks at a request's head and refuses, or gives a ticket; `Ticket.finish` takes the body
and answers once through a callback; `Ticket.cancel` is for a caller that has left. Limits,
deadlines, request ids, metrics and failure logs are here and nowhere else.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

from app.api.codecs import Codec, Decoded
from app.api.head import (
    Headers,
    body_bytes,
    check_head,
    may_stay_open,
    request_id,
    timeout_ms,
)
from app.api.reply import Reply, as_modelport_error, error_reply, log_failure, make_reply
from app.bundle.signature import Signature
from app.bundle.tensors import Array
from app.engine.model import Model, Pending
from app.engine.scheduling.job_queue import JobQueue
from app.engine.scheduling.workers import Workers
from app.engine.versions.registry import Registry
from app.errors import (
    Cancelled,
    DeadlineExceeded,
    ModelportError,
    Overloaded,
    RequestError,
)
from app.ops.metrics import Metrics, ModelMetrics

MakeCodec = Callable[[Signature], Codec]

_MAX_DECODING: Final = 64


@dataclass(frozen=True, slots=True)
class InferenceRoute:
    """A wire format at an address; `name` labels its metrics."""

    name: str
    make_codec: MakeCodec


@dataclass(frozen=True, slots=True)
class HandlerLimits:
    """Of one request, and of all at once.

    Attributes:
        max_body_bytes: of one body.
        timeout_ms: of a request that names no time limit.
        pending_body_bytes: of all bodies that are being read or wait.
        timeout_ms_by_model: as `timeout_ms`, of models that have their own.
    """

    max_body_bytes: int
    timeout_ms: int
    pending_body_bytes: int
    timeout_ms_by_model: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Admission:
    """What is known of a request when it is let in."""

    route: str
    request: str
    model: Model
    codec: Codec
    #: Both on the event loop's clock.
    admitted_s: float
    deadline_s: float
    #: As announced by Content-Length; 0 where it is not.
    body_bytes: int


class Handler:
    """Admits inference requests to models.

    Args:
        registry: the served models.
        metrics: where outcomes and stage times are counted.
        limits: of bodies and time.
        workers: on whose event loop everything here runs, and which decode pictures.
    """

    def __init__(
        self, registry: Registry, metrics: Metrics, limits: HandlerLimits, workers: Workers
    ) -> None:
        self.registry = registry
        self.metrics = metrics
        self.limits = limits
        self.loop: asyncio.AbstractEventLoop = workers.loop
        self.decoders = JobQueue(workers, _MAX_DECODING)
        self._pending_body_bytes = 0
        self._codecs: WeakKeyDictionary[Model, dict[str, Codec]] = WeakKeyDictionary()
        #: Those that have been asked for.
        self._routes: dict[str, InferenceRoute] = {}

    def admit(
        self, route: InferenceRoute, model: str | None, version: str | None, headers: Headers
    ) -> "Ticket | Reply":
        """Judge a request by its head, before any of its body is read.

        Args:
            model: its name as addressed, None for the default.
            version: as addressed, None for the one that is served.
        """
        self.metrics.received[route.name] += 1
        request = request_id(headers)
        target: Model | None = None
        try:
            check_head(headers, self.limits.max_body_bytes)
            own_ms = timeout_ms(headers)
            target = self.registry.get(model, version)
            admitted_s = self.loop.time()
            deadline_s = admitted_s + (own_ms or self._timeout_ms(target)) / 1e3
            target.check_admission(deadline_s)
            codec = self._codec(route, target)
            size = body_bytes(headers)
            self.reserve(size)
        except Exception as error:
            known = as_modelport_error(error)
            name = "" if target is None else target.name
            self.count(route.name, name, known.code)
            log_failure(known, request, route.name, name)
            return error_reply(known, request, close=not may_stay_open(known, headers))
        return Ticket(
            self, Admission(route.name, request, target, codec, admitted_s, deadline_s, size)
        )

    def _timeout_ms(self, model: Model) -> int:
        return self.limits.timeout_ms_by_model.get(model.name, self.limits.timeout_ms)

    def reserve(self, count: int) -> None:
        """Count bytes of a body that is being read or waits, over all requests.

        Raises:
            Overloaded: all bodies together would be over the limit.
        """
        if self._pending_body_bytes + count > self.limits.pending_body_bytes:
            raise Overloaded("too many bytes of request bodies are waiting")
        self._pending_body_bytes += count

    def release(self, count: int) -> None:
        self._pending_body_bytes -= count

    def _codec(self, route: InferenceRoute, model: Model) -> Codec:
        """The route's codec for a model's signature, made when it is first asked for."""
        codecs = self._codecs.setdefault(model, {})
        codec = codecs.get(route.name)
        if codec is None:
            self._routes[route.name] = route
            codec = codecs[route.name] = route.make_codec(model.manifest.signature)
        return codec

    def prepare(self, model: Model) -> None:
        """Make the codecs of the routes in use before the model serves; on any thread."""
        routes = list(self._routes.values())
        made = {route.name: route.make_codec(model.manifest.signature) for route in routes}
        self.loop.call_soon_threadsafe(self._codecs.setdefault, model, made)

    def model_metrics(self, model: Model) -> ModelMetrics:
        return self.metrics.models[model.name, str(model.version)]

    def count(self, route: str, model: str, outcome: str) -> None:
        self.metrics.outcomes[route, model, outcome] += 1


class Ticket:
    """One admitted request: `finish` or `refuse` it once, or `cancel` it."""

    __slots__ = (
        "_admitted_s",
        "_body_bytes",
        "_codec",
        "_deadline_s",
        "_decoded",
        "_ended",
        "_handler",
        "_model",
        "_pending",
        "_reply",
        "_request",
        "_route",
        "_started_s",
        "_timer",
    )

    def __init__(self, handler: Handler, admission: Admission) -> None:
        self._handler = handler
        self._route = admission.route
        self._request = admission.request
        self._model = admission.model
        self._codec = admission.codec
        # Deadlines are on the loop's clock; stages are timed by one that is finer on some loops.
        self._admitted_s = admission.admitted_s
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
        try:
            document = self._codec.parse(body)
            if self._codec.has_pictures(document):
                self._decode_on_thread(document)
            else:
                self._submit(self._codec.decode(document))
        except Exception as error:
            self._fail(error)

    def _decode_on_thread(self, document: Any) -> None:
        """Pictures take long: by the workers' turns, and no longer than the request's time."""
        handler = self._handler
        loop = handler.loop

        def decode() -> None:
            result: Decoded | Exception
            try:
                result = self._codec.decode(document, lambda: self._ended)
            except Exception as error:
                result = error
            loop.call_soon_threadsafe(self._decoded_on_thread, result)

        handler.decoders.submit(decode)
        self._timer = loop.call_at(self._deadline_s, self._expire)

    def _expire(self) -> None:
        self._fail(DeadlineExceeded("the request's time limit has passed"))

    def _decoded_on_thread(self, result: Decoded | Exception) -> None:
        if self._ended:
            return
        if self._timer is not None:
            self._timer.cancel()
        try:
            if isinstance(result, Exception):
                raise result
            self._submit(result)
        except Exception as error:
            self._fail(error)

    def _submit(self, decoded: Decoded) -> None:
        decode_s = time.perf_counter() - self._started_s
        self._handler.model_metrics(self._model).decode_s.observe(decode_s)
        self._decoded = decoded
        if decoded.timeout_us is not None:
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
        model = self._model
        started = time.perf_counter()
        try:
            body = self._codec.encode(outcome, decoded, model.ref)
        except Exception as error:
            self._fail(error)
            return
        now = time.perf_counter()
        self._handler.model_metrics(model).encode_s.observe(now - started)
        reply = make_reply(200, body, self._request, more_headers=(model.provider_header,))
        self._end("ok", reply, now)

    def _fail(self, error: Exception) -> None:
        known = as_modelport_error(error)
        log_failure(known, self._request, self._route, self._model.name)
        self._end(known.code, error_reply(known, self._request), time.perf_counter())

    def refuse(self, error: ModelportError, reply: Callable[[Reply], None]) -> None:
        """End a request whose body never came whole, or that is not waited for any longer."""
        if self._ended:
            return
        log_failure(error, self._request, self._route, self._model.name)
        self._reply = reply
        answer = error_reply(error, self._request, close=True)
        self._end(error.code, answer, time.perf_counter())

    def _end(self, outcome: str, reply: Reply, now_s: float) -> None:
        if self._ended:
            return
        self._close()
        self._handler.count(self._route, self._model.name, outcome)
        self._handler.metrics.request_s[self._route].observe(now_s - self._started_s)
        self._reply(reply)

    def cancel(self) -> None:
        """The caller has left: what waits is dropped, and nobody is answered."""
        if self._ended:
            return
        self._close()
        self._handler.count(self._route, self._model.name, Cancelled.code)

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
