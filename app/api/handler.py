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

from app.api.codecs import Headers, WireFormat
from app.api.codecs.oip_binary import HEAD_LENGTH
from app.api.head import (
    Head,
    Route,
    body_bytes,
    check_division,
    may_stay_open,
    new_id,
    request_id,
)
from app.api.reply import Reply, as_modelport_error, error_reply, log_failure
from app.api.ticket import Ticket, Way
from app.api.together import Together
from app.engine.model import Model
from app.engine.scheduling.job_queue import JobQueue
from app.engine.scheduling.workers import Workers
from app.engine.versions.registry import Registry
from app.errors import Overloaded, UnsupportedMediaType
from app.ops.metrics import Metrics, ModelMetrics

#: Their bytes are bounded elsewhere; this many pictures are some seconds of work.
_MAX_DECODING: Final = 512


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
        self.together = Together(self)
        self._pending_body_bytes = 0
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
        try:
            head = Head(route, model, version, headers, self.limits.max_body_bytes)
        except Exception as error:
            self.metrics.received[route.name] += 1
            return self._refuse(error, route.name, "", request_id(headers), headers)
        return self.enter(head, body_bytes(headers))

    def enter(self, head: Head, size: int) -> Ticket | Reply:
        """Judge a request whose head was read before: what depends on the service's state.

        Args:
            size: bytes of its body as announced, within the limit; 0 where they are not.
        """
        self.metrics.received[head.name] += 1
        request = head.given_id or new_id()
        model: Model | None = None
        try:
            model = self.registry.get(head.model, head.version)
            way = model.attached.get(head.wire) or self._make_way(head, model)
            if head.is_divided:
                check_division(head.headers[HEAD_LENGTH], way.wire)
            admitted_s = self.loop.time()
            deadline_s = admitted_s + (head.timeout_s or way.timeout_s)
            model.check_admission(deadline_s)
            self.reserve(size)
        except Exception as error:
            name = "" if model is None else model.name
            return self._refuse(error, head.name, name, request, head.headers)
        return Ticket(self, head, way, model, request, admitted_s, deadline_s, size)

    def _refuse(
        self, error: Exception, route: str, model: str, request: str, headers: Headers
    ) -> Reply:
        known = as_modelport_error(error)
        self.count(route, model, known.code)
        log_failure(known, request, route, model)
        return error_reply(known, request, close=not may_stay_open(known, headers))

    def _make_way(self, head: Head, model: Model) -> Way:
        """The way of a wire format to a model, made when first asked for.

        Raises:
            UnsupportedMediaType: the route does not know the format, or it does not fit the model.
        """
        signature = model.manifest.signature
        if head.wire is None or not head.wire.fits(signature):
            raise UnsupportedMediaType(_accepted(head.route, model))
        self._formats[head.wire] = None
        figures = self.metrics.models[model.name, str(model.version)]
        way = model.attached[head.wire] = self._way(head.wire, model, figures)
        return way

    def _way(self, wire: WireFormat, model: Model, figures: ModelMetrics) -> Way:
        own_ms = self.limits.timeout_ms_by_model.get(model.name, self.limits.timeout_ms)
        return Way(
            wire,
            wire.make_codec(model.manifest.signature),
            figures,
            own_ms / 1e3,
            (model.provider_header,),
        )

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

    def prepare(self, model: Model, figures: ModelMetrics) -> None:
        """Make the ways of the formats in use before the model serves; on any thread."""
        signature = model.manifest.signature
        for wire in list(self._formats):
            if wire.fits(signature):
                model.attached[wire] = self._way(wire, model, figures)

    def count(self, route: str, model: str, outcome: str) -> None:
        self.metrics.outcomes[route, model, outcome] += 1


def _accepted(route: Route, model: Model) -> str:
    signature = model.manifest.signature
    fitting = [
        media.decode()
        for wire in route.formats
        if wire.fits(signature)
        for media in wire.media_types
    ]
    return f"send the body with one of these as its Content-Type: {', '.join(fitting)}"
