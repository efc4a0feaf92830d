"""Jobs outside any model, such as decoding pictures, by the turns of the run budget."""

import math
from collections import deque
from collections.abc import Callable

from app.engine.scheduling.workers import Job, Workers
from app.errors import Overloaded


class JobQueue:
    """Jobs outside any model that share the run budget with them, such as decoding pictures.

    Args:
        limit: most jobs that wait; more are refused.
    """

    def __init__(self, workers: Workers, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[Callable[[], None]] = deque()
        self._share = workers.share(self._next_job, waiting_s=self._waiting_s)

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` on a worker thread when its turn comes.

        Raises:
            Overloaded: too many wait already.
        """
        if len(self._waiting) >= self._limit:
            raise Overloaded(
                "too many bodies and pictures wait to be decoded",
                max(1, math.ceil(self._waiting_s())),
            )
        self._waiting.append(job)
        self._share.request()

    def _waiting_s(self) -> float:
        return len(self._waiting) * self._share.mean_s

    def _next_job(self) -> Job | None:
        return Job(self._waiting.popleft()) if self._waiting else None
