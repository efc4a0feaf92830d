"""The one inference handler. How bytes arrive and leave is not its business.

`admit` looks at a request's head and refuses, or gives a ticket; `Ticket.finish` takes the body
and answers once through a callback; `Ticket.cancel` is for a caller that has left. Limits,
deadlines, request ids, metrics and failure logs are here and nowhere else.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from app.api.codecs import Codec, Decoded
from app.api.head import Headers, check_head, request_id, timeout_ms
from app.api.reply import Reply, as_modelport_error, error_reply, log_failure, make_reply
from app.bundle.manifest import Signature
from app.bundle.tensors import Array
from app.engine.model import Model, Pending
from app.engine.registry import Registry
from app.errors import Cancelled, ModelportError, Overloaded, RequestError
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
    max_body_bytes: int
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Admission:
    """What is known of a request when it is let in."""

    route: str
    request: str
    model: Model
    codec: Codec
    timeout_ms: int


class Handler:
    """Admits inference requests to models.

    Args:
        registry: the served models.
        metrics: where outcomes and stage times are counted.
        limits: of bodies and time.
        loop: on whose thread everything here runs.
    """

    def __init__(
        self,
        registry: Registry,
        metrics: Metrics,
        limits: HandlerLimits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.registry = registry
        self.metrics = metrics
        self.limits = limits
        self.loop = loop
        self.decoding = 0
        self._codecs: WeakKeyDictionary[Model, dict[str, Codec]] = WeakKeyDictionary()

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
        try:
            check_head(headers, self.limits.max_body_bytes)
            limit_ms = timeout_ms(headers, self.limits.timeout_ms)
            target = self.registry.get(model, version)
            codec = self._codec(route, target)
        except Exception as error:
            known = as_modelport_error(error)
            self.count(route.name, "", known.code)
            log_failure(known, request, route.name)
            return error_reply(known, request, close=True)
        return Ticket(self, Admission(route.name, request, target, codec, limit_ms))

    def _codec(self, route: InferenceRoute, model: Model) -> Codec:
        """The route's codec for a model's signature, made when it is first asked for."""
        codecs = self._codecs.setdefault(model, {})
        codec = codecs.get(route.name)
        if codec is None:
            codec = codecs[route.name] = route.make_codec(model.manifest.signature)
        return codec

    def model_metrics(self, model: Model) -> ModelMetrics:
        return self.metrics.models[model.name, str(model.version)]

    def count(self, route: str, model: str, outcome: str) -> None:
        self.metrics.outcomes[route, model, outcome] += 1


class Ticket:
    """One admitted request: `finish` or `refuse` it once, or `cancel` it."""

    __slots__ = (
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
    )

    def __init__(self, handler: Handler, admission: Admission) -> None:
        self._handler = handler
        self._route = admission.route
        self._request = admission.request
        self._model = admission.model
        self._codec = admission.codec
        # Deadlines are on the loop's clock; stages are timed by one that is finer on some loops.
        self._deadline_s = handler.loop.time() + admission.timeout_ms / 1e3
        self._started_s = time.perf_counter()
        self._pending: Pending | None = None
        self._decoded: Decoded | None = None
        self._reply: Callable[[Reply], None] = _drop
        self._ended = False

    def finish(self, body: bytes, reply: Callable[[Reply], None]) -> None:
        """Answer the request; `reply` is called exactly once, unless it is cancelled."""
        self._reply = reply
        self._started_s = time.perf_counter()
        try:
            document = self._codec.parse(body)
            if self._codec.is_slow(document):
                self._decode_on_thread(document)
            else:
                self._submit(self._codec.decode(document))
        except Exception as error:
            self._fail(error)

    def _decode_on_thread(self, document: Any) -> None:
        handler = self._handler
        if handler.decoding >= _MAX_DECODING:
            raise Overloaded("too many pictures are being decoded")
        handler.decoding += 1
        handler.loop.run_in_executor(None, self._codec.decode, document).add_done_callback(
            self._decoded_on_thread
        )

    def _decoded_on_thread(self, future: asyncio.Future[Decoded]) -> None:
        self._handler.decoding -= 1
        if self._ended:
            future.exception()  # looked at, so that asyncio does not report it
            return
        try:
            self._submit(future.result())
        except Exception as error:
            self._fail(error)

    def _submit(self, decoded: Decoded) -> None:
        decode_s = time.perf_counter() - self._started_s
        self._handler.model_metrics(self._model).decode_s.observe(decode_s)
        self._decoded = decoded
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
        self._end("ok", make_reply(200, body, self._request), now)

    def _fail(self, error: Exception) -> None:
        known = as_modelport_error(error)
        log_failure(known, self._request, self._route, self._model.name)
        self._end(known.code, error_reply(known, self._request), time.perf_counter())

    def refuse(self, error: RequestError, reply: Callable[[Reply], None]) -> None:
        """End a request whose body never came whole, or that is not waited for any longer."""
        if self._ended:
            return
        if self._pending is not None:
            self._pending.cancel()
        log_failure(error, self._request, self._route, self._model.name)
        self._reply = reply
        answer = error_reply(error, self._request, close=True)
        self._end(error.code, answer, time.perf_counter())

    def _end(self, outcome: str, reply: Reply, now_s: float) -> None:
        if self._ended:
            return
        self._ended = True
        self._handler.count(self._route, self._model.name, outcome)
        self._handler.metrics.request_s[self._route].observe(now_s - self._started_s)
        self._reply(reply)

    def cancel(self) -> None:
        """The caller has left: what waits is dropped, and nobody is answered."""
        if self._ended:
            return
        self._ended = True
        if self._pending is not None:
            self._pending.cancel()
        self._handler.count(self._route, self._model.name, Cancelled.code)


def _drop(reply: Reply) -> None:
    """Before `finish` there is nobody to answer."""
