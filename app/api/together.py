"""Small requests that came in one turn of the event loop: one run, and one encoding, for all.

Only requests that are known but for their numbers, of models whose runs are for less than threads
would cost the requests in them. Whatever stands in the way of one, it goes the usual way, by a
ticket.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from app.api.codecs import Content
from app.api.head import Head, new_id
from app.api.reply import Reply
from app.api.ticket import Ticket, Way
from app.engine.model import Model
from app.engine.versions.registry import Registry
from app.ops.metrics import Metrics

logger = logging.getLogger(__name__)

_OK: Final = 200
#: After so long, others on the loop have their turn.
_TURN_S: Final = 2e-3
#: Most requests that wait here: some ten milliseconds of work ...
_MOST: Final = 256
#: ... so that there is no need to watch time limits that are longer than this.
_SHORT_LIMIT_S: Final = 0.25


class Uniform(Protocol):
    """What all requests of a group have in common; see `oip_known.Known`.

    Attributes:
        name, shape, dtype: of the only input of one request.
        has_time_limit: of its own, in its body.
    """

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> "np.dtype[Any]": ...

    @property
    def has_time_limit(self) -> bool: ...

    def numbers(self, body: bytes) -> bytes | None:
        """Those of one request, packed; None for one that has to go the usual way."""
        ...


class Entrance(Protocol):
    """What is needed of the handler."""

    loop: asyncio.AbstractEventLoop
    registry: Registry
    metrics: Metrics

    def enter(self, head: Head, size: int) -> Ticket | Reply: ...


class _Request(NamedTuple):
    head: Head
    body: bytes
    numbers: bytes
    reply: Callable[[Reply], None]
    arrived_s: float
    decode_s: float


class _Group:
    """Requests that differ in nothing but their numbers."""

    __slots__ = ("known", "model", "requests", "way")

    def __init__(self, model: Model, way: Way, known: Uniform) -> None:
        self.model = model
        self.way = way
        self.known = known
        self.requests: list[_Request] = []


class Together:
    """Collects requests until the end of the loop's turn.

    Args:
        entrance: the handler, for all that goes the usual way.
    """

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._groups: dict[tuple[int, int], _Group] = {}
        self._count = 0
        self._is_due = False

    def take(self, head: Head, body: bytes, reply: Callable[[Reply], None]) -> bool:
        """Take a request whose head was let in before; false where it has to go the usual way.

        Args:
            reply: called once, soon.
        """
        started_s = time.perf_counter()
        registry = self._entrance.registry
        entry = registry.entries.get(head.model or registry.default_name or "")
        if entry is None or head.version is not None or entry.served is None:
            return False
        model = entry.loaded[entry.served]
        way = model.attached.get(head.wire)
        rows_at_once = model.rows_at_once
        if way is None or not rows_at_once or self._count >= _MOST:
            return False
        if head.encoding is not None or (head.timeout_s or way.timeout_s) < _SHORT_LIMIT_S:
            return False
        known = way.codec.find(body, head.divided_at)
        if known is None or known.has_time_limit or known.shape[0] > rows_at_once:
            return False
        at = head.divided_at
        try:
            numbers = known.numbers(body) if at is None else body[at:]
        except Exception:  # The usual way meets it too, and says what it was.
            return False
        if numbers is None:
            return False
        groups = self._groups
        key = (id(model), id(known))
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(model, way, known)
            self._plan_turn()
        decode_s = time.perf_counter() - started_s
        group.requests.append(_Request(head, body, numbers, reply, started_s, decode_s))
        self._count += 1
        return True

    def _plan_turn(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._entrance.loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Groups by turns; what there is no time for comes first in the next turn."""
        self._is_due = False
        ends_s = time.perf_counter() + _TURN_S
        groups = self._groups
        while groups:
            key = next(iter(groups))
            group = groups.pop(key)
            self._run_next(group)
            if group.requests:
                groups[key] = group
            if time.perf_counter() >= ends_s:
                break
        if groups:
            self._plan_turn()

    def run(self) -> None:
        """Run all that there is, without waiting for more."""
        groups, self._groups = self._groups, {}
        for group in groups.values():
            while group.requests:
                self._run_next(group)

    def _run_next(self, group: _Group) -> None:
        """As many requests of a group as a run takes."""
        at_once = max(1, group.model.rows_at_once // group.known.shape[0])
        some = group.requests[:at_once]
        del group.requests[:at_once]
        self._count -= len(some)
        if not self._answered(group, some):
            self._send_the_usual_way(some)

    def _answered(self, group: _Group, requests: Sequence[_Request]) -> bool:
        try:
            return self._run_some(group, requests)
        except Exception:  # Before any was answered: that cannot fail.
            logger.exception("requests cannot be answered together")
            return False

    def _run_some(self, group: _Group, requests: Sequence[_Request]) -> bool:
        """Run and answer them all, or none."""
        known, model, way = group.known, group.model, group.way
        rows, *row = known.shape
        count = len(requests)
        array = np.ndarray(
            (count * rows, *row), known.dtype, b"".join([one.numbers for one in requests])
        )
        arrived_s = [one.arrived_s for one in requests]
        outputs = model.run_at_once({known.name: array}, count * rows, arrived_s)
        if outputs is None:
            return False
        ran_s = time.perf_counter()
        contents = way.codec.encode_together(outputs, known, count, model.ref)
        if contents is None:
            return False
        self._answer(group, requests, contents, ran_s)
        return True

    def _answer(
        self,
        group: _Group,
        requests: Sequence[_Request],
        contents: Sequence[Content],
        ran_s: float,
    ) -> None:
        fields = group.way.fields
        for one, content in zip(requests, contents, strict=True):
            try:
                one.reply(Reply(_OK, content, one.head.given_id or new_id(), fields))
            except Exception:
                logger.exception("an answer cannot be sent")
        now_s = time.perf_counter()
        count = len(requests)
        figures, metrics = group.way.figures, self._entrance.metrics
        figures.decode_s.observe_all([one.decode_s for one in requests])
        figures.encode_s.observe_all([(now_s - ran_s) / count] * count)
        route = requests[0].head.name  # A known request is of one wire format, and that of a route.
        metrics.received[route] += count
        metrics.outcomes[route, group.model.name, "ok"] += count
        metrics.request_s[route].observe_all([now_s - one.arrived_s for one in requests])

    def _send_the_usual_way(self, requests: Sequence[_Request]) -> None:
        for one in requests:
            try:
                admitted = self._entrance.enter(one.head, len(one.body))
                if isinstance(admitted, Reply):
                    one.reply(admitted)
                else:
                    admitted.finish(one.body, one.reply)
            except Exception:  # The others are answered all the same.
                logger.exception("an answer cannot be sent")
