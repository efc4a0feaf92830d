"""Dynamic batching over a `run` callable; knows neither ONNX nor HTTP.

A request waits only while every worker is busy: the next batch forms while the last ones run, and
whatever arrived in one turn of the event loop goes together. Requests share a batch when their
trailing shapes and dtypes are equal. All methods run on the event loop's thread.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from app.bundle.tensors import Array, Tensors
from app.engine.breaker import Breaker
from app.engine.isolation import Outcome, Run, run_alone, run_isolated
from app.engine.workers import Job, Workers
from app.errors import DeadlineExceeded, Draining, ModelportError, Overloaded

logger = logging.getLogger(__name__)

#: Called once on the event loop with the request's own output rows, or its own error.
Done = Callable[[Mapping[str, Array] | ModelportError], None]

_COST_SMOOTHING: Final = 0.2


class Observer(Protocol):
    """Gets figures once a batch, on the event loop."""

    def batch(self, rows: int, waits_s: Sequence[float], run_s: float) -> None: ...


class _Silent:
    def batch(self, rows: int, waits_s: Sequence[float], run_s: float) -> None:
        pass


@dataclass(frozen=True)
class BatcherLimits:
    """How much the batcher takes on.

    Attributes:
        max_rows: most rows of one run that joins requests.
        queue_rows: most rows that wait at any time.
        join_requests: whether requests may share a run (their rows are independent).
    """

    max_rows: int
    queue_rows: int
    join_requests: bool = True


@dataclass(eq=False, slots=True)
class Entry:
    """One request in the batcher's hands; `cancel` it when the caller leaves."""

    inputs: Tensors
    rows: int
    deadline_s: float | None
    done: Done
    group_key: object
    _batcher: "Batcher"
    submitted_s: float = field(default_factory=time.monotonic)
    _timer: asyncio.TimerHandle | None = None
    queued: bool = True
    settled: bool = False

    def cancel(self) -> None:
        """Forget the request; its batch-mates are not affected. `done` is not called."""
        self._batcher.abandon(self)

    def settle(self, outcome: Mapping[str, Array] | ModelportError) -> None:
        if self.settled:
            return
        self.forget()
        try:
            self.done(outcome)
        except Exception:
            logger.exception("a caller's completion callback raised")

    def forget(self) -> None:
        self.settled = True
        if self._timer is not None:
            self._timer.cancel()


@dataclass(frozen=True, slots=True)
class _Finished:
    """What a worker thread brings back to the loop."""

    batch: Sequence[Entry]
    outcomes: Sequence[Outcome]
    started_s: float
    ended_s: float


