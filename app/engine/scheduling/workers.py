"""The run budget of the process: a number of cores, shared by time between those that have work.

Each source has a virtual time that grows by the core-seconds of its runs, and the smallest goes
first (start-time fair queueing). A source that was idle starts where the others are: idleness is no
credit.
"""

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from app.engine.scheduling.forecast import start_s

logger = logging.getLogger(__name__)

_JOIN_TIMEOUT_S: Final = 5.0
_SMOOTHING: Final = 0.2
#: Passes of a forecast in which what others can take is bounded by the time found before.
_PASSES: Final = 3


@dataclass(frozen=True, slots=True)
class Job:
    """One run on a worker thread.

    Attributes:
        run: called on the thread.
        finish: gets on the event loop what `run` gave, once the cores are given to the next.
        expected_s: what it is thought to take; None for as long as the source's jobs took so far.
    """

    run: Callable[[], Any]
    finish: Callable[[Any], None] | None = None
    expected_s: float | None = None


#: The next piece of work, formed as late as this; None where nothing is left to do.
NextJob = Callable[[], Job | None]


class Share:
    """One source's part in the run budget, such as a batcher's. Made by `Workers.share`.

    Attributes:
        width: cores of each run.
        instances: most of its runs at once.
        running: its runs that go on now.
        mean_s: smoothed seconds of its runs.
    """

    __slots__ = (
        "instances",
        "mean_s",
        "next_job",
        "running",
        "used_s",
        "waiting_s",
        "width",
        "workers",
    )

    def __init__(
        self,
        workers: "Workers",
        next_job: NextJob,
        width: int,
        instances: int,
        waiting_s: Callable[[], float],
    ) -> None:
        self.workers = workers
        self.next_job = next_job
        self.width = width
        self.instances = instances
        self.waiting_s = waiting_s
        self.running = 0
        self.mean_s = 0.0
        #: Virtual time, in core-seconds.
        self.used_s = 0.0

    def request(self) -> None:
        """Ask for a turn. What arrives in the same turn of the loop is batched together."""
        self.workers.request(self)

    def withdraw(self) -> None:
        """Nothing waits here any more: hold no cores for it."""
        self.workers.withdraw(self)

    def all_done_in_s(self) -> float:
        """Seconds by which all runs of all sources would be done, one after the other."""
        return self.workers.all_done_in_s()

    def start_in_s(self, ahead_s: float) -> float:
        """Seconds until a run begins that has `ahead_s` of its own source's runs before it."""
        return self.workers.start_in_s(self, ahead_s)


@dataclass(eq=False, slots=True)
class _Run:
    share: Share
    expected_s: float
    #: When it should end, on the loop's clock.
    ends_s: float


