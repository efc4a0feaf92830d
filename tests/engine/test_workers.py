import asyncio
import gc
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app.engine.scheduling.job_queue import JobQueue
from app.engine.scheduling.workers import Job, Workers
from app.errors import Overloaded
from tests.engine.conftest import HANG_S, Ticks, on_loop, until


class Jobs:
    """A source with a list of jobs to give."""

    def __init__(
        self,
        workers: Workers,
        *jobs: Callable[[], object],
        width: int = 1,
        instances: int | None = None,
    ) -> None:
        self.jobs = deque(jobs)
        self.asked = 0
        self.share = workers.share(
            self.next_job, width, instances, waiting_s=lambda: len(self.jobs) * self.share.mean_s
        )

    def next_job(self) -> Job | None:
        self.asked += 1
        return Job(self.jobs.popleft()) if self.jobs else None


def ask(workers: Workers, *jobs: Callable[[], object], **terms: Any) -> Jobs:
    """A source with these jobs, which has asked for a turn."""
    source = Jobs(workers, *jobs, **terms)
    source.share.request()
    return source


@pytest.fixture(autouse=True)
def _others() -> None:
    """Worker threads of services that other tests keep running are none of ours."""
    OTHERS.clear()
    OTHERS.update(threading.enumerate())


OTHERS: set[threading.Thread] = set()


def working() -> list[threading.Thread]:
    started = set(threading.enumerate()) - OTHERS
    return [t for t in started if t.name.startswith("modelport-run-")]


def noting(log: list[str], word: str) -> Callable[[], object]:
    return lambda: log.append(word)


@pytest.mark.parametrize("slots", [0, -1])
@on_loop
async def test_at_least_one_slot(slots: int) -> None:
    with pytest.raises(ValueError, match="slots must be at least 1"):
        Workers(slots, asyncio.get_running_loop())


@on_loop
async def test_jobs_run_on_the_workers_own_threads() -> None:
    names: list[str] = []
    workers = Workers(1, asyncio.get_running_loop())

    ask(workers, lambda: names.append(threading.current_thread().name))
    await until(lambda: names)

    assert names == ["modelport-run-0"]
    workers.close()


@on_loop
async def test_sources_take_turns() -> None:
    log: list[str] = []
    workers = Workers(1, asyncio.get_running_loop(), Ticks())

    for source in ("a" * 6, "b" * 3, "c"):
        ask(workers, *(noting(log, letter) for letter in source))
    await until(lambda: len(log) == 10)

    assert "".join(log) == "abcababaaa"
    workers.close()


@on_loop
async def test_a_source_that_asks_often_gets_no_more_turns() -> None:
    log: list[str] = []
    workers = Workers(1, asyncio.get_running_loop(), Ticks())
    greedy, modest = (Jobs(workers, *(noting(log, letter) for _ in range(3))) for letter in "gm")

    for _ in range(5):
        greedy.share.request()
    modest.share.request()
    await until(lambda: len(log) == 6)

    assert "".join(log) == "gmgmgm"
    workers.close()


# Time is shared, not turns.


def lasting(clock: Ticks, ticks: int, log: list[str], word: str) -> Callable[[], object]:
    """A job that takes so many ticks of the clock."""

    def job() -> None:
        log.append(word)
        clock.now += ticks - 1

    return job


@on_loop
async def test_sources_get_equal_time_whatever_their_jobs_take() -> None:
    log: list[str] = []
    clock = Ticks()
    workers = Workers(1, asyncio.get_running_loop(), clock)

    ask(workers, *[lasting(clock, 4, log, "s")] * 5)
    ask(workers, *[lasting(clock, 1, log, "q")] * 20)
    await until(lambda: len(log) == 25)

    for turns in range(5, 25, 5):
        # Each has its fair share of the time, within one job of the slow source.
        assert abs(4 * log[:turns].count("s") - log[:turns].count("q")) <= 4
    workers.close()


