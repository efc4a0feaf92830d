"""The run budget of the process: a fixed number of threads that run batches, shared in turns."""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from app.errors import Overloaded

logger = logging.getLogger(__name__)

Job = Callable[[], None]
_JOIN_TIMEOUT_S: Final = 5.0


class Source(Protocol):
    """Something that has work now and then: a batcher."""

    def next_job(self) -> Job | None:
        """The next piece of work, formed as late as this; None where nothing is left to do."""
        ...


class Workers:
    """`slots` threads and the turn-taking between sources that want one.

    All methods but the jobs themselves run on the event loop's thread. A session's `run` releases
    the GIL, so `slots` one-thread sessions use `slots` cores.
    """

    def __init__(self, slots: int, loop: asyncio.AbstractEventLoop) -> None:
        if slots < 1:
            raise ValueError("slots must be at least 1")
        self.slots = slots
        self.loop = loop
        self._free = slots
        self._waiting: deque[Source] = deque()
        self._dispatch_due = False
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"modelport-run-{index}", daemon=True)
            for index in range(slots)
        ]
        for thread in self._threads:
            thread.start()

    def request(self, source: Source) -> None:
        """Give `source` a turn. What arrives in the same turn of the loop is batched together."""
        if source not in self._waiting:
            self._waiting.append(source)
        if not self._dispatch_due and self._free:
            self._dispatch_due = True
            self.loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_due = False
        while self._free and self._waiting:
            source = self._waiting.popleft()
            job = source.next_job()
            if job is not None:
                self._free -= 1
                self._jobs.put(job)
                # It may have more; it asks again behind the others.
                self._waiting.append(source)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                logger.exception("a run job raised")
            del job  # It holds the arrays of its batch, and the next one may be long in coming.
            try:
                self.loop.call_soon_threadsafe(self._release)
            except RuntimeError:
                return  # the loop is closed: nobody is left to tell

    def _release(self) -> None:
        self._free += 1
        self._dispatch()

    def close(self, timeout_s: float = _JOIN_TIMEOUT_S) -> None:
        """End the threads after their current job, and wait at most `timeout_s` for that.

        Sources must have been drained before. A job that never ends keeps its thread.
        """
        for _ in self._threads:
            self._jobs.put(None)
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))


class JobQueue:
    """Jobs outside any model that share the run budget with them, such as decoding pictures.

    Args:
        limit: most jobs that wait; more are refused.
    """

    def __init__(self, workers: Workers, limit: int) -> None:
        self._workers = workers
        self._limit = limit
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Run `job` on a worker thread when its turn comes.

        Raises:
            Overloaded: too many wait already.
        """
        if len(self._waiting) >= self._limit:
            raise Overloaded("too many pictures wait to be decoded")
        self._waiting.append(job)
        self._workers.request(self)

    def next_job(self) -> Job | None:
        return self._waiting.popleft() if self._waiting else None
