"""Dynamic batching over a `run` callable; knows neither ONNX nor HTTP.

A request waits only while its cores are busy: the next batch forms while the last ones run, and
whatever arrived in one turn of the event loop goes together. Requests share a batch when their
trailing shapes and dtypes are equal. All methods run on the event loop's thread.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from app.bundle.tensors import Array, Tensors
from app.engine.scheduling.admission import Admission, Backlog, BatcherLimits
from app.engine.scheduling.breaker import Breaker
from app.engine.scheduling.deadlines import Deadlines
from app.engine.scheduling.estimate import RunEstimate, unmeasured
from app.engine.scheduling.inline import InlineRuns
from app.engine.scheduling.isolation import Outcome, Run, run_alone, run_isolated
from app.engine.scheduling.waiting import Batch, Done, Entry, Waiting, tensors_bytes
from app.engine.scheduling.workers import Job, Workers
from app.errors import DeadlineExceeded, Draining, ModelportError, Overloaded

logger = logging.getLogger(__name__)

_LATE: Final = "the request's time limit has passed"


class Observer(Protocol):
    """Gets figures once a batch, on the event loop."""

    def batch(self, rows: int, waits_s: Sequence[float], run_s: float) -> None: ...


class _Silent:
    def batch(self, rows: int, waits_s: Sequence[float], run_s: float) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a request that is larger than a run; `done` gets its outcome."""

    inputs: Tensors
    rows: int
    done: Done


@dataclass(frozen=True, slots=True)
class _Finished:
    """What a run brings back to the loop."""

    batch: Batch
    outcomes: Sequence[Outcome]
    started_s: float
    ended_s: float

    @property
    def run_s(self) -> float:
        return self.ended_s - self.started_s


