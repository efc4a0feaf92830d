"""One timer for the deadlines of many requests: most are answered long before theirs."""

import asyncio
import math
import weakref
from collections.abc import Callable, Iterable

from app.engine.scheduling.waiting import Entry


class Deadlines:
    """Looks for requests whose time has passed, when the first of them may be due.

    Its timer mostly outlasts the requests, and must not keep their model alive: it holds nothing,
    and neither does this hold its owner.

    Args:
        live: a method that gives all requests that are not answered yet.
        expire: a method called with each whose deadline has passed; it is live no longer then.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        live: Callable[[], Iterable[Entry]],
        expire: Callable[[Entry], None],
    ) -> None:
        self._loop = loop
        self._live = weakref.WeakMethod(live)
        self._expire = weakref.WeakMethod(expire)
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
        self._timer = self._loop.call_at(when_s, _look, weakref.ref(self))

    def look(self) -> None:
        """Expire what is due."""
        live, expire = self._live(), self._expire()
        if live is None or expire is None:
            return  # The owner is gone, and all its requests were answered.
        self._timer, self._looks_at_s = None, math.inf
        now_s = self._loop.time()
        next_s = math.inf
        for entry in list(live()):
            if entry.settled or entry.deadline_s is None:
                continue
            if entry.deadline_s <= now_s:
                expire(entry)
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


def _look(deadlines: "weakref.ref[Deadlines]") -> None:
    found = deadlines()
    if found is not None:
        found.look()