class Batcher:
    """Joins requests of one model into runs.

    Args:
        run: named arrays in, named arrays out; called on worker threads, several at a time.
        limits: rows of a run and of the queue.
        workers: the run budget, shared by the models of the process.
        probe: runs a golden row; raises where the model itself is at fault.
        observer: gets the figures of each batch.
    """

    def __init__(
        self,
        run: Run,
        limits: BatcherLimits,
        workers: Workers,
        probe: Callable[[], None] = lambda: None,
        observer: Observer | None = None,
    ) -> None:
        self._run = run
        self._limits = limits
        self._workers = workers
        self._loop = workers.loop
        self._probe = probe
        self._observer = observer or _Silent()
        #: Waiting requests, by what may share a run; the oldest head runs first. Those that leave
        #: are taken out at once, wherever they stand: nobody looks here while all workers are busy.
        self._groups: dict[object, OrderedDict[Entry, None]] = {}
        self._queued_rows = 0
        self._running: list[Sequence[Entry]] = []
        self._run_s = 0.0
        self._breaker = Breaker(self._loop.time)
        self._probe_due = False
        self._closing = False
        self._idle: asyncio.Future[None] | None = None

    @property
    def queued_rows(self) -> int:
        return self._queued_rows

    @property
    def running_batches(self) -> int:
        return len(self._running)

    def submit(
        self,
        inputs: Tensors,
        rows: int,
        deadline_s: float | None,
        done: Done,
        own_rows: int = 0,
    ) -> Entry:
        """Queue a request.

        Args:
            inputs: named arrays, axis 0 of each is `rows` long.
            deadline_s: on the event loop's clock; `done` gets `DeadlineExceeded` then.
            done: called exactly once, unless the entry is cancelled.
            own_rows: rows that the same caller has just queued, for a request in several parts.
        Raises:
            Overloaded: the queue is full, the wait would outlast the deadline, or the model is
                failing.
            DeadlineExceeded: the deadline has passed already.
            Draining: the batcher is closing.
        """
        now = self._loop.time()
        self._admit(rows, deadline_s, now, own_rows)
        entry = Entry(inputs, rows, deadline_s, done, self._group_key(inputs), self)
        if deadline_s is not None:
            entry._timer = self._loop.call_at(deadline_s, self._expire, entry)
        self._groups.setdefault(entry.group_key, OrderedDict())[entry] = None
        self._queued_rows += rows
        self._workers.request(self)
        return entry

    def _admit(self, rows: int, deadline_s: float | None, now_s: float, own_rows: int) -> None:
        if self._closing:
            raise Draining("this model is shutting down")
        if now_s < self._breaker.open_until_s:
            raise Overloaded(
                "this model fails on its own golden row and is paused",
                math.ceil(self._breaker.open_until_s - now_s),
            )
        if deadline_s is not None and deadline_s <= now_s:
            raise DeadlineExceeded("the request's time limit has passed")
        wait_s = self.predicted_wait_s()
        # A request that is larger than the whole queue still gets in when nobody waits.
        others_wait = self._queued_rows > own_rows
        if others_wait and self._queued_rows + rows > self._limits.queue_rows:
            raise Overloaded("too many requests are waiting for this model", retry_after(wait_s))
        if deadline_s is not None and now_s + wait_s > deadline_s:
            raise Overloaded(
                "the wait for this model would be longer than the request's time limit",
                retry_after(wait_s),
            )

    def predicted_wait_s(self) -> float:
        """How long a request that came now would wait for its run to begin; 0 when idle."""
        if self.running_batches < self._workers.slots and not self._groups:
            return 0.0
        batches_ahead = self.running_batches + self._batches_waiting()
        return batches_ahead * self._run_s / self._workers.slots

    def _batches_waiting(self) -> int:
        """How many runs the queue makes, at best."""
        if self._limits.join_requests:
            return math.ceil(self._queued_rows / self._limits.max_rows)
        return sum(map(len, self._groups.values()))

    def _group_key(self, inputs: Tensors) -> object:
        if not self._limits.join_requests:
            return None
        return tuple((name, a.shape[1:], a.dtype.str) for name, a in sorted(inputs.items()))

    def abandon(self, entry: Entry) -> None:
        if entry.settled:
            return
        entry.forget()
        self._unqueue(entry)
        self._settle_if_idle()

    def _expire(self, entry: Entry) -> None:
        self._unqueue(entry)
        entry.settle(DeadlineExceeded("the request's time limit has passed"))
        self._settle_if_idle()

    def _unqueue(self, entry: Entry) -> None:
        """Take it out of the queue; does nothing to one that runs or has run."""
        if not entry.queued:
            return
        entry.queued = False
        self._queued_rows -= entry.rows
        group = self._groups[entry.group_key]
        del group[entry]
        if not group:
            del self._groups[entry.group_key]

    def next_job(self) -> Job | None:
        """The next batch as a job for a worker thread; None where nothing waits."""
        if self._probe_due and not self._closing:
            self._probe_due = False
            return self._execute_probe
        batch = self._take_batch()
        if not batch:
            return None
        self._running.append(batch)
        return lambda: self._execute(batch)

    def _take_batch(self) -> list[Entry]:
        """The oldest group's first entries, as many as fit in a run."""
        batch: list[Entry] = []
        while self._groups and not batch:
            batch = self._take_from(min(self._groups.values(), key=_head_submitted_s))
        return batch

    def _take_from(self, group: OrderedDict[Entry, None]) -> list[Entry]:
        now = self._loop.time()
        batch: list[Entry] = []
        rows = 0
        while group:
            entry = next(iter(group))
            late = entry.deadline_s is not None and entry.deadline_s <= now
            if batch and not late and not self._fits(rows + entry.rows):
                break
            self._unqueue(entry)
            if late:
                continue  # Its timer is due in this turn of the loop, and answers it.
            batch.append(entry)
            rows += entry.rows
        return batch

    def _fits(self, rows: int) -> bool:
        return self._limits.join_requests and rows <= self._limits.max_rows

    def _execute(self, batch: Sequence[Entry]) -> None:
        """On a worker thread. The loop's own clock may be as coarse as a millisecond."""
        started = time.monotonic()
        outcomes = self._outcomes(batch)
        self._tell_loop(self._deliver, _Finished(batch, outcomes, started, time.monotonic()))

    def _outcomes(self, batch: Sequence[Entry]) -> list[Outcome]:
        requests = [entry.inputs for entry in batch]
        if self._limits.join_requests:
            return run_isolated(self._run, requests)
        return [run_alone(self._run, inputs) for inputs in requests]

    def _deliver(self, finished: _Finished) -> None:
        self._running.remove(finished.batch)
        run_s = finished.ended_s - finished.started_s
        self._run_s += (run_s - self._run_s) * (_COST_SMOOTHING if self._run_s else 1.0)
        self._count_failures(finished.outcomes)
        for entry, outcome in zip(finished.batch, finished.outcomes, strict=True):
            entry.settle(outcome)
        self._settle_if_idle()
        self._observer.batch(
            sum(entry.rows for entry in finished.batch),
            [finished.started_s - entry.submitted_s for entry in finished.batch],
            run_s,
        )

    def _count_failures(self, outcomes: Sequence[Outcome]) -> None:
        """Ask for a probe when nothing has succeeded for a while."""
        if any(not isinstance(outcome, ModelportError) for outcome in outcomes):
            self._breaker.succeed()
        elif self._breaker.fail():
            self._probe_due = True
            self._workers.request(self)

    def _execute_probe(self) -> None:
        """On a worker thread: bad requests alone must not stop a model that is sound."""
        try:
            self._probe()
        except Exception:
            logger.exception("a model fails on its own golden row and is paused")
            verdict = self._breaker.trip
        else:
            verdict = self._breaker.acquit
        self._tell_loop(verdict)

    def _tell_loop(self, callback: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            logger.warning("the event loop closed before a batch was delivered")

    async def close(self, timeout_s: float) -> None:
        """Refuse new requests, finish those that wait, and fail what `timeout_s` cuts off."""
        self._closing = True
        if self._is_busy():
            self._idle = self._idle or self._loop.create_future()
            await asyncio.wait([self._idle], timeout=timeout_s)
        if self._is_busy():
            logger.warning("a model was closed with requests unfinished")
        for entry in [e for part in (*self._groups.values(), *self._running) for e in part]:
            self._unqueue(entry)
            entry.settle(Draining("this model is shutting down"))

    def _is_busy(self) -> bool:
        return bool(self._groups or self._running)

    def _settle_if_idle(self) -> None:
        if self._idle is not None and not self._idle.done() and not self._is_busy():
            self._idle.set_result(None)


def _head_submitted_s(group: OrderedDict[Entry, None]) -> float:
    return next(iter(group)).submitted_s


def retry_after(wait_s: float) -> int:
    """Whole seconds for a Retry-After header, at least one."""
    return max(1, math.ceil(wait_s))