class Batcher:
    """Joins requests of one model into runs.

    Args:
        run: named arrays in, named arrays out; called on worker threads, several at a time.
        limits: of a run and of the queue.
        workers: the run budget, shared by the models of the process.
        probe: runs a golden row; raises where the model itself is at fault.
        observer: gets the figures of each batch.
        measured_s: seconds that a run of so many rows took when it was measured, if it was.
    """

    def __init__(
        self,
        run: Run,
        limits: BatcherLimits,
        workers: Workers,
        probe: Callable[[], None] = lambda: None,
        observer: Observer | None = None,
        *,
        measured_s: Callable[[int], float | None] = unmeasured,
    ) -> None:
        self._run = run
        self._join_requests = limits.join_requests
        self._loop = workers.loop
        self._probe = probe
        self._observer = observer or _Silent()
        self._waiting = Waiting(
            limits.max_rows, join_requests=limits.join_requests, all_alike=limits.all_alike
        )
        self._deadlines = Deadlines(self._loop, self._live, self._expire)
        self._running: set[Batch] = set()
        self._estimate = RunEstimate(measured_s)
        backlog = Backlog(limits, self._waiting, self._estimate)
        self._share = workers.share(
            self._next_job, limits.width, limits.instances, backlog.waiting_s
        )
        self._admission = Admission(limits, self._waiting, backlog, self._share)
        self._inline = InlineRuns(self._loop, limits.inline_rows, self._run_inline)
        #: As long as any run is: no batch is larger.
        self._always_inline = limits.join_requests and limits.inline_rows >= limits.max_rows
        self._breaker = Breaker(self._loop.time)
        self._probe_due = False
        #: When a request was judged last, and its deadline.
        self._judged: tuple[float, float | None] = (0.0, None)
        self._closing = False
        self._idle: asyncio.Future[None] | None = None

    @property
    def queued_rows(self) -> int:
        return self._waiting.rows

    @property
    def running_batches(self) -> int:
        return len(self._running)

    def predicted_wait_s(self, rows: int = 1) -> float:
        """How long a request that came now would wait for its run to begin; 0 when idle."""
        return self._admission.forecast(rows).wait_s

    def submit(self, inputs: Tensors, rows: int, deadline_s: float | None, done: Done) -> Entry:
        """Queue a request.

        Args:
            inputs: named arrays, axis 0 of each is `rows` long.
            deadline_s: on the event loop's clock; `done` gets `DeadlineExceeded` then.
            done: called exactly once, unless the entry is cancelled.
        Raises:
            Overloaded, DeadlineExceeded, Draining: as `check`.
        """
        size_bytes = tensors_bytes(inputs)
        # Where head and body come at once, it was judged just now, but for its size.
        if rows > 1 or self._judged != (self._loop.time(), deadline_s):
            self.check(rows, size_bytes, deadline_s)
        elif self._waiting.count:
            self._admission.check_room(rows, size_bytes)
        entry = self._entry(inputs, rows, size_bytes, deadline_s, done)
        self._waiting.add(entry)
        self._ask_for_run()
        return entry

    @property
    def rows_at_once(self) -> int:
        """Most rows of several requests in a run that is short enough for the event loop; 0 where
        there is none, or not now."""
        if not self._join_requests or self._closing:
            return 0
        if self._loop.time() < self._breaker.open_until_s:
            return 0
        return self._inline.rows

    def run_at_once(
        self, inputs: Tensors, rows: int, arrived_s: Sequence[float]
    ) -> Mapping[str, Array] | None:
        """Run several requests as one, here and now.

        Args:
            arrived_s: when each of them came, by `time.perf_counter`.
        Returns:
            their outputs; None where the run has to wait, or failed: then each is to be submitted,
            which finds out whose fault it was.
        """
        if rows > self.rows_at_once:
            return None
        if self._waiting.count and not self._runs_inline():
            return None  # threads are behind with what came before
        started_s = time.perf_counter()
        try:
            outputs = self._run(inputs)
        except Exception:
            return None
        run_s = time.perf_counter() - started_s
        if any(array.ndim == 0 or array.shape[0] != rows for array in outputs.values()):
            return None
        self._estimate.observe(rows, run_s)
        self._inline.observe(run_s)
        self._breaker.succeed()
        self._observer.batch(rows, [started_s - at_s for at_s in arrived_s], run_s)
        return outputs

    def hurry(self) -> None:
        """Nothing more comes in this turn of the loop: what runs here may run now."""
        self._inline.hurry()

    def submit_parts(self, parts: Sequence[Part], deadline_s: float | None) -> list[Entry]:
        """Queue a large request, all of it or nothing.

        As many parts as may run at once stand in line; each of the others lines up when the turn
        of one before it comes. So requests that come meanwhile wait for few of them.

        Raises:
            Overloaded, DeadlineExceeded, Draining: as `check`.
        """
        sizes = [tensors_bytes(part.inputs) for part in parts]
        self.check(sum(part.rows for part in parts), sum(sizes), deadline_s)
        entries = [
            self._entry(part.inputs, part.rows, size, deadline_s, part.done)
            for part, size in zip(parts, sizes, strict=True)
        ]
        in_line = self._share.instances
        for index, entry in enumerate(entries):
            self._waiting.add(entry, behind=entries[index - in_line] if index >= in_line else None)
        self._ask_for_run()
        return entries

    def check(self, rows: int, size_bytes: int, deadline_s: float | None) -> None:
        """Judge a request before it is queued, or before it is even read.

        Raises:
            Overloaded: the queue is full, the request would not be done in time, or the model is
                failing.
            DeadlineExceeded: the deadline has passed already.
            Draining: the batcher is closing.
        """
        now = self._loop.time()
        if self._closing:
            raise Draining("this model is shutting down")
        if now < self._breaker.open_until_s:
            raise Overloaded(
                "this model fails on its own golden row and is paused",
                math.ceil(self._breaker.open_until_s - now),
            )
        if deadline_s is not None and deadline_s <= now:
            raise DeadlineExceeded(_LATE)
        if self._waiting.count:
            self._admission.check_room(rows, size_bytes)
        if deadline_s is not None and not self._runs_inline(rows):
            self._admission.check_time(rows, deadline_s - now, now)
        self._judged = (now, deadline_s)

    def _entry(
        self, inputs: Tensors, rows: int, size_bytes: int, deadline_s: float | None, done: Done
    ) -> Entry:
        key = None if self._waiting.is_one_group else self._waiting.key(inputs)
        if deadline_s is not None:
            self._deadlines.watch(deadline_s)
        return Entry(inputs, rows, size_bytes, deadline_s, done, key, self._abandon)

    def _live(self) -> Iterator[Entry]:
        yield from self._waiting.entries()
        for batch in self._running:
            yield from batch.entries

    def _abandon(self, entry: Entry) -> None:
        if entry.settled:
            return
        entry.forget()
        self._unqueue(entry)
        self._settle_if_idle()

    def _expire(self, entry: Entry) -> None:
        self._unqueue(entry)
        entry.settle(DeadlineExceeded(_LATE))
        self._settle_if_idle()

    def _unqueue(self, entry: Entry) -> None:
        self._waiting.remove(entry)
        if not self._waiting and not self._probe_due:
            self._share.withdraw()

    def _ask_for_run(self) -> None:
        if self._runs_inline():
            self._inline.plan_turn()
        else:
            self._share.request()

    def _runs_inline(self, more_rows: int = 0) -> bool:
        """Whether what waits, and as much more, is run on the loop."""
        most = self._inline.rows
        if self._always_inline and most:
            return True
        return most > 0 and self._waiting.next_rows(more_rows) <= most

    def _run_inline(self) -> bool:
        """Run one batch here and now; False where nothing waits that may run here."""
        if not self._waiting:
            return False
        if not self._runs_inline():
            self._share.request()
            return False
        batch = self._take()
        if batch.entries:
            finished = self._execute(batch)
            self._inline.observe(finished.run_s)
            self._settle(finished, finished.run_s)
        return True

    def _take(self) -> Batch:
        batch = self._waiting.take(self._loop.time())
        for entry in batch.late:
            self._expire(entry)
        return batch

    def _next_job(self) -> Job | None:
        """The next batch as a job for a worker thread; None where nothing waits for one."""
        if self._probe_due and not self._closing:
            self._probe_due = False
            return Job(self._execute_probe, self._conclude)
        if self._waiting and self._runs_inline():
            self._inline.plan_turn()
            return None
        batch = self._take()
        if not batch.entries:
            return None
        self._running.add(batch)
        expected_s = self._estimate.run_s(batch.rows)
        return Job(
            partial(self._execute, batch), partial(self._deliver, time.monotonic()), expected_s
        )

    def _execute(self, batch: Batch) -> _Finished:
        """Run a batch. The loop's own clock may be as coarse as a millisecond."""
        started = time.monotonic()
        outcomes = self._outcomes(batch)
        return _Finished(batch, outcomes, started, time.monotonic())

    def _outcomes(self, batch: Batch) -> list[Outcome]:
        requests = [entry.inputs for entry in batch.entries]
        if self._join_requests:
            return run_isolated(self._run, requests)
        return [run_alone(self._run, inputs) for inputs in requests]

    def _deliver(self, taken_s: float, finished: _Finished) -> None:
        self._running.remove(finished.batch)
        # The next batch has waited for all of this: the run, and the way to the thread and back.
        self._settle(finished, time.monotonic() - taken_s)

    def _settle(self, finished: _Finished, held_s: float) -> None:
        batch = finished.batch
        self._judge(finished, held_s)
        for entry, outcome in zip(batch.entries, finished.outcomes, strict=True):
            entry.settle(outcome)
        self._settle_if_idle()
        self._observer.batch(
            batch.rows,
            [finished.started_s - entry.submitted_s for entry in batch.entries],
            finished.run_s,
        )

    def _judge(self, finished: _Finished, held_s: float) -> None:
        """Learn from a run; ask for a probe when nothing has succeeded for a while.

        Args:
            held_s: for how long the batch had its cores.
        """
        failed = sum(isinstance(outcome, ModelportError) for outcome in finished.outcomes)
        if not failed:
            self._estimate.observe(finished.batch.rows, held_s)
        if failed < len(finished.outcomes):
            self._breaker.succeed()
        elif self._breaker.fail():
            self._probe_due = True
            self._share.request()

    def _execute_probe(self) -> bool:
        """On a worker thread: bad requests alone must not stop a model that is sound."""
        try:
            self._probe()
        except Exception:
            logger.exception("a model fails on its own golden row and is paused")
            return False
        return True

    def _conclude(self, is_sound: bool) -> None:
        if is_sound:
            self._breaker.acquit()
        else:
            self._breaker.trip()

    async def close(self, timeout_s: float) -> None:
        """Refuse new requests, finish those that wait, and fail what `timeout_s` cuts off."""
        self._closing = True
        if self._is_busy():
            self._idle = self._idle or self._loop.create_future()
            await asyncio.wait([self._idle], timeout=timeout_s)
        if self._is_busy():
            logger.warning("a model was closed with requests unfinished")
        self._deadlines.close()
        for entry in list(self._live()):
            self._waiting.remove(entry)
            entry.settle(Draining("this model is shutting down"))
        self._share.withdraw()

    def _is_busy(self) -> bool:
        return bool(self._waiting or self._running)

    def _settle_if_idle(self) -> None:
        if self._idle is not None and not self._idle.done() and not self._is_busy():
            self._idle.set_result(None)
