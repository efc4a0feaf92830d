"""The one inference handler. How bytes arrive and leave is not its business.

`admit` looks at a request's head and refuses, or gives a ticket; `Ticket.finish` takes the body
and answers once through a callback; `Ticket.cancel` is for a caller that has left. Limits,
deadlines, request ids, metrics and failure logs are here and nowhere else.
"""

import asyncio
import itertools
import logging
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

import orjson

from app.api.codecs import Codec, Decoded
from app.bundle.manifest import Signature
from app.bundle.tensors import Array
from app.engine.model import Model, Pending
from app.engine.registry import Registry
from app.errors import (
    Cancelled,
    MalformedBody,
    ModelportError,
    Overloaded,
    PayloadTooLarge,
    RequestError,
    UnsupportedMediaType,
)
from app.ops.metrics import Metrics, ModelMetrics

logger = logging.getLogger(__name__)

#: Header names in lower case.
Headers = Mapping[bytes, bytes]
MakeCodec = Callable[[Signature], Codec]

JSON: Final = b"application/json"
TIMEOUT_HEADER: Final = b"modelport-timeout-ms"
REQUEST_ID_HEADER: Final = b"x-request-id"
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_MAX_DECODING: Final = 64
_MAX_TIMEOUT_MS: Final = 3_600_000
_PROCESS_ID: Final = secrets.token_hex(6)
_numbers: Final = itertools.count(1)


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
class Reply:
    """An answer as bytes.

    Attributes:
        close: the connection must end after it, because the request's body was not read.
    """

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    close: bool = False


def request_id(headers: Headers) -> str:
    """The caller's own id where it is a plain short word, else a new one."""
    given = headers.get(REQUEST_ID_HEADER)
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return f"{_PROCESS_ID}-{next(_numbers):x}"


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
    body: bytes,
    request: str,
    *,
    retry_after_s: int | None = None,
    close: bool = False,
) -> Reply:
    headers = [
        (b"content-type", JSON),
        (b"content-length", str(len(body)).encode()),
        (REQUEST_ID_HEADER, request.encode()),
    ]
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    if close:
        headers.append((b"connection", b"close"))
    return Reply(status, body, tuple(headers), close)


def error_reply(error: ModelportError, request: str, *, close: bool = False) -> Reply:
    return make_reply(
        error.status,
        orjson.dumps(error_body(error, request)),
        request,
        retry_after_s=error.retry_after_s,
        close=close,
    )


@dataclass(frozen=True, slots=True)
class Admission:
    """What is known of a request when it is let in."""

    route: InferenceRoute
    request: str
    model: Model
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
            timeout_ms = _timeout_ms(headers, self.limits.timeout_ms)
            target = self.registry.get(model, version)
        except ModelportError as error:
            self.count(route.name, "", error.code)
            log_failure(error, request, route.name)
            return error_reply(error, request, close=True)
        return Ticket(self, Admission(route, request, target, timeout_ms))

    def codec(self, route: InferenceRoute, model: Model) -> Codec:
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
        self._route = admission.route.name
        self._request = admission.request
        self._model = admission.model
        self._codec = handler.codec(admission.route, admission.model)
        self._started_s = handler.loop.time()
        self._deadline_s = self._started_s + admission.timeout_ms / 1e3
        self._pending: Pending | None = None
        self._decoded: Decoded | None = None
        self._reply: Callable[[Reply], None] = _drop
        self._ended = False

    def finish(self, body: bytes, reply: Callable[[Reply], None]) -> None:
        """Answer the request; `reply` is called exactly once, unless it is cancelled."""
        self._reply = reply
        self._started_s = self._handler.loop.time()
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
        decode_s = self._handler.loop.time() - self._started_s
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
        started = self._handler.loop.time()
        try:
            body = self._codec.encode(outcome, decoded, model.ref)
        except Exception as error:
            self._fail(error)
            return
        now = self._handler.loop.time()
        self._handler.model_metrics(model).encode_s.observe(now - started)
        self._end("ok", make_reply(200, body, self._request), now)

    def _fail(self, error: Exception) -> None:
        known = as_modelport_error(error)
        log_failure(known, self._request, self._route, self._model.name)
        self._end(known.code, error_reply(known, self._request), self._handler.loop.time())

    def refuse(self, error: RequestError, reply: Callable[[Reply], None]) -> None:
        """End a request whose body never came whole, or was too large."""
        log_failure(error, self._request, self._route, self._model.name)
        self._reply = reply
        answer = error_reply(error, self._request, close=True)
        self._end(error.code, answer, self._handler.loop.time())

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


def as_modelport_error(error: BaseException) -> ModelportError:
    """What the caller may see: our own errors as they are, anything else as a plain 500."""
    if isinstance(error, ModelportError):
        return error
    hidden = ModelportError("internal error; the log has more under this request id")
    hidden.__cause__ = error
    return hidden


def log_failure(error: ModelportError, request: str, route: str, model: str = "") -> None:
    """One line a failure, without payload; the cause of a 5xx goes to the log only."""
    level = logging.ERROR if error.status >= 500 and error.retry_after_s is None else logging.INFO
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
        exc_info=error.__cause__ if level == logging.ERROR and error.__cause__ else None,
    )


def check_head(headers: Headers, max_body_bytes: int) -> None:
    """Refuse what can be refused before the body is read.

    Raises:
        UnsupportedMediaType: not JSON, or compressed.
        PayloadTooLarge: the announced length is over the limit.
        MalformedBody: the length is not a number, or tensors are announced as binary.
    """
    media_type = headers.get(b"content-type")
    if media_type is not None and media_type.partition(b";")[0].strip().lower() != JSON:
        raise UnsupportedMediaType("send the body as Content-Type: application/json")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMediaType("send the body without Content-Encoding")
    if b"inference-header-content-length" in headers:
        raise MalformedBody("binary tensor data is not supported; send JSON tensors")
    length = headers.get(b"content-length")
    if length is None:
        return
    if not length.isdigit():
        raise MalformedBody("Content-Length must be a whole number")
    if len(length) > 18 or int(length) > max_body_bytes:
        raise too_large(max_body_bytes)


def too_large(max_body_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {max_body_bytes} bytes")


def _timeout_ms(headers: Headers, default_ms: int) -> int:
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return default_ms
    if not given.isdigit() or len(given) > 9 or not 1 <= int(given) <= _MAX_TIMEOUT_MS:
        raise MalformedBody(
            f"Modelport-Timeout-Ms must be a whole number from 1 to {_MAX_TIMEOUT_MS}"
        )
    return int(given)
