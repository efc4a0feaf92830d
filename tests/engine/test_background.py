import asyncio
import gc
import threading
import weakref

import pytest

from app.engine.versions.background import BackgroundThread
from tests.engine.conftest import HANG_S, on_loop, until


def made() -> BackgroundThread:
    return BackgroundThread("background", asyncio.get_running_loop())


@on_loop
async def test_work_is_done_in_order_on_one_thread_and_its_result_comes_back() -> None:
    thread = made()
    done: list[tuple[int, str]] = []

    def work(number: int) -> int:
        done.append((number, threading.current_thread().name))
        return number

    results = await asyncio.gather(*(thread.call(lambda n=n: work(n)) for n in range(5)))

    assert results == [0, 1, 2, 3, 4]
    assert done == [(n, "background") for n in range(5)]
    thread.close(HANG_S)


@on_loop
async def test_an_error_comes_back_and_the_thread_lives(caplog: pytest.LogCaptureFixture) -> None:
    thread = made()

    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda: 1 / 0)
    thread.put(lambda: 1 / 0)

    assert await thread.call(lambda: "alive") == "alive"
    assert [record.message for record in caplog.records] == ["background work failed"]
    thread.close(HANG_S)


@on_loop
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
async def test_work_that_asks_for_the_process_s_end_is_an_error(error: BaseException) -> None:
    thread = made()

    def work() -> None:
        raise error

    with pytest.raises(RuntimeError, match=type(error).__name__):
        await thread.call(work)
    thread.put(work)

    assert await thread.call(lambda: "alive") == "alive"
    thread.close(HANG_S)


@on_loop
async def test_a_waiter_that_leaves_disturbs_nobody() -> None:
    thread = made()
    go = threading.Event()
    left = thread.call(lambda: go.wait(HANG_S))
    left.cancel()
    go.set()

    assert await thread.call(lambda: 1) == 1
    thread.close(HANG_S)


@on_loop
async def test_nothing_that_was_worked_on_is_kept() -> None:
    class Thing:
        pass

    thread = made()
    thing = Thing()
    trace = weakref.ref(thing)
    assert await thread.call(lambda thing=thing: thing is not None)
    del thing
    gc.collect()

    await until(lambda: trace() is None)
    thread.close(HANG_S)


def test_work_that_outlasts_the_loop_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    go = threading.Event()

    async def begin() -> BackgroundThread:
        thread = made()
        thread.call(lambda: go.wait(HANG_S))
        return thread

    thread = asyncio.run(begin())
    thread.close(0)
    assert thread._thread.is_alive()
    go.set()
    thread.close(HANG_S)

    assert not thread._thread.is_alive()
    assert caplog.records == []
