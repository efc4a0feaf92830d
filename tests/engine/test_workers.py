import asyncio
import gc
import threading
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest

from app.engine.workers import Job, JobQueue, Workers
from app.errors import Overloaded
from tests.engine.conftest import HANG_S, on_loop, until


class Jobs:
    """A source with a list of jobs to give."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs = deque(jobs)
        self.asked = 0

    def next_job(self) -> Job | None:
        self.asked += 1
        return self.jobs.popleft() if self.jobs else None


@pytest.fixture(autouse=True)
def _others() -> None:
    """Worker threads of services that other tests keep running are none of ours."""
    OTHERS.clear()
    OTHERS.update(threading.enumerate())


OTHERS: set[threading.Thread] = set()


def working() -> list[threading.Thread]:
    started = set(threading.enumerate()) - OTHERS
    return [t for t in started if t.name.startswith("modelport-run-")]


def noting(log: list[str], word: str) -> Job:
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

    workers.request(Jobs(lambda: names.append(threading.current_thread().name)))
    await until(lambda: names)

    assert names == ["modelport-run-0"]
    workers.close()


@on_loop
async def test_sources_take_turns() -> None:
    log: list[str] = []
    workers = Workers(1, asyncio.get_running_loop())

    for source in ("a" * 6, "b" * 3, "c"):
        workers.request(Jobs(*(noting(log, letter) for letter in source)))
    await until(lambda: len(log) == 10)

    assert "".join(log) == "abcababaaa"
    workers.close()


@on_loop
async def test_a_source_that_asks_often_gets_no_more_turns() -> None:
    log: list[str] = []
    workers = Workers(1, asyncio.get_running_loop())
    greedy, modest = (Jobs(*(noting(log, letter) for _ in range(3))) for letter in "gm")

    for _ in range(5):
        workers.request(greedy)
    workers.request(modest)
    await until(lambda: len(log) == 6)

    assert "".join(log) == "gmgmgm"
    workers.close()


@on_loop
async def test_a_job_is_formed_only_when_a_thread_is_free() -> None:
    gate = threading.Event()
    workers = Workers(1, asyncio.get_running_loop())
    running, waiting = Jobs(lambda: gate.wait(HANG_S)), Jobs(lambda: None)
    workers.request(running)
    await until(lambda: running.asked)

    workers.request(waiting)
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
    sources = [Jobs(job, job), Jobs(job), Jobs(job)]
    for source in sources:
        workers.request(source)

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

    workers.request(Jobs(fail, fail, noting(log, "fine")))
    await until(lambda: log)

    assert log == ["fine"]
    assert [record.message for record in caplog.records] == ["a run job raised"] * 2
    assert len(working()) == 1
    workers.close()


@on_loop
async def test_a_finished_job_holds_nothing() -> None:
    workers = Workers(1, asyncio.get_running_loop())
    done = threading.Event()

    def make() -> tuple[Job, Callable[[], object]]:
        array = np.zeros(8)

        def job() -> None:
            array.fill(1)
            done.set()

        return job, weakref.ref(array)

    job, alive = make()
    workers.request(Jobs(job))
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
    source = Jobs(job)
    workers.request(source)
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
async def test_close_gives_up_on_jobs_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.workers._JOIN_TIMEOUT_S", 0.05)
    gate, began = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        began.release()
        gate.wait(HANG_S)

    workers = Workers(2, asyncio.get_running_loop())
    workers.request(Jobs(hang, hang))
    await until(lambda: began.acquire(blocking=False))
    await until(lambda: began.acquire(blocking=False))

    workers.close()
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
        workers.request(Jobs(job))
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
    workers.request(Jobs(gate.wait))
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
