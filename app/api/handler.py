"""The one inference handler. How bytes arrive and leave is not its business.

`admit` looks at a request's head and refuses, or gives a ticket; `Ticket.finish` takes the body
and answers once through a callback; `Ticket.cancel` is for a caller that has left. Limits,
deadlines, request ids, metrics and failure logs are here and in the ticket, and nowhere else.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from weakref import WeakKeyDictionary

from app.api.codecs import Codec, Headers, WireFormat
from app.api.codecs.oip_binary import HEAD_LENGTH
from app.api.head import (
    body_bytes,
    check_division,
    check_length,
    encoding,
    may_stay_open,
    request_id,
    timeout_ms,
    wire_format,
)
from app.api.reply import Reply, as_modelport_error, error_reply, log_failure
from app.api.ticket import Admission, Ticket
from app.engine.model import Model
from app.engine.scheduling.job_queue import JobQueue
from app.engine.scheduling.workers import Workers
from app.engine.versions.registry import Registry
from app.errors import Overloaded, UnsupportedMediaType
from app.ops.metrics import Metrics, ModelMetrics

_MAX_DECODING: Final = 64


class InferenceRoute:
    """An address, and the wire formats that it takes.

    Args:
        name: labels its metrics.
        formats: the first is for requests that name none.
    """

    def __init__(self, name: str, *formats: WireFormat) -> None:
        self.name: Final = name
        self.formats: Final[Sequence[WireFormat]] = formats
        by_type: dict[bytes | None, WireFormat] = {None: formats[0]}
        for one in formats:
            by_type |= dict.fromkeys(one.media_types, one)
        self.by_media_type: Final = MappingProxyType(by_type)


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
        self._codecs: WeakKeyDictionary[Model, dict[WireFormat, Codec]] = WeakKeyDictionary()
        #: Those that have been asked for.
        self._formats: dict[WireFormat, None] = {}

    @property
    def max_body_bytes(self) -> int:
        return self.limits.max_body_bytes

    def admit(
        self, route: InferenceRoute, model: str | None, version: str | None, headers: Headers
    ) -> Ticket | Reply:
        """Judge a request by its head, before any of its body is read.

        Args:
            model: its name as addressed, None for the default.
            version: as addressed, None for the one that is served.
        """
        self.metrics.received[route.name] += 1
        request = request_id(headers)
        target: Model | None = None
        try:
            check_length(headers, self.limits.max_body_bytes)
            packed = encoding(headers)
            own_ms = timeout_ms(headers)
            target = self.registry.get(model, version)
            codec = self._codec(route, target, headers)
            admitted_s = self.loop.time()
            deadline_s = admitted_s + (own_ms or self._timeout_ms(target)) / 1e3
            target.check_admission(deadline_s)
            size = body_bytes(headers)
            self.reserve(size)
        except Exception as error:
            known = as_modelport_error(error)
            name = "" if target is None else target.name
            self.count(route.name, name, known.code)
            log_failure(known, request, route.name, name)
            return error_reply(known, request, close=not may_stay_open(known, headers))
        return Ticket(
            self,
            Admission(
                route.name, request, target, codec, headers, admitted_s, deadline_s, size, packed
            ),
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

    def _codec(self, route: InferenceRoute, model: Model, headers: Headers) -> Codec:
        """The codec for a request's format and a model's signature, made when first asked for.

        Raises:
            UnsupportedMediaType: the route does not know the format, or it does not fit the model.
            RequestError: the head divides the body in a way that the format does not know.
        """
        wire = wire_format(headers, route.by_media_type)
        if wire is None:
            raise UnsupportedMediaType(_accepted(route, model))
        codecs = self._codecs.setdefault(model, {})
        codec = codecs.get(wire)
        if codec is None:
            signature = model.manifest.signature
            if not wire.fits(signature):
                raise UnsupportedMediaType(_accepted(route, model))
            self._formats[wire] = None
            codec = codecs[wire] = wire.make_codec(signature)
        divides = headers.get(HEAD_LENGTH)
        if divides is not None:
            check_division(divides, wire)
        return codec

    def prepare(self, model: Model) -> None:
        """Make the codecs of the formats in use before the model serves; on any thread."""
        signature = model.manifest.signature
        made = {
            wire: wire.make_codec(signature) for wire in list(self._formats) if wire.fits(signature)
        }
        self.loop.call_soon_threadsafe(self._codecs.setdefault, model, made)

    def model_metrics(self, model: Model) -> ModelMetrics:
        return self.metrics.models[model.name, str(model.version)]

    def count(self, route: str, model: str, outcome: str) -> None:
        self.metrics.outcomes[route, model, outcome] += 1


def _accepted(route: InferenceRoute, model: Model) -> str:
    signature = model.manifest.signature
    fitting = [
        media.decode()
        for wire in route.formats
        if wire.fits(signature)
        for media in wire.media_types
    ]
    return f"send the body with one of these as its Content-Type: {', '.join(fitting)}"
