"""Requests that run together on the event loop: how many, how long, and when not: a fake model.

That answers are right is shown with real ones, in `test_lane_differential.py`.
"""

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.api import together
from app.api.reply import Reply
from app.api.together import Together

ROW = np.dtype(np.float32)
LIMIT = together._MOST

pytestmark = pytest.mark.anyio


class Known:
    """Requests of one number, which is the body."""

    name, dtype, has_time_limit = "x", ROW, False

    def __init__(self, rows: int = 1) -> None:
        self.shape = (rows, 1)

    def numbers(self, body: bytes) -> bytes | None:
        return np.full(self.shape, float(body), ROW).tobytes()


class Codec:
    def __init__(self, known: Known) -> None:
        self.known = known

    def find(self, body: bytes, divided_at: int | None) -> Known:
        return self.known

    def encode_together(self, outputs: Any, known: Known, count: int, ref: Any) -> list[Any]:
        return [(str(y).encode(), ()) for y in outputs["y"].reshape(count, -1)[:, 0]]


class Model:
    """Twice its input; notes the rows of each run."""

    name, ref = "double", {}

    def __init__(self, way: Any, rows_at_once: int) -> None:
        self.attached = {"wire": way}
        self.rows_at_once = rows_at_once
        self.runs: list[int] = []
        self.fails = False

    def run_at_once(self, inputs: Any, rows: int, arrived_s: Any) -> Any:
        self.runs.append(rows)
        fits = rows <= self.rows_at_once and not self.fails
        return {"y": inputs["x"] * 2} if fits else None


class Figures:
    def observe_all(self, values: Any) -> None:
        pass


class Bench:
    """A `Together` with all that it needs, on the running loop."""

    def __init__(self, rows_at_once: int = 4, timeout_s: float = 30.0, rows: int = 1) -> None:
        figures = SimpleNamespace(decode_s=Figures(), encode_s=Figures())
        way = SimpleNamespace(
            codec=Codec(Known(rows)), figures=figures, timeout_s=timeout_s, fields=()
        )
        self.model = Model(way, rows_at_once)
        entry = SimpleNamespace(served=1, loaded={1: self.model})
        self.metrics = SimpleNamespace(
            received=defaultdict(int), outcomes=defaultdict(int), request_s=defaultdict(Figures)
        )
        self.loop = asyncio.get_running_loop()
        self.registry = SimpleNamespace(entries={"double": entry}, default_name="double")
        self.entered: list[Any] = []
        self.together = Together(self)  # type: ignore[arg-type]
        self.answers: dict[int, Any] = {}

    def enter(self, head: Any, size: int) -> Any:
        self.entered.append(head)
        return Reply(503, (b"", ()), "r", ())

    def take(
        self, number: int, timeout_s: float | None = None, encoding: str | None = None
    ) -> bool:
        head = SimpleNamespace(
            model="double", version=None, wire="wire", divided_at=None, name="infer",
            given_id="r", timeout_s=timeout_s, encoding=encoding,
        )  # fmt: skip

        def reply(answer: Reply) -> None:
            self.answers[number] = answer

        return self.together.take(head, str(number).encode(), reply)  # type: ignore[arg-type]

    def right(self, count: int) -> bool:
        said = {number: float(answer.body) for number, answer in self.answers.items()}
        return said == {number: 2.0 * number for number in range(count)}


async def test_runs_are_as_large_as_may_be_and_each_gets_its_own_answer() -> None:
    bench = Bench(rows_at_once=4)

    assert all(bench.take(number) for number in range(10))
    await asyncio.sleep(0)

    assert bench.right(10)
    assert bench.model.runs == [4, 4, 2]
    assert bench.metrics.outcomes == {("infer", "double", "ok"): 10}


async def test_what_there_is_no_time_for_is_done_in_the_next_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(together, "_TURN_S", 0.0)
    bench = Bench(rows_at_once=4)
    for number in range(10):
        bench.take(number)

    await asyncio.sleep(0)
    assert bench.model.runs == [4]
    bench.take(10)  # stands behind those that wait
    await asyncio.sleep(0)
    assert bench.model.runs == [4, 4]
    await asyncio.sleep(0)

    assert bench.model.runs == [4, 4, 3]
    assert bench.right(11)
    assert not bench.entered


async def test_no_more_wait_than_is_bearable() -> None:
    bench = Bench()

    taken = [bench.take(number) for number in range(LIMIT + 1)]

    assert taken == [True] * LIMIT + [False]
    bench.together.run()
    assert bench.right(LIMIT)
    assert bench.take(0)


@pytest.mark.parametrize(("way_s", "own_s"), [(0.1, None), (30.0, 0.1)])
async def test_short_time_limits_are_left_to_who_watches_them(
    way_s: float, own_s: float | None
) -> None:
    assert not Bench(timeout_s=way_s).take(1, own_s)


async def test_compressed_bodies_are_left_to_who_unpacks_them() -> None:
    assert not Bench().take(1, encoding="gzip")


async def test_requests_that_are_larger_than_a_run_are_not_taken() -> None:
    assert not Bench(rows_at_once=4, rows=5).take(1)


async def test_where_a_run_fails_each_goes_the_usual_way() -> None:
    bench = Bench()
    bench.model.fails = True
    for number in range(6):
        bench.take(number)

    await asyncio.sleep(0)

    assert len(bench.entered) == 6
    assert [answer.status for answer in bench.answers.values()] == [503] * 6


async def test_where_runs_have_become_too_long_each_goes_the_usual_way() -> None:
    bench = Bench()
    for number in range(3):
        bench.take(number)
    bench.model.rows_at_once = 0

    await asyncio.sleep(0)

    assert len(bench.entered) == 3
    assert not bench.take(3)
