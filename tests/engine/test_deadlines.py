"""Deadlines of many requests: kept in time, by one timer that keeps nothing alive."""

import asyncio
import weakref
from typing import Any

import numpy as np

from app.engine.scheduling.admission import BatcherLimits
from app.engine.scheduling.batcher import Batcher
from app.engine.scheduling.deadlines import Deadlines
from app.engine.scheduling.workers import Workers
from app.errors import DeadlineExceeded
from tests.engine.conftest import on_loop, until

ROW = {"x": np.zeros((1, 2), np.float32)}


@on_loop
async def test_the_timer_keeps_nothing_alive() -> None:
    class Owner:
        def live(self) -> list[Any]:
            return []

        def expire(self, entry: Any) -> None: ...

    loop = asyncio.get_running_loop()
    owner = Owner()
    deadlines = Deadlines(loop, owner.live, owner.expire)
    deadlines.watch(loop.time() + 0.02)
    gone = weakref.ref(owner)

    del owner
    assert gone() is None
    await asyncio.sleep(0.05)  # what is due then finds nobody, and says nothing


@on_loop
async def test_each_is_told_at_its_own_time() -> None:
    loop = asyncio.get_running_loop()
    workers = Workers(1, loop)
    batcher = Batcher(dict, BatcherLimits(8, 64), workers)
    told: dict[int, float] = {}
    batcher._share.withdraw()  # nothing is run: all wait
    batcher._ask_for_run = lambda: None  # type: ignore[method-assign]
    begun = loop.time()
    for delay_ms in (60, 20, 40):

        def done(outcome: Any, delay_ms: int = delay_ms) -> None:
            assert isinstance(outcome, DeadlineExceeded)
            told[delay_ms] = loop.time() - begun

        batcher.submit(ROW, 1, begun + delay_ms / 1e3, done)
    await until(lambda: len(told) == 3)

    assert list(told) == [20, 40, 60]
    assert all(took_s >= delay_ms / 1e3 - 0.002 for delay_ms, took_s in told.items())
    workers.close()
