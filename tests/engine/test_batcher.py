import asyncio
import logging
import math
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import uvloop

from app.bundle.tensors import Array, Tensors
from app.engine.scheduling.admission import BatcherLimits
from app.engine.scheduling.batcher import Batcher, Observer, Part
from app.engine.scheduling.estimate import unmeasured
from app.engine.scheduling.isolation import Run
from app.engine.scheduling.workers import Job, Workers
from app.errors import (
    DeadlineExceeded,
    Draining,
    EngineError,
    ModelportError,
    Overloaded,
    SessionFailed,
)
from tests.engine.conftest import HANG_S, Ticks, on_loop, skip, until

POISON = -1.0
FAILURES_TO_OPEN = 5


class Doubling:
    """A `run` that doubles `x`, fails on POISON, and waits while its gate is shut."""

    def __init__(self, *, shut: bool = False) -> None:
        self.gate = threading.Event()
        if not shut:
            self.gate.set()
        #: The first value of each row, batch by batch.
        self.batches: list[list[float]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    def __call__(self, inputs: Tensors) -> Mapping[str, Array]:
        x = inputs["x"]
        with self._lock:
            self.batches.append(x[:, 0].tolist())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            assert self.gate.wait(HANG_S)
            if (x == POISON).any():
                raise ValueError("a poison value")
            return {"y": x * 2}
        finally:
            with self._lock:
                self._at_once -= 1

    @property
    def rows(self) -> list[int]:
        return [len(batch) for batch in self.batches]


class Caller:
    """Submits one request and keeps every answer that comes."""

    def __init__(
        self,
        batcher: Batcher,
        *values: float,
        deadline_in_s: float | None = None,
        width: int = 1,
        dtype: str = "float32",
    ) -> None:
        self.answers: list[Mapping[str, Array] | ModelportError] = []
        self.x = np.repeat(np.array([values], dtype=dtype).T, width, axis=1)
        now = asyncio.get_running_loop().time()
        deadline_s = None if deadline_in_s is None else now + deadline_in_s
        self.entry = batcher.submit({"x": self.x}, len(values), deadline_s, self.answers.append)

    @property
    def failure(self) -> ModelportError | None:
        """The one answer, where it is an error."""
        (answer,) = self.answers
        return answer if isinstance(answer, ModelportError) else None

    @property
    def is_right(self) -> bool:
        """It has exactly one answer: its own rows in order, in its own dtype."""
        if len(self.answers) != 1 or isinstance(self.answers[0], ModelportError):
            return False
        y = self.answers[0]["y"]
        return y.dtype == self.x.dtype and np.array_equal(y, self.x * 2)


@contextmanager
def batching(
    run: Run,
    *,
    slots: int = 1,
    max_rows: int = 8,
    queue_rows: int = 64,
    join_requests: bool = True,
    probe: Callable[[], None] = lambda: None,
    observer: Observer | None = None,
    measured_s: Callable[[int], float | None] = unmeasured,
    **limits: Any,
) -> Iterator[Batcher]:
    """A batcher with worker threads of its own."""
    with working(slots) as workers:
        taken = BatcherLimits(max_rows, queue_rows, join_requests, **limits)
        yield Batcher(run, taken, workers, probe, observer, measured_s=measured_s)


@contextmanager
def working(slots: int, clock: Callable[[], float] = time.perf_counter) -> Iterator[Workers]:
    workers = Workers(slots, asyncio.get_running_loop(), clock)
    try:
        yield workers
    finally:
        workers.close()


async def all_answered(callers: Sequence[Caller]) -> None:
    await until(lambda: all(caller.answers for caller in callers))


async def running(run: Doubling, batches: int = 1) -> None:
    """Until a worker thread holds that many batches."""
    await until(lambda: len(run.batches) >= batches)


# Callers do not harm each other.


@pytest.mark.parametrize("leaving", [{0}, {3}, {1, 2}, {0, 1, 2}, {0, 1, 2, 3}])
@on_loop
async def test_cancelled_caller_never_affects_batch_mates(leaving: set[int]) -> None:
    run = Doubling(shut=True)
    with batching(run) as batcher:
        callers = [Caller(batcher, value, value + 10) for value in range(4)]
        await running(run)

        for index in leaving:
            callers[index].entry.cancel()
        run.gate.set()
        await until(lambda: not batcher.running_batches)

        assert run.rows == [8]
        for index, caller in enumerate(callers):
            assert caller.answers == [] if index in leaving else caller.is_right


@on_loop
async def test_failing_run_never_affects_other_batches_and_the_loop_lives() -> None:
    slow = Doubling(shut=True)

    def run(inputs: Tensors) -> Mapping[str, Array]:
        if inputs["x"].shape[1] == 2:
            raise MemoryError
        return slow(inputs)

    with batching(run, slots=2) as batcher:
        beside = Caller(batcher, 1)
        await running(slow)
        failing = [Caller(batcher, value, width=2) for value in (1, 2, 3)]
        await all_answered(failing)
        slow.gate.set()
        after = Caller(batcher, 2)
        await all_answered([beside, after])

        assert beside.is_right
        assert after.is_right
        assert all(isinstance(caller.failure, SessionFailed) for caller in failing)


@on_loop
async def test_expiring_while_running_never_affects_batch_mates() -> None:
    run = Doubling(shut=True)
    with batching(run) as batcher:
        late, mate = Caller(batcher, 1, deadline_in_s=5), Caller(batcher, 2)
        await running(run)

        skip(6)
        await all_answered([late])
        run.gate.set()
        await all_answered([mate])

        assert run.batches == [[1, 2]]
        assert isinstance(late.failure, DeadlineExceeded)
        assert mate.is_right


@on_loop
async def test_callback_that_raises_never_affects_batch_mates(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def done(outcome: object) -> None:
        raise KeyError("broken caller")

    with batching(Doubling()) as batcher:
        batcher.submit({"x": np.ones((1, 1))}, 1, None, done)
        mate = Caller(batcher, 2, dtype="float64")
        await all_answered([mate])

        assert mate.is_right
        assert [r.message for r in caplog.records] == ["a caller's completion callback raised"]


@on_loop
async def test_observer_that_raises_costs_nobody_an_answer() -> None:
    class Broken:
        def batch(self, rows: int, waits_s: Sequence[float], run_s: float) -> None:
            raise KeyError("broken observer")

    seen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    with batching(Doubling(), observer=Broken()) as batcher:
        callers = [Caller(batcher, value) for value in (1, 2)]
        await all_answered(callers)
        await batcher.close(HANG_S)

        assert all(caller.is_right for caller in callers)
        assert len(seen) == 1


# What fails, and how far.


@pytest.mark.parametrize("requests", [1, 2, 3, 5, 8, 16])
@on_loop
async def test_poison_is_found_by_bisecting_by_request_within_2_log2_n_plus_2_runs(
    requests: int,
) -> None:
    for position in range(requests):
        run = Doubling()
        with batching(run, max_rows=2 * requests) as batcher:
            values = [POISON if index == position else index for index in range(requests)]
            callers = [Caller(batcher, value, 100) for value in values]
            await all_answered(callers)

            assert isinstance(callers[position].failure, SessionFailed)
            assert all(c.is_right for index, c in enumerate(callers) if index != position)
            assert run.rows[0] == 2 * requests
            assert len(run.batches) <= 2 * math.log2(requests) + 2


@on_loop
async def test_after_that_the_rest_fail() -> None:
    run = Doubling()
    with batching(run, max_rows=32) as batcher:
        callers = [Caller(batcher, POISON if value % 2 else value) for value in range(32)]
        await all_answered(callers)

        assert len(run.batches) == 2 * math.log2(32) + 2
        assert all(caller.failure or caller.is_right for caller in callers)
        assert all(caller.failure for caller in callers[1::2])
        assert any(caller.failure for caller in callers[0::2])


@pytest.mark.parametrize("poisons", [{0, 1}, {2, 3}, {6, 7}])
@on_loop
async def test_poisons_that_are_all_found_fail_exactly_their_requests(
    poisons: set[int],
) -> None:
    with batching(Doubling(), max_rows=32) as batcher:
        callers = [Caller(batcher, POISON if v in poisons else v) for v in range(8)]
        await all_answered(callers)

        assert {index for index, caller in enumerate(callers) if caller.failure} == poisons
        assert all(c.is_right for index, c in enumerate(callers) if index not in poisons)


@on_loop
async def test_row_count_mismatch_fails_that_batch() -> None:
    runs: list[int] = []

    def run(inputs: Tensors) -> Mapping[str, Array]:
        runs.append(len(inputs["x"]))
        return {"y": inputs["x"][: 3 if len(runs) == 1 else None] * 2}

    with batching(run) as batcher:
        callers = [Caller(batcher, value) for value in range(4)]
        await all_answered(callers)
        after = Caller(batcher, 9)
        await all_answered([after])

        assert runs == [4, 1]
        assert {str(caller.failure) for caller in callers} == {
            "output 'y' has shape [3, 1] for 4 input rows"
        }
        assert after.is_right


# The breaker.


class Model:
    """A `run` and a `probe` that fail while `sound` is not set."""

    def __init__(self, *, sound: bool = False, run: Run | None = None) -> None:
        self.sound = sound
        self.probes = 0
        self._run = run or Doubling()

    def run(self, inputs: Tensors) -> Mapping[str, Array]:
        if not self.sound:
            raise ValueError("broken model")
        return self._run(inputs)

    def probe(self) -> None:
        self.probes += 1
        self.run({"x": np.ones((1, 1), dtype=np.float32)})


async def fail_batches(batcher: Batcher, count: int) -> None:
    for _ in range(count):
        caller = Caller(batcher, POISON)
        await all_answered([caller])
        assert isinstance(caller.failure, EngineError)


def refusal(batcher: Batcher) -> Overloaded | None:
    """How the breaker refuses a request, or None where it is taken."""
    try:
        Caller(batcher, 1).entry.cancel()
    except Overloaded as error:
        return error
    return None


def pause_s(batcher: Batcher) -> int | None:
    """For how long the breaker refuses requests, or None where it does not."""
    error = refusal(batcher)
    return None if error is None else error.retry_after_s


@on_loop
async def test_repeated_total_failure_opens_a_breaker_for_that_model() -> None:
    broken, sound = Model(), Model(sound=True)
    with working(1) as workers:
        limits = BatcherLimits(8, 64)
        batcher = Batcher(broken.run, limits, workers, broken.probe)
        neighbour = Batcher(sound.run, limits, workers, sound.probe)

        await fail_batches(batcher, FAILURES_TO_OPEN - 1)
        before = (broken.probes, refusal(batcher))
        await fail_batches(batcher, 1)
        await until(lambda: refusal(batcher))
        beside = Caller(neighbour, 1)
        await all_answered([beside])

        assert before == (0, None)
        assert str(refusal(batcher)) == "this model fails on its own golden row and is paused"
        assert pause_s(batcher) == 1
        assert broken.probes == 1
        assert beside.is_right
        assert batcher.queued_rows == 0


@on_loop
async def test_bad_requests_alone_never_pause_a_sound_model() -> None:
    model = Model(sound=True)
    with batching(model.run, probe=model.probe) as batcher:
        await fail_batches(batcher, 4 * FAILURES_TO_OPEN)
        await until(lambda: model.probes == 4)
        caller = Caller(batcher, 7)
        await all_answered([caller])

        assert caller.is_right


@on_loop
async def test_one_success_starts_the_count_of_failures_again() -> None:
    model = Model()
    with batching(model.run, probe=model.probe) as batcher:
        for _ in range(3):
            await fail_batches(batcher, FAILURES_TO_OPEN - 1)
            model.sound = True
            caller = Caller(batcher, 1)
            await all_answered([caller])
            model.sound = False

        assert model.probes == 0


@on_loop
async def test_a_batch_that_partly_succeeds_is_no_total_failure() -> None:
    model = Model(sound=True)
    with batching(model.run, probe=model.probe) as batcher:
        for _ in range(2 * FAILURES_TO_OPEN):
            callers = [Caller(batcher, POISON), Caller(batcher, 1)]
            await all_answered(callers)

        assert model.probes == 0


@on_loop
async def test_breaker_lets_requests_in_after_its_cool_down_and_closes_on_success() -> None:
    model = Model()
    with batching(model.run, probe=model.probe) as batcher:
        await fail_batches(batcher, FAILURES_TO_OPEN)
        await until(lambda: refusal(batcher))

        model.sound = True
        skip(1.01)
        callers = [Caller(batcher, value) for value in range(3)]
        await all_answered(callers)

        assert all(caller.is_right for caller in callers)
        model.sound = False
        await fail_batches(batcher, FAILURES_TO_OPEN - 1)
        assert refusal(batcher) is None
        await fail_batches(batcher, 1)
        await until(lambda: refusal(batcher))
        assert pause_s(batcher) == 1


@on_loop
async def test_breaker_stays_longer_open_after_each_failed_trial() -> None:
    model = Model()
    pauses = []
    with batching(model.run, probe=model.probe) as batcher:
        await fail_batches(batcher, FAILURES_TO_OPEN)
        for probes in range(1, 5):
            await until(lambda: refusal(batcher))
            pauses.append(pause_s(batcher))
            assert model.probes == probes
            skip(pauses[-1] or 0)
            await fail_batches(batcher, 1)

    assert pauses == [1, 2, 4, 8]


@on_loop
async def test_failures_in_the_queue_open_the_breaker_only_once() -> None:
    model = Model()
    gate = threading.Event()

    def run(inputs: Tensors) -> Mapping[str, Array]:
        assert gate.wait(HANG_S)
        return model.run(inputs)

    with batching(run, probe=model.probe, slots=2, max_rows=1) as batcher:
        callers = [Caller(batcher, value) for value in range(4 * FAILURES_TO_OPEN)]
        gate.set()
        await all_answered(callers)
        await until(lambda: refusal(batcher))

        assert model.probes == 1
        assert pause_s(batcher) == 1


@on_loop
async def test_failures_during_a_probe_ask_for_no_other() -> None:
    model, gate = Model(), threading.Event()
    probes: list[int] = []

    def probe() -> None:
        probes.append(1)
        assert gate.wait(HANG_S)
        model.probe()

    with batching(model.run, probe=probe, slots=2) as batcher:
        await fail_batches(batcher, FAILURES_TO_OPEN)
        await until(lambda: probes)
        await fail_batches(batcher, FAILURES_TO_OPEN)
        gate.set()
        await until(lambda: refusal(batcher))

        assert len(probes) == 1
        assert pause_s(batcher) == 1


# What is refused at once.


@on_loop
async def test_full_queue_refuses_at_once() -> None:
    run = Doubling(shut=True)
    with batching(run, max_rows=4, queue_rows=10) as batcher:
        first = Caller(batcher, 0)
        await running(run)
        waiting = [Caller(batcher, 1, 2, 3) for _ in range(3)]

        with pytest.raises(Overloaded, match="too many requests are waiting") as refused:
            Caller(batcher, 4, 5)
        last = Caller(batcher, 6)
        assert batcher.queued_rows == 10
        run.gate.set()
        await all_answered([first, *waiting, last])

        assert refused.value.retry_after_s == 1
        assert all(caller.is_right for caller in [first, *waiting, last])
        assert batcher.queued_rows == 0


@on_loop
async def test_a_request_larger_than_the_queue_gets_in_when_nobody_waits() -> None:
    with batching(Doubling(), queue_rows=2) as batcher:
        large = Caller(batcher, 1, 2, 3, 4)

        with pytest.raises(Overloaded):
            Caller(batcher, 5)
        await all_answered([large])

        assert large.is_right


class Slow(Doubling):
    """Its first batch takes a while, so that a wait can be predicted."""

    def __call__(self, inputs: Tensors) -> Mapping[str, Array]:
        if not self.batches:
            time.sleep(0.02)
        return super().__call__(inputs)


@pytest.mark.parametrize(("join_requests", "rows"), [(True, 8), (False, 1)])
@on_loop
async def test_predicted_wait_past_the_deadline_refuses_at_once(
    join_requests: bool, rows: int
) -> None:
    run = Slow()
    with batching(run, queue_rows=10_000, join_requests=join_requests) as batcher:
        await all_answered([Caller(batcher, 0)])
        at_rest_s = batcher.predicted_wait_s()
        run.gate.clear()
        callers = [Caller(batcher, *range(rows)) for _ in range(100)]
        await running(run, 2)

        predicted_s = batcher.predicted_wait_s()
        with pytest.raises(Overloaded, match="longer than the request's time limit") as refused:
            Caller(batcher, 1, deadline_in_s=1)
        patient = Caller(batcher, 1, deadline_in_s=predicted_s + 1000)
        run.gate.set()
        await all_answered([*callers, patient])

        assert at_rest_s == 0
        assert predicted_s >= 99 * 0.02
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s >= 2
        assert patient.is_right


@on_loop
async def test_an_idle_server_takes_any_deadline_however_slow_the_model() -> None:
    class VerySlow:
        def batch(self, rows: int, waits_s: Sequence[float], run_s: float) -> None:
            runs_s.append(run_s)

    runs_s: list[float] = []
    with batching(Slow(), observer=VerySlow()) as batcher:
        await all_answered([Caller(batcher, 0)])

        Caller(batcher, 1, deadline_in_s=runs_s[0] / 2).entry.cancel()

        assert runs_s[0] >= 0.02


@on_loop
async def test_no_wait_is_predicted_while_a_worker_is_free() -> None:
    run = Doubling(shut=True)
    with batching(run, slots=2, measured_s=lambda rows: 1000.0) as batcher:
        callers = [Caller(batcher, 1)]
        await running(run)
        one_free_s = batcher.predicted_wait_s()
        callers.append(Caller(batcher, 2))
        await running(run, 2)
        none_free_s = batcher.predicted_wait_s()
        run.gate.set()
        await all_answered(callers)

        assert one_free_s == 0
        assert 1000 - HANG_S <= none_free_s <= 1000


@pytest.mark.parametrize("deadline_in_s", [0.0, -1.0])
@on_loop
async def test_a_deadline_that_has_passed_is_refused(deadline_in_s: float) -> None:
    run = Doubling()
    with batching(run) as batcher:
        with pytest.raises(DeadlineExceeded):
            Caller(batcher, 1, deadline_in_s=deadline_in_s)

        assert batcher.queued_rows == 0


@on_loop
async def test_the_queue_is_bounded_in_bytes_too() -> None:
    run = Doubling(shut=True)
    with batching(run, queue_rows=1000, queue_bytes=100) as batcher:
        first = Caller(batcher, 0)
        await running(run)
        waiting = [Caller(batcher, *range(20)), Caller(batcher, 1)]

        with pytest.raises(Overloaded, match="too many requests are waiting"):
            Caller(batcher, *range(5))
        last = Caller(batcher, *range(4))
        run.gate.set()
        await all_answered([first, *waiting, last])
        large = Caller(batcher, *range(100))
        await all_answered([large])

        assert all(caller.is_right for caller in [first, *waiting, last, large])


@on_loop
async def test_strings_count_by_their_characters() -> None:
    gate = threading.Event()

    def run(inputs: Tensors) -> Mapping[str, Array]:
        gate.wait(HANG_S)
        return {"y": inputs["s"]}

    with batching(run, queue_bytes=1000) as batcher:
        answers: list[object] = []

        def send(length: int) -> None:
            words = np.array(["x" * length, ""], dtype=object)
            batcher.submit({"s": words}, 2, None, answers.append)

        send(1)
        await until(lambda: batcher.running_batches)
        send(600)
        with pytest.raises(Overloaded):
            send(400)
        send(300)
        gate.set()
        await until(lambda: len(answers) == 3)


@on_loop
async def test_a_run_of_its_own_that_outlasts_the_deadline_is_refused_behind_others() -> None:
    run = Doubling(shut=True)
    with batching(run, measured_s=lambda rows: 100.0 * rows) as batcher:
        callers = [Caller(batcher, 0)]
        await running(run)
        callers.append(Caller(batcher, 1, deadline_in_s=251))

        # Some 100 s until the running one ends, then 300 s of a batch of three rows; and a margin.
        with pytest.raises(Overloaded, match="longer than the request's time limit") as refused:
            Caller(batcher, 2, 3, deadline_in_s=251)
        callers.append(Caller(batcher, 2, 3, deadline_in_s=501))
        run.gate.set()
        await all_answered(callers)

        assert refused.value.retry_after_s is not None
        assert 249 - 2 * HANG_S <= refused.value.retry_after_s <= 249
        assert all(caller.is_right for caller in callers)


@on_loop
async def test_a_request_that_joins_a_batch_does_not_wait_for_it() -> None:
    run = Doubling(shut=True)
    with batching(run, max_rows=2, measured_s=lambda rows: 100.0) as batcher:
        callers = [Caller(batcher, 0)]
        await running(run)
        callers += [Caller(batcher, value, deadline_in_s=251) for value in (1, 2)]

        with pytest.raises(Overloaded):
            Caller(batcher, 3, deadline_in_s=251)
        run.gate.set()
        await all_answered(callers)

        assert run.batches == [[0], [1, 2]]


@on_loop
async def test_work_of_other_models_counts_as_wait() -> None:
    run = Doubling(shut=True)
    with working(1) as workers:
        limits = BatcherLimits(1, 64)
        slow = Batcher(run, limits, workers, measured_s=lambda rows: 1000.0)
        quick = Batcher(run, limits, workers, measured_s=lambda rows: 1.0)
        callers = [Caller(slow, 0)]
        await running(run)

        with pytest.raises(Overloaded):
            Caller(quick, 1, deadline_in_s=1000 - HANG_S)
        callers.append(Caller(quick, 2, deadline_in_s=1252))
        run.gate.set()
        await all_answered(callers)

        assert all(caller.is_right for caller in callers)


@on_loop
async def test_what_would_be_refused_can_be_asked_before_it_is_read() -> None:
    run = Doubling(shut=True)
    with batching(run, max_rows=1, queue_rows=2, measured_s=lambda rows: 100.0) as batcher:
        loop = asyncio.get_running_loop()
        batcher.check(1, 0, loop.time() + 1)
        callers = [Caller(batcher, 0)]
        await running(run)
        callers.append(Caller(batcher, 1))

        with pytest.raises(Overloaded, match="longer than"):
            batcher.check(1, 0, loop.time() + 100)
        batcher.check(1, 0, loop.time() + 376)
        callers.append(Caller(batcher, 2))
        with pytest.raises(Overloaded, match="too many"):
            batcher.check(1, 0, None)
        with pytest.raises(DeadlineExceeded):
            batcher.check(1, 0, loop.time())
        run.gate.set()
        await all_answered(callers)
        await batcher.close(HANG_S)
        with pytest.raises(Draining):
            batcher.check(1, 0, None)


@on_loop
async def test_retry_after_of_a_full_queue_is_until_there_is_room() -> None:
    run = Doubling(shut=True)
    with batching(run, max_rows=1, queue_rows=10, measured_s=lambda rows: 100.0) as batcher:
        callers = [Caller(batcher, 0)]
        await running(run)
        callers += [Caller(batcher, value) for value in range(10)]

        with pytest.raises(Overloaded) as one:
            Caller(batcher, 1)
        with pytest.raises(Overloaded) as five:
            Caller(batcher, 1, 2, 3, 4, 5)
        run.gate.set()
        await all_answered(callers)

        # One and five of ten that wait, which take 1000 s behind the one that runs.
        assert one.value.retry_after_s is not None
        assert five.value.retry_after_s is not None
        assert 100 <= one.value.retry_after_s <= 111
        assert 500 <= five.value.retry_after_s <= 551


# What is dropped before it runs.


@on_loop
async def test_expired_entries_are_dropped_before_running() -> None:
    run = Doubling(shut=True)
    with batching(run) as batcher:
        first = Caller(batcher, 0)
        await running(run)
        queue = [Caller(batcher, v, deadline_in_s=5 if v % 2 else 50) for v in range(1, 7)]

        skip(6)
        await all_answered(queue[::2])
        rows_left = batcher.queued_rows
        run.gate.set()
        await all_answered([first, *queue])

        assert rows_left == 3
        assert run.batches == [[0], [2, 4, 6]]
        assert all(isinstance(caller.failure, DeadlineExceeded) for caller in queue[::2])
        assert all(caller.is_right for caller in queue[1::2])


@on_loop
async def test_expired_entries_are_dropped_even_when_the_loop_lags_behind_its_timers() -> None:
    run = Doubling()
    with batching(run) as batcher:
        late = [Caller(batcher, v, deadline_in_s=5) for v in (1, 2)]
        live = Caller(batcher, 3)
        also_late = Caller(batcher, 4, deadline_in_s=5)

        # No turn of the loop has passed, so neither timers nor workers have done anything yet.
        skip(6)
        job = batcher._next_job()
        assert job is not None
        assert job.finish is not None
        job.finish(job.run())
        await all_answered([*late, live, also_late])

        assert run.batches == [[3]]
        assert live.is_right
        assert all(isinstance(c.failure, DeadlineExceeded) for c in (*late, also_late))
        assert batcher._next_job() is None


@on_loop
async def test_cancelled_entries_are_dropped_before_running() -> None:
    run = Doubling(shut=True)
    with batching(run, max_rows=2) as batcher:
        first = Caller(batcher, 0)
        await running(run)
        queue = [Caller(batcher, value) for value in range(1, 7)]

        for index in (0, 2, 3, 5):
            queue[index].entry.cancel()
            queue[index].entry.cancel()
        rows_left = batcher.queued_rows
        run.gate.set()
        await all_answered([first, queue[1], queue[4]])

        assert rows_left == 2
        assert run.batches == [[0], [2, 5]]
        assert queue[1].is_right
        assert queue[4].is_right
        assert [caller.answers for caller in queue].count([]) == 4


@on_loop
async def test_cancelled_entries_free_their_memory_while_every_worker_is_busy() -> None:
    run = Doubling(shut=True)
    with batching(run) as batcher:
        held = [Caller(batcher, 0), Caller(batcher, 1, width=2)]
        await running(run)
        gone = Caller(batcher, 2, width=2)
        array = weakref.ref(gone.x)

        gone.entry.cancel()
        del gone

        assert array() is None
        run.gate.set()
        await all_answered(held)


# When batches form.


@on_loop
async def test_idle_server_adds_no_wait() -> None:
    run = Doubling(shut=True)
    with batching(run, slots=2) as batcher:
        for batches in (1, 2):
            Caller(batcher, batches)
            await asyncio.sleep(0)  # one turn of the loop

            assert (batcher.queued_rows, batcher.running_batches) == (0, batches)
        run.gate.set()
        await batcher.close(HANG_S)


@on_loop
async def test_what_arrives_in_one_turn_of_the_loop_goes_together() -> None:
    run = Doubling()
    with batching(run) as batcher:
        callers = [Caller(batcher, value) for value in range(5)]
        await all_answered(callers)

        assert run.batches == [[0, 1, 2, 3, 4]]


@on_loop
async def test_next_batch_forms_while_this_one_runs() -> None:
    run = Doubling(shut=True)
    with batching(run) as batcher:
        callers = [Caller(batcher, 0)]
        await running(run)
        for value in range(1, 10):
            callers.append(Caller(batcher, value))
            await asyncio.sleep(0)
        rows_waiting = batcher.queued_rows
        run.gate.set()
        await all_answered(callers)

        assert rows_waiting == 9
        assert run.batches == [[0], [1, 2, 3, 4, 5, 6, 7, 8], [9]]
        assert all(caller.is_right for caller in callers)


@on_loop
async def test_only_equal_trailing_shape_and_dtype_share_a_batch() -> None:
    run = Doubling(shut=True)
    with batching(run) as batcher:
        callers = [Caller(batcher, 0)]
        await running(run)
        kinds = [(1, "float32"), (2, "float32"), (1, "float64"), (1, "int32")] * 2
        callers += [
            Caller(batcher, value, width=width, dtype=dtype)
            for value, (width, dtype) in enumerate(kinds, start=1)
        ]
        run.gate.set()
        await all_answered(callers)

        assert run.batches == [[0], [1, 5], [2, 6], [3, 7], [4, 8]]
        assert all(caller.is_right for caller in callers)


@on_loop
async def test_only_equal_input_names_share_a_batch() -> None:
    seen: list[dict[str, int]] = []
    answers: list[object] = []

    def run(inputs: Tensors) -> Mapping[str, Array]:
        seen.append({name: len(array) for name, array in inputs.items()})
        return {"y": next(iter(inputs.values()))}

    figures = Figures()
    with batching(run, observer=figures) as batcher:
        for names in ("ab", "a", "ba", "c"):
            inputs = {name: np.ones((1, 1)) for name in names}
            batcher.submit(inputs, 1, None, answers.append)
        await until(lambda: len(figures.batches) == 3)

        assert seen == [{"a": 2, "b": 2}, {"a": 1}, {"c": 1}]
        assert len(answers) == 4


@on_loop
async def test_requests_that_may_not_join_run_alone_whatever_rows_they_give() -> None:
    batches: list[list[float]] = []

    def run(inputs: Tensors) -> Mapping[str, Array]:
        batches.append(inputs["x"][:, 0].tolist())
        return {"mean": inputs["x"].mean(axis=0)}

    with batching(run, join_requests=False) as batcher:
        callers = [Caller(batcher, 1, 3), Caller(batcher, 5), Caller(batcher, 6, 8)]
        await all_answered(callers)

        assert batches == [[1, 3], [5], [6, 8]]
        means = [c.answers[0]["mean"].tolist() for c in callers]  # type: ignore[call-overload]
        assert means == [[2], [5], [7]]


@on_loop
async def test_each_caller_gets_its_own_rows_in_order() -> None:
    run = Doubling()
    with batching(run, max_rows=100, queue_rows=100) as batcher:
        sizes = [3, 1, 7, 2, 5, 1, 30]
        starts = np.cumsum([0, *sizes])
        callers = [Caller(batcher, *range(start, end)) for start, end in pairwise(starts.tolist())]
        await all_answered(callers)

        assert run.batches == [list(range(sum(sizes)))]
        assert all(caller.is_right for caller in callers)


@on_loop
async def test_budget_counts_rows_not_requests() -> None:
    run = Doubling(shut=True)
    with batching(run, max_rows=4) as batcher:
        first = Caller(batcher, 0)
        await running(run)
        sizes = [2, 2, 1, 3, 3, 2, 1, 1, 1, 6, 1]
        callers = [Caller(batcher, *range(size)) for size in sizes]
        run.gate.set()
        await all_answered([first, *callers])

        assert run.rows == [1, 4, 4, 3, 4, 1, 6, 1]
        assert all(caller.is_right for caller in callers)


@on_loop
async def test_what_is_copied_together_for_a_run_is_bounded_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.engine.scheduling.waiting.MAX_JOINED_BYTES", 16)
    run = Doubling(shut=True)
    with batching(run, max_rows=100) as batcher:
        first = Caller(batcher, 0)
        await running(run)
        callers = [Caller(batcher, *range(size)) for size in (2, 2, 1, 9, 3)]
        run.gate.set()
        await all_answered([first, *callers])

        assert run.rows == [1, 4, 1, 9, 3]
        assert all(caller.is_right for caller in callers)


def parts_of(values: Sequence[float], size: int, answers: list[object]) -> list[Part]:
    """A large request, cut."""
    x = np.array([values], dtype="float32").T
    starts = range(0, len(values), size)
    return [
        Part({"x": x[start : start + size]}, len(x[start : start + size]), answers.append)
        for start in starts
    ]


@on_loop
async def test_a_large_request_leaves_room_for_small_ones_between_its_parts() -> None:
    run = Doubling(shut=True)
    with batching(run, max_rows=2, slots=1) as batcher:
        first = Caller(batcher, 0)
        await running(run)
        answers: list[object] = []
        batcher.submit_parts(parts_of(range(10, 20), 2, answers), None)
        small = [Caller(batcher, value) for value in (1, 2, 3)]
        run.gate.set()
        await all_answered([first, *small])
        await until(lambda: len(answers) == 5)

        # One part stands in line for the one that may run at a time; others came meanwhile.
        assert run.batches == [
            [0],
            [10, 11],
            [1, 2],
            [3],
            [12, 13],
            [14, 15],
            [16, 17],
            [18, 19],
        ]
        assert all(caller.is_right for caller in small)


@on_loop
async def test_parts_that_wait_their_turn_leave_with_their_request() -> None:
    run = Doubling(shut=True)
    with batching(run, max_rows=2) as batcher:
        first = Caller(batcher, 0)
        await running(run)
        answers: list[object] = []
        loop = asyncio.get_running_loop()
        cancelled = batcher.submit_parts(parts_of(range(10), 2, answers), None)
        expiring = batcher.submit_parts(parts_of(range(10), 2, answers), loop.time() + 5)
        rows_before = batcher.queued_rows

        for entry in cancelled:
            entry.cancel()
        skip(6)
        await until(lambda: len(answers) == len(expiring))
        rows_after = batcher.queued_rows
        run.gate.set()
        await all_answered([first])
        await batcher.close(HANG_S)

        assert (rows_before, rows_after) == (20, 0)
        assert run.batches == [[0]]
        assert {type(answer) for answer in answers} == {DeadlineExceeded}


@on_loop
async def test_parts_are_admitted_together_or_not_at_all() -> None:
    run = Doubling(shut=True)
    with batching(run, max_rows=2, queue_rows=10) as batcher:
        callers = [Caller(batcher, 0)]
        await running(run)
        callers.append(Caller(batcher, 1))
        answers: list[object] = []

        with pytest.raises(Overloaded):
            batcher.submit_parts(parts_of(range(10), 2, answers), None)
        rows_waiting = batcher.queued_rows
        batcher.submit_parts(parts_of(range(9), 2, answers), None)
        run.gate.set()
        await until(lambda: len(answers) == 5)

        assert rows_waiting == 1


@on_loop
async def test_models_share_one_run_budget_of_cores_fairly() -> None:
    run = Doubling(shut=True)
    with working(1, Ticks()) as workers:
        many, few, one = (Batcher(run, BatcherLimits(2, 64), workers) for _ in range(3))
        first = Caller(many, 0)
        await running(run)
        callers = [Caller(many, 1, 1) for _ in range(5)]
        callers += [Caller(few, 2, 2) for _ in range(2)]
        callers += [Caller(one, 3)]
        run.gate.set()
        await all_answered([first, *callers])

        # Each run takes one tick. `many` has had one, and the others start where it started.
        assert [int(batch[0]) for batch in run.batches] == [0, 2, 3, 1, 2, 1, 1, 1, 1]


@on_loop
async def test_models_together_never_run_more_batches_than_slots() -> None:
    run = Doubling(shut=True)
    with working(2) as workers:
        batchers = [Batcher(run, BatcherLimits(1, 64), workers) for _ in range(3)]
        callers = [Caller(batcher, value) for batcher in batchers for value in range(4)]
        await running(run, 2)
        at_work = sum(batcher.running_batches for batcher in batchers)
        run.gate.set()
        await all_answered(callers)

        assert at_work == 2
        assert run.most_at_once == 2
        assert len(run.batches) == 12


# Runs on the event loop.


class Threads(Doubling):
    """Notes on which threads it runs."""

    def __init__(self, **terms: Any) -> None:
        super().__init__(**terms)
        self.threads: list[str] = []

    def __call__(self, inputs: Tensors) -> Mapping[str, Array]:
        self.threads.append(threading.current_thread().name)
        return super().__call__(inputs)


@on_loop
async def test_small_batches_run_on_the_loop_and_larger_ones_on_threads() -> None:
    run, figures = Threads(), Figures()
    with batching(run, inline_rows=2, observer=figures) as batcher:
        small = [Caller(batcher, 1), Caller(batcher, 2)]
        early = [list(caller.answers) for caller in small]
        await asyncio.sleep(0)
        after_one_turn = [caller.is_right for caller in small]
        large = [Caller(batcher, value) for value in (3, 4, 5)]
        await all_answered(large)
        await batcher.close(HANG_S)

        assert early == [[], []]
        assert after_one_turn == [True, True]
        assert run.batches == [[1, 2], [3, 4, 5]]
        assert run.threads == ["MainThread", "modelport-run-0"]
        assert all(caller.is_right for caller in large)
        assert [rows for rows, _, _ in figures.batches] == [2, 3]


@on_loop
async def test_where_nothing_more_comes_a_run_need_not_wait_for_a_turn_of_the_loop() -> None:
    run = Threads()
    with batching(run, inline_rows=2) as batcher:
        callers = [Caller(batcher, 1), Caller(batcher, 2)]
        batcher.hurry()
        hurried = [caller.is_right for caller in callers]
        batcher.hurry()
        later = Caller(batcher, 3)
        await all_answered([later])

        assert hurried == [True, True]
        assert run.batches == [[1, 2], [3]]


@on_loop
async def test_a_run_on_the_loop_waits_for_no_slot_and_is_never_refused_for_one() -> None:
    run = Threads(shut=True)
    with working(1) as workers:
        gate = threading.Event()
        hog = iter([Job(lambda: gate.wait(HANG_S), expected_s=1000.0)])
        workers.share(lambda: next(hog, None)).request()
        await asyncio.sleep(0)
        run.gate.set()
        batcher = Batcher(run, BatcherLimits(8, 64, inline_rows=2), workers)
        callers = [Caller(batcher, value, deadline_in_s=HANG_S) for value in (1, 2)]
        await all_answered(callers)
        gate.set()

        assert run.threads == ["MainThread"]
        assert all(caller.is_right for caller in callers)


@on_loop
async def test_what_a_thread_leaves_waiting_runs_on_the_loop() -> None:
    run = Threads()
    with batching(run, inline_rows=2, max_rows=8) as batcher:
        callers = [Caller(batcher, value) for value in range(9)]
        await all_answered(callers)

        assert sorted(zip(run.rows, run.threads, strict=True)) == [
            (1, "MainThread"),
            (8, "modelport-run-0"),
        ]
        assert all(caller.is_right for caller in callers)


@on_loop
async def test_a_turn_of_the_loop_holds_few_runs() -> None:
    run = Threads()
    with batching(run, inline_rows=1, max_rows=1) as batcher:
        callers = [Caller(batcher, value) for value in range(20)]
        turns = []
        while len(run.batches) < 20:
            await asyncio.sleep(0)
            turns.append(len(run.batches))

        assert turns[0] <= 4
        assert max(after - before for before, after in pairwise(turns)) <= 4
        assert set(run.threads) == {"MainThread"}
        assert all(caller.is_right for caller in callers)


@on_loop
async def test_late_and_cancelled_requests_never_run_on_the_loop() -> None:
    run = Threads()
    with batching(run, inline_rows=8) as batcher:
        late, gone = (Caller(batcher, value, deadline_in_s=5) for value in (1, 2))
        live = Caller(batcher, 3)
        gone.entry.cancel()

        skip(6)
        await all_answered([late, live])
        only_late = Caller(batcher, 4, deadline_in_s=5)
        skip(6)
        await all_answered([only_late])

        assert run.batches == [[3]]
        assert isinstance(late.failure, DeadlineExceeded)
        assert isinstance(only_late.failure, DeadlineExceeded)
        assert gone.answers == []
        assert batcher.queued_rows == 0


@on_loop
async def test_poison_on_the_loop_fails_alone() -> None:
    with batching(Threads(), inline_rows=8) as batcher:
        callers = [Caller(batcher, POISON if v == 3 else v) for v in range(8)]
        await all_answered(callers)

        assert isinstance(callers[3].failure, SessionFailed)
        assert all(caller.is_right for v, caller in enumerate(callers) if v != 3)


@on_loop
async def test_a_model_that_fails_on_the_loop_is_paused_as_well() -> None:
    model = Model()
    with batching(model.run, probe=model.probe, inline_rows=8) as batcher:
        await fail_batches(batcher, FAILURES_TO_OPEN)
        await until(lambda: refusal(batcher))

        assert model.probes == 1


@on_loop
async def test_a_model_too_slow_for_the_loop_goes_to_threads_and_that_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Slow(Threads):
        def __call__(self, inputs: Tensors) -> Mapping[str, Array]:
            time.sleep(0.004)
            return super().__call__(inputs)

    run = Slow()
    with batching(run, inline_rows=8) as batcher:
        for value in range(20):
            caller = Caller(batcher, value)
            await all_answered([caller])
            assert caller.is_right

        on_loop_first = run.threads.count("MainThread")
        assert 1 < on_loop_first < 10
        assert set(run.threads[on_loop_first:]) == {"modelport-run-0"}
        assert [r.message for r in caplog.records] == [
            "a model's runs are too long for the event loop; they go to threads from now on"
        ]


@on_loop
async def test_one_hiccup_does_not_send_a_model_to_threads() -> None:
    class Hiccup(Threads):
        def __call__(self, inputs: Tensors) -> Mapping[str, Array]:
            time.sleep(0 if self.batches else 0.05)
            return super().__call__(inputs)

    run = Hiccup()
    with batching(run, inline_rows=8) as batcher:
        for value in range(5):
            await all_answered([Caller(batcher, value)])

        assert run.threads == ["MainThread"] * 5


# The end.


@on_loop
async def test_close_drains_then_refuses() -> None:
    run = Doubling(shut=True)
    with batching(run, max_rows=1) as batcher:
        callers = [Caller(batcher, value) for value in range(5)]
        await running(run)

        closing = asyncio.create_task(batcher.close(HANG_S))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            Caller(batcher, 9)
        answered_early = [caller for caller in callers if caller.answers]
        run.gate.set()
        await closing

        assert answered_early == []
        assert all(caller.is_right for caller in callers)
        with pytest.raises(Draining):
            Caller(batcher, 9)


@on_loop
async def test_close_of_an_idle_batcher_ends_at_once() -> None:
    with batching(Doubling()) as batcher:
        await batcher.close(0)
        await batcher.close(0)


@pytest.mark.parametrize("leave", ["cancel", "expire"])
@on_loop
async def test_close_ends_when_the_last_that_waits_leaves(leave: str) -> None:
    with working(1) as workers:
        gate, began = threading.Event(), threading.Event()

        def hold() -> None:
            began.set()
            gate.wait(HANG_S)

        workers.share(lambda: None if began.is_set() else Job(hold)).request()
        await until(began.is_set)
        batcher = Batcher(Doubling(), BatcherLimits(8, 64), workers)
        caller = Caller(batcher, 1, deadline_in_s=5)
        closing = asyncio.create_task(batcher.close(HANG_S))
        await asyncio.sleep(0)

        if leave == "cancel":
            caller.entry.cancel()
        else:
            skip(6)
        await closing

        assert caller.answers == [] if leave == "cancel" else caller.failure
        gate.set()


@on_loop
async def test_close_fails_what_its_time_limit_cuts_off(caplog: pytest.LogCaptureFixture) -> None:
    run = Doubling(shut=True)
    with batching(run, max_rows=1) as batcher:
        callers = [Caller(batcher, value) for value in range(3)]
        await running(run)

        await batcher.close(0.001)
        still_running = batcher.running_batches
        run.gate.set()
        await until(lambda: not batcher.running_batches)

        assert still_running == 1
        assert all(isinstance(caller.failure, Draining) for caller in callers)
        assert run.batches == [[0]]
        assert batcher.queued_rows == 0
        assert [r.message for r in caplog.records] == [
            "a model was closed with requests unfinished"
        ]


@on_loop
async def test_two_closers_wait_for_the_same_end() -> None:
    run = Doubling(shut=True)
    with batching(run) as batcher:
        caller = Caller(batcher, 1)
        await running(run)

        patient = asyncio.create_task(batcher.close(HANG_S))
        await asyncio.sleep(0)
        impatient = asyncio.create_task(batcher.close(HANG_S))
        await asyncio.sleep(0)
        run.gate.set()
        await asyncio.gather(patient, impatient)

        assert caller.is_right


@on_loop
async def test_a_closed_batcher_probes_no_more(caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    with batching(model.run, probe=model.probe, max_rows=1) as batcher:
        callers = [Caller(batcher, value) for value in range(FAILURES_TO_OPEN)]
        await batcher.close(HANG_S)
        await asyncio.sleep(0.01)

        assert all(caller.failure for caller in callers)
        assert model.probes == 0
        assert caplog.records == []


# What is measured.


class Figures:
    def __init__(self) -> None:
        self.batches: list[tuple[int, Sequence[float], float]] = []

    def batch(self, rows: int, waits_s: Sequence[float], run_s: float) -> None:
        self.batches.append((rows, waits_s, run_s))


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_observer_gets_figures_once_a_batch_on_any_loop(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    figures, gate = Figures(), threading.Event()

    def run(inputs: Tensors) -> Mapping[str, Array]:
        gate.wait(HANG_S)
        time.sleep(0.0005)
        return {"y": inputs["x"] * 2}

    async def main() -> None:
        with batching(run, observer=figures) as batcher:
            callers = [Caller(batcher, 1, 2), Caller(batcher, 3)]
            await until(lambda: batcher.running_batches)
            callers.append(Caller(batcher, 4))
            gate.set()
            await all_answered(callers)
            await batcher.close(HANG_S)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())

    (first, waits, run_s), (second, later_waits, _) = figures.batches
    assert (first, second) == (3, 1)
    assert (len(waits), len(later_waits)) == (2, 1)
    assert min(*waits, *later_waits) >= 0
    assert later_waits[0] >= 0.0005
    assert run_s >= 0.0005


# All at once.


class Crowd:
    """Many callers at once; each checks its own answer."""

    def __init__(self, batcher: Batcher, seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._batcher = batcher
        self._random = random.Random(seed)
        self._values = iter(range(10**9))
        #: One poison at a time is always found, so nobody else may fail.
        self._poison_is_out = False

    async def send(self, requests: int) -> None:
        for _ in range(requests):
            self.outcomes[await self._send_one()] += 1
            if self._random.random() < 0.2:
                await asyncio.sleep(0)

    async def _send_one(self) -> str:
        chance = self._random.random()
        values = [float(next(self._values)) for _ in range(self._random.randint(1, 5))]
        is_poison = chance < 0.02 and not self._poison_is_out
        if is_poison:
            values[-1] = POISON
        deadline_in_s = self._random.choice([None, None, None, HANG_S, 0.0005, 0.002])
        width = self._random.choice([1, 3])
        try:
            caller = Caller(
                self._batcher,
                *values,
                deadline_in_s=deadline_in_s,
                width=width,
                dtype="float64",
            )
        except (Overloaded, DeadlineExceeded):
            return "refused"
        if is_poison:
            self._poison_is_out = True
            await until(lambda: caller.answers)
            self._poison_is_out = False
            assert caller.failure is not None
            return type(caller.failure).__name__
        if chance > 0.85:
            for _ in range(self._random.randint(0, 3)):
                await asyncio.sleep(0)
            if not caller.answers:
                caller.entry.cancel()
                await asyncio.sleep(0.002)
                assert caller.answers == []
                return "cancelled"
        await until(lambda: caller.answers)
        await asyncio.sleep(0)
        if isinstance(caller.answers[0], DeadlineExceeded):
            assert len(caller.answers) == 1
            assert deadline_in_s is not None
            return "expired"
        assert caller.is_right
        return "right"


@pytest.mark.parametrize("seed", [1, 2, 3])
@on_loop
async def test_crowd_of_callers_gets_each_its_own_answer_exactly_once(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    run = Doubling()
    before = set(threading.enumerate())
    with batching(run, slots=2, max_rows=16, queue_rows=100) as batcher:
        crowd = Crowd(batcher, seed)
        await asyncio.gather(*(crowd.send(40) for _ in range(60)))
        await batcher.close(HANG_S)

        assert crowd.outcomes.total() == 2400
        assert crowd.outcomes["right"] > 200
        assert crowd.outcomes["cancelled"] > 10
        assert crowd.outcomes["SessionFailed"] > 0
        assert (batcher.queued_rows, batcher.running_batches) == (0, 0)
        assert batcher._next_job() is None
        assert max(run.rows) > 1
    assert set(threading.enumerate()) <= before
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