class Workers:
    """A budget of `slots` cores, threads to run on, and the turn-taking between sources.

    The widths of all runs at a time are never more than `slots`. All methods but the jobs
    themselves run on the event loop's thread. A session's `run` releases the GIL, so `slots`
    one-thread runs use `slots` cores.

    Args:
        clock: what run time is measured by, in seconds.
    """

    def __init__(
        self,
        slots: int,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if slots < 1:
            raise ValueError("slots must be at least 1")
        self.slots = slots
        self.loop = loop
        self._clock = clock
        self._free = slots
        #: In the order of their last turn, which settles ties.
        self._waiting: dict[Share, None] = {}
        self._running: set[_Run] = set()
        self._running_s = 0.0
        #: The virtual time of the turn given last: where a source that was idle starts.
        self._virtual_s = 0.0
        self._dispatch_due = False
        self._jobs: queue.SimpleQueue[tuple[_Run, Job] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"modelport-run-{index}", daemon=True)
            for index in range(slots)
        ]
        for thread in self._threads:
            thread.start()

    def share(
        self,
        next_job: NextJob,
        width: int = 1,
        instances: int | None = None,
        waiting_s: Callable[[], float] = lambda: 0.0,
    ) -> Share:
        """Let a source take part.

        Args:
            next_job: called when cores are there for it.
            width: cores of each run; more than the budget has counts as all of it.
            instances: most of its runs at once; None for as many as fit.
            waiting_s: run seconds of what waits there, as a forecast for others.
        """
        width = min(width, self.slots)
        most = self.slots // width
        return Share(self, next_job, width, min(instances or most, most), waiting_s)

    def request(self, share: Share) -> None:
        """Give a source a turn when it is its time."""
        if share not in self._waiting:
            share.used_s = max(share.used_s, self._virtual_s)
            self._waiting[share] = None
        self._plan_dispatch()

    def withdraw(self, share: Share) -> None:
        """Take a source out of the line; its runs go on."""
        if share in self._waiting:
            del self._waiting[share]
            self._plan_dispatch()

    def _plan_dispatch(self) -> None:
        if not self._dispatch_due and self._free:
            self._dispatch_due = True
            self.loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_due = False
        while self._free:
            share = self._next_share()
            # Cores are held for a wide run whose turn it is, or narrow ones would always be first.
            if share is None or share.width > self._free:
                return
            del self._waiting[share]
            job = share.next_job()
            if job is not None:
                # It may have more; among equals it stands behind the others.
                self._waiting[share] = None
                self._start(share, job)

    def _next_share(self) -> Share | None:
        """The one that has had the least time, of those that may run once more."""
        least: Share | None = None
        for share in self._waiting:
            if share.running < share.instances and (least is None or share.used_s < least.used_s):
                least = share
        return least

    def _start(self, share: Share, job: Job) -> None:
        expected_s = share.mean_s if job.expected_s is None else job.expected_s
        run = _Run(share, expected_s, self.loop.time() + expected_s)
        self._virtual_s = max(self._virtual_s, share.used_s)
        share.used_s += expected_s * share.width
        share.running += 1
        self._free -= share.width
        self._running.add(run)
        self._running_s += expected_s
        self._jobs.put((run, job))

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            run, job = item
            finish, outcome = job.finish, None
            started = self._clock()
            try:
                outcome = job.run()
            except BaseException:
                # Also of foreign code that panics, or asks for the process's end: the cores that
                # it holds must come free.
                logger.exception("a run job raised")
                finish = None
            ran_s = self._clock() - started
            try:
                self.loop.call_soon_threadsafe(self._release, run, ran_s, finish, outcome)
            except RuntimeError:
                return  # the loop is closed: nobody is left to tell
            # They hold the arrays of their batch, and the next one may be long in coming.
            del item, run, job, finish, outcome

    def _release(
        self, run: _Run, ran_s: float, finish: Callable[[Any], None] | None, outcome: object
    ) -> None:
        share = run.share
        share.running -= 1
        # What was charged at the start was a guess.
        share.used_s += (ran_s - run.expected_s) * share.width
        share.mean_s += (ran_s - share.mean_s) * (_SMOOTHING if share.mean_s else 1.0)
        self._free += share.width
        self._running.remove(run)
        self._running_s = self._running_s - run.expected_s if self._running else 0.0
        self._dispatch()
        if finish is not None:
            finish(outcome)

    def all_done_in_s(self) -> float:
        """Seconds of all runs one after the other, at most: quicker to tell than a forecast."""
        return self._running_s + sum([share.waiting_s() for share in self._waiting])

    def start_in_s(self, share: Share, ahead_s: float) -> float:
        """Forecast the seconds until a run of `share` begins.

        The others that have work get as much time as it meanwhile, but no more than they have
        work for, nor than their instances can use.

        Args:
            ahead_s: run seconds that wait before it in its own source.
        """
        if not ahead_s and self._free >= share.width and share.running < share.instances:
            return 0.0
        now = self.loop.time()
        own_ends = sorted(r.ends_s - now for r in self._running if r.share is share)
        own_s = start_s(own_ends, share.instances, 1, ahead_s)
        ends = sorted(run.ends_s - now for run in self._running for _ in range(run.share.width))
        ahead = ahead_s * share.width
        others = [(o.waiting_s() * o.width, o) for o in self._waiting if o is not share]
        found_s = math.inf
        for _ in range(_PASSES):
            theirs = sum(
                min(work, ahead, other.instances * other.width * found_s) for work, other in others
            )
            found_s = max(own_s, start_s(ends, self.slots, share.width, ahead + theirs))
        return found_s

    def close(self, timeout_s: float = _JOIN_TIMEOUT_S) -> None:
        """End the threads after their current job, and wait at most `timeout_s` for that.

        Sources must have been drained before. A job that never ends keeps its thread.
        """
        for _ in self._threads:
            self._jobs.put(None)
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
