"""Whether a batcher takes a request: bounds of its queue, and the wait that is foreseen."""

import math
from dataclasses import dataclass
from typing import Final

from app.engine.scheduling.estimate import RunEstimate
from app.engine.scheduling.waiting import Waiting
from app.engine.scheduling.workers import Share
from app.errors import Overloaded

QUEUE_BYTES: Final = 256 * 2**20
#: What is foreseen takes so much longer now and then; a request that is run too late was run for
#: nothing, and took the time of one that would have been done.
_MARGIN: Final = 1.25


@dataclass(frozen=True)
class BatcherLimits:
    """How much the batcher takes on.

    Attributes:
        max_rows: most rows of one run that joins requests.
        queue_rows: most rows that wait at any time.
        join_requests: whether requests may share a run (their rows are independent).
        queue_bytes: most bytes of inputs that wait at any time.
        width: cores of a run.
        instances: most runs at once; None for as many as the run budget has cores for.
        inline_rows: runs of at most so many rows need no thread.
        all_alike: requests have all the same trailing shapes and dtypes.
    """

    max_rows: int
    queue_rows: int
    join_requests: bool = True
    queue_bytes: int = QUEUE_BYTES
    width: int = 1
    instances: int | None = None
    inline_rows: int = 0
    all_alike: bool = False


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a request meets that would come now.

    Attributes:
        wait_s: until its run begins.
        run_s: of its run.
        total_s: of both, with a margin.
    """

    wait_s: float
    run_s: float

    @property
    def total_s(self) -> float:
        return _MARGIN * (self.wait_s + self.run_s)


class Backlog:
    """What waits in one batcher, in seconds of its runs."""

    def __init__(self, limits: BatcherLimits, waiting: Waiting, estimate: RunEstimate) -> None:
        self._max_rows = limits.max_rows
        self._join_requests = limits.join_requests
        self._waiting = waiting
        self.run_s = estimate.run_s

    def waiting_s(self) -> float:
        """Run seconds of all that waits, in batches as large as they get."""
        waiting = self._waiting
        if not waiting.count:
            return 0.0
        if not self._join_requests:
            return waiting.count * self.run_s(math.ceil(waiting.rows / waiting.count))
        full, rest = divmod(waiting.rows, self._max_rows)
        return full * self.run_s(self._max_rows) + (self.run_s(rest) if rest else 0.0)

    def last_rows(self) -> int:
        """Rows of the batch, not full, that will be the last of those that wait."""
        return self._waiting.rows % self._max_rows if self._join_requests else 0


class Admission:
    """Refuses what would not fit in the queue, or not be done in time."""

    def __init__(
        self, limits: BatcherLimits, waiting: Waiting, backlog: Backlog, share: Share
    ) -> None:
        self._limits = limits
        self._waiting = waiting
        self._backlog = backlog
        self._share = share
        #: Seconds by which all that was there at that time is done, and what came since: most
        #: deadlines are far beyond, and requests of one turn of the loop share the sum.
        self._bound_s = 0.0
        self._bound_at_s = -math.inf

    def check_room(self, rows: int, size_bytes: int) -> None:
        """Judge a request by its size.

        Raises:
            Overloaded: the queue is full.
        """
        waiting, limits = self._waiting, self._limits
        if not waiting.count:
            return  # A request that is larger than the whole queue still gets in.
        rows_over = waiting.rows + rows - limits.queue_rows
        bytes_over = waiting.size_bytes + size_bytes - limits.queue_bytes
        if rows_over > 0 or bytes_over > 0:
            # When so much of the queue is done, this request has room.
            share = max(rows_over / waiting.rows, bytes_over / max(1, waiting.size_bytes))
            wait_s = self.forecast(rows).wait_s * min(share, 1.0)
            raise Overloaded("too many requests are waiting for this model", retry_after(wait_s))

    def check_time(self, rows: int, left_s: float, now_s: float) -> None:
        """Judge a request by the wait, the work of other models included, and its own run.

        Args:
            left_s: seconds until its deadline.
            now_s: on the event loop's clock.
        Raises:
            Overloaded: the request would not be done in time.
        """
        self._bound_s = self._own_s(rows) + (
            self._bound_s if now_s == self._bound_at_s else self._share.all_done_in_s()
        )
        self._bound_at_s = now_s
        if _MARGIN * self._bound_s <= left_s:
            return
        forecast = self.forecast(rows)
        # An estimate of its own run is no reason to refuse what can be tried at once.
        if forecast.wait_s and forecast.total_s > left_s:
            raise Overloaded(
                "the wait for this model would be longer than the request's time limit",
                retry_after(forecast.total_s - left_s),
            )

    def forecast(self, rows: int) -> Forecast:
        """What a request of `rows` that came now would meet."""
        backlog = self._backlog
        ahead_s = backlog.waiting_s()
        last_rows = backlog.last_rows()
        if last_rows == 0 or last_rows + rows > self._limits.max_rows:
            return Forecast(self._share.start_in_s(ahead_s), self._own_s(rows))
        # It joins the last batch, which is no longer before it but its own.
        ahead_s = max(0.0, ahead_s - backlog.run_s(last_rows))
        return Forecast(self._share.start_in_s(ahead_s), self._own_s(last_rows + rows))

    def _own_s(self, rows: int) -> float:
        """Seconds of a request's own runs; of a large one several go on at once."""
        most = self._limits.max_rows
        if rows <= most:
            return self._backlog.run_s(rows)
        rounds = math.ceil(math.ceil(rows / most) / self._share.instances)
        return rounds * self._backlog.run_s(most)


def retry_after(wait_s: float) -> int:
    """Whole seconds for a Retry-After header, at least one."""
    return max(1, math.ceil(wait_s))