@on_loop
async def test_time_counts_by_cores() -> None:
    log: list[str] = []
    workers = Workers(3, asyncio.get_running_loop(), Ticks())

    ask(workers, *[noting(log, "w")] * 4, width=3, instances=1)
    ask(workers, *[noting(log, "n")] * 12, instances=1)
    await until(lambda: len(log) == 16)

    assert log[:8].count("w") <= 3
    workers.close()


@on_loop
async def test_a_source_that_was_idle_has_no_credit() -> None:
    log: list[str] = []
    workers = Workers(1, asyncio.get_running_loop(), Ticks())
    ask(workers, *[noting(log, "a")] * 10)
    await until(lambda: len(log) == 10)

    ask(workers, *[noting(log, "b")] * 4)
    ask(workers, *[noting(log, "c")] * 4)
    await until(lambda: len(log) == 18)

    assert "".join(log[10:]) == "bcbcbcbc"
    workers.close()


@on_loop
async def test_a_source_that_comes_back_does_not_make_up_for_its_absence() -> None:
    log: list[str] = []
    began, gate = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        gate.wait(HANG_S)

    workers = Workers(1, asyncio.get_running_loop(), Ticks())
    back = ask(workers, noting(log, "b"))
    ask(workers, *[noting(log, "a")] * 9, hold, *[noting(log, "a")] * 4)
    await until(began.is_set)

    back.jobs.extend([noting(log, "b")] * 4)
    back.share.request()
    gate.set()
    await until(lambda: len(log) == 18)

    assert "".join(log[10:]) in ("babababa", "abababab")
    workers.close()


# Cores, not runs.


