"""One timer for the deadlines of many requests: most are answered long before theirs."""

import asyncio
import math
from collections.abc import Callable, Iterable

from app.engine.scheduling.waiting import Entry


class Deadlines:
    """Looks for requests whose time has passed, when the first of them may be due.

    Args:
        live: all requests that are not answered yet.
        expire: called with each whose deadline has passed; it is live no longer then.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        live: Callable[[], Iterable[Entry]],
        expire: Callable[[Entry], None],
    ) -> None:
        self._loop = loop
        self._live = live
        self._expire = expire
        #: When to look next; no live request's deadline is earlier.
        self._looks_at_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline_s: float) -> None:
        """A request with this deadline has become live."""
        if deadline_s < self._looks_at_s:
            self._look_at(deadline_s)

    def _look_at(self, when_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at_s = when_s
        self._timer = self._loop.call_at(when_s, self._look)

    def _look(self) -> None:
        self._timer, self._looks_at_s = None, math.inf
        now_s = self._loop.time()
        next_s = math.inf
        for entry in list(self._live()):
            if entry.settled or entry.deadline_s is None:
                continue
            if entry.deadline_s <= now_s:
                self._expire(entry)
            else:
                next_s = min(next_s, entry.deadline_s)
        # What was told of an expiry may have brought new requests.
        if next_s < self._looks_at_s:
            self._look_at(next_s)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