class Meter:
    """Jobs that note how many cores are in use, and wait while the gate is shut."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.in_use = 0
        self.most = 0
        self.ended: list[int] = []
        self._lock = threading.Lock()

    def job(self, width: int) -> Callable[[], None]:
        def run() -> None:
            with self._lock:
                self.in_use += width
                self.most = max(self.most, self.in_use)
            self.gate.wait(HANG_S)
            with self._lock:
                self.in_use -= width
                self.ended.append(width)

        return run


@on_loop
async def test_widths_of_all_runs_are_never_more_than_the_slots() -> None:
    workers, meter = Workers(4, asyncio.get_running_loop()), Meter()
    meter.gate.set()

    for width in (1, 2, 3, 4):
        ask(workers, *[meter.job(width)] * 25, width=width)
    await until(lambda: len(meter.ended) == 100)

    assert meter.most <= 4
    assert [meter.ended.count(width) for width in (1, 2, 3, 4)] == [25] * 4
    workers.close()


@on_loop
async def test_a_run_wider_than_the_budget_counts_as_all_of_it() -> None:
    workers, meter = Workers(2, asyncio.get_running_loop()), Meter()

    wide = ask(workers, *[meter.job(2)] * 2, width=8)
    await until(lambda: meter.in_use)
    narrow = ask(workers, meter.job(1))
    await asyncio.sleep(0.01)
    asked_while_busy = narrow.asked
    meter.gate.set()
    await until(lambda: len(meter.ended) == 3)

    assert wide.share.width == 2
    assert asked_while_busy == 0
    assert meter.most == 2
    workers.close()


@on_loop
async def test_a_source_runs_at_most_its_instances_at_once() -> None:
    workers, meter = Workers(4, asyncio.get_running_loop()), Meter()

    few = ask(workers, *[meter.job(1)] * 6, instances=2)
    await until(lambda: meter.in_use == 2)
    other = ask(workers, meter.job(1))
    await until(lambda: meter.in_use == 3)
    left = (len(few.jobs), len(other.jobs))
    meter.gate.set()
    await until(lambda: len(meter.ended) == 7)

    assert left == (4, 0)
    workers.close()


@on_loop
async def test_a_wide_run_is_not_passed_by_for_ever() -> None:
    workers, meter = Workers(2, asyncio.get_running_loop()), Meter()
    narrow = ask(workers, *[meter.job(1)] * 2)
    await until(lambda: meter.in_use == 2)

    ask(workers, meter.job(2), width=2)
    narrow.jobs.extend([meter.job(1)] * 50)
    narrow.share.request()
    meter.gate.set()
    await until(lambda: len(meter.ended) == 53)

    # Those that ran already end first; at most one more had its turn before.
    assert meter.ended.index(2) <= 4
    workers.close()


@on_loop
async def test_no_cores_are_held_for_a_source_that_withdraws() -> None:
    workers, long, short = Workers(2, asyncio.get_running_loop()), Meter(), Meter()
    short.gate.set()
    ask(workers, long.job(1))
    await until(lambda: long.in_use)
    wide = ask(workers, short.job(2), width=2)
    await asyncio.sleep(0)
    behind = ask(workers, short.job(1))
    behind.share.used_s = 1.0
    await asyncio.sleep(0.01)
    ended_while_held = list(short.ended)

    wide.share.withdraw()
    await until(lambda: short.ended)

    assert ended_while_held == []
    assert short.ended == [1]
    long.gate.set()
    workers.close()


# Forecasts.


@on_loop
async def test_a_start_is_foreseen_from_what_runs_and_waits() -> None:
    workers, meter = Workers(2, asyncio.get_running_loop()), Meter()
    own = workers.share(lambda: None)
    idle_s = own.start_in_s(0.0)

    running = [Job(meter.job(1), expected_s=s) for s in (1000.0, 3000.0)]
    workers.share(lambda: running.pop(0) if running else None).request()
    await until(lambda: meter.in_use == 2)
    next_s, behind_s = own.start_in_s(0.0), own.start_in_s(4000.0)
    meter.gate.set()
    await until(lambda: len(meter.ended) == 2)

    assert idle_s == 0
    assert 1000 - HANG_S <= next_s <= 1000
    assert 4000 - HANG_S <= behind_s <= 4000
    workers.close()


@on_loop
async def test_others_get_as_much_time_as_the_source_and_no_more_than_they_have_work_for() -> None:
    workers, meter = Workers(1, asyncio.get_running_loop()), Meter()
    own = workers.share(lambda: None)
    ask(workers, meter.job(1))
    await until(lambda: meter.in_use)
    alone_s = own.start_in_s(10.0)
    workers.share(lambda: None, waiting_s=lambda: 3.0).request()
    workers.share(lambda: None, waiting_s=lambda: 1000.0).request()

    beside_s = own.start_in_s(10.0)
    meter.gate.set()
    await until(lambda: meter.ended)

    assert alone_s == 10
    assert beside_s == 10 + 3 + 10
    workers.close()


@on_loop
async def test_others_take_no_more_cores_than_their_instances_use() -> None:
    workers, meter = Workers(4, asyncio.get_running_loop()), Meter()
    own = workers.share(lambda: None)
    ask(workers, *[meter.job(1)] * 4)
    await until(lambda: meter.in_use == 4)
    workers.share(lambda: None, instances=1, waiting_s=lambda: 1000.0).request()

    beside_s = own.start_in_s(30.0)
    meter.gate.set()
    await until(lambda: len(meter.ended) == 4)

    assert 10 <= beside_s < 11  # the other one core, this one three
    workers.close()


@on_loop
async def test_own_instances_bound_how_fast_the_own_queue_goes() -> None:
    workers = Workers(4, asyncio.get_running_loop())

    assert workers.share(lambda: None, instances=1).start_in_s(8.0) == 8
    assert workers.share(lambda: None, instances=2).start_in_s(8.0) == 4
    assert workers.share(lambda: None, width=4).start_in_s(8.0) == 8
    workers.close()


# Threads.


@on_loop
async def test_a_job_is_formed_only_when_a_thread_is_free() -> None:
    gate = threading.Event()
    workers = Workers(1, asyncio.get_running_loop())
    running = ask(workers, lambda: gate.wait(HANG_S))
    await until(lambda: running.asked)

    waiting = ask(workers, lambda: None)
    await asyncio.sleep(0.01)
    asked_while_busy = waiting.asked
    gate.set()
    await until(lambda: waiting.asked == 2)

    assert asked_while_busy == 0
    workers.close()


@on_loop
async def test_no_more_jobs_at_a_time_than_slots() -> None:
    both = threading.Barrier(3, timeout=HANG_S)
    started: list[int] = []

    def job() -> None:
        started.append(1)
        both.wait()

    workers = Workers(2, asyncio.get_running_loop())
    sources = [ask(workers, *jobs) for jobs in ([job, job], [job], [job])]

    for batch in (2, 4):
        await until(lambda batch=batch: len(started) == batch and both.n_waiting == 2)
        await asyncio.sleep(0.01)
        assert len(started) == batch
        both.wait()

    await until(lambda: all(source.asked and not source.jobs for source in sources))
    workers.close()


@on_loop
async def test_a_job_that_raises_does_not_kill_its_worker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: list[str] = []
    workers = Workers(1, asyncio.get_running_loop())

    def fail() -> None:
        raise KeyError("broken job")

    ask(workers, fail, fail, noting(log, "fine"))
    await until(lambda: log)

    assert log == ["fine"]
    assert [record.message for record in caplog.records] == ["a run job raised"] * 2
    assert len(working()) == 1
    workers.close()


@on_loop
async def test_a_finished_job_holds_nothing() -> None:
    workers = Workers(1, asyncio.get_running_loop())
    done = threading.Event()

    def make() -> tuple[Callable[[], object], Callable[[], object]]:
        array = np.zeros(8)

        def job() -> None:
            array.fill(1)
            done.set()

        return job, weakref.ref(array)

    job, alive = make()
    ask(workers, job)
    del job
    await until(done.is_set)

    await until(lambda: gc.collect() is None or alive() is None)
    workers.close()


@on_loop
async def test_close_ends_the_threads_after_their_job() -> None:
    gate, finished = threading.Event(), threading.Event()

    def job() -> None:
        gate.wait(HANG_S)
        finished.set()

    workers = Workers(3, asyncio.get_running_loop())
    source = ask(workers, job)
    await until(lambda: source.asked)

    gate.set()
    workers.close()

    assert finished.is_set()
    assert working() == []


@on_loop
async def test_close_may_be_called_again() -> None:
    workers = Workers(2, asyncio.get_running_loop())

    workers.close()
    workers.close()

    assert working() == []


@on_loop
async def test_close_gives_up_on_jobs_that_hang() -> None:
    gate, began = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        began.release()
        gate.wait(HANG_S)

    workers = Workers(2, asyncio.get_running_loop())
    ask(workers, hang, hang)
    await until(lambda: began.acquire(blocking=False))
    await until(lambda: began.acquire(blocking=False))

    workers.close(timeout_s=0.05)
    left_alone = len(working())
    gate.set()
    workers.close()

    assert left_alone == 2
    await until(lambda: not working())


def test_a_loop_that_closes_early_ends_the_worker_quietly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate, began = threading.Event(), threading.Event()

    def job() -> None:
        began.set()
        gate.wait(HANG_S)

    async def start() -> Workers:
        workers = Workers(2, asyncio.get_running_loop())
        ask(workers, job)
        await until(began.is_set)
        return workers

    workers = asyncio.run(start())
    gate.set()
    workers.close()

    assert working() == []
    assert caplog.records == []


@on_loop
async def test_a_job_queue_refuses_what_is_too_much_and_shares_the_slots() -> None:
    workers = Workers(1, asyncio.get_running_loop())
    gate = threading.Event()
    log: list[str] = []
    ask(workers, gate.wait)
    await asyncio.sleep(0)
    jobs = JobQueue(workers, limit=2)

    jobs.submit(noting(log, "first"))
    jobs.submit(noting(log, "second"))
    with pytest.raises(Overloaded):
        jobs.submit(noting(log, "third"))
    gate.set()
    await until(lambda: len(log) == 2)

    assert log == ["first", "second"]
    workers.close()
