"""Measures what a run costs here: by batch size, threads and instances, within a budget.

How many threads a run should have and how many rows pay cannot be known beforehand: for some
models a batch of eight costs more for each row than a batch of one.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from app.bundle.tensors import Tensors
from app.engine.proof.plan import Cost
from app.engine.providers.candidates import DeviceKind
from app.engine.session import Session

_LEAST_REPEATS: Final = 3
_MOST_REPEATS: Final = 200
#: Cells of cheap runs are repeated until they have taken so long.
_CELL_S: Final = 0.02
#: What another batch size or shape must gain to be worth it; less is noise.
WORTHWHILE: Final = 1.05
#: So many sizes without a gain end the search for a better one.
_SIZES_WITHOUT_GAIN: Final = 2
#: What of the budget goes to a first look at everything; the rest decides between those that are
#: within so much of the best.
_SWEEP_SHARE: Final = 0.6
_CLOSE: Final = 1.15
_ROUNDS: Final = 6
INSTANCES_OFF_CPU: Final = 2


@dataclass(frozen=True)
class Calibration:
    """What to measure.

    Attributes:
        sizes: batch sizes that the model may run at, ascending.
        cores: cores that all runs together may use.
        device: where the model runs; only on the CPU do threads of a run matter.
        budget_s: time for all of it; the first cell is always measured.
        background: other work goes on, so measure one shape only, by one run at a time.
    """

    sizes: Sequence[int]
    cores: int
    device: DeviceKind
    budget_s: float
    background: bool = False

    def shapes(self) -> list[tuple[int, int]]:
        """Threads × instances that use all cores, the one that is best for most models first."""
        if self.device != "cpu":
            every = [(1, n) for n in range(1, min(self.cores, INSTANCES_OFF_CPU) + 1)]
            return every[:1] if self.background else every
        threads = [t for t in range(1, self.cores + 1) if self.cores % t == 0]
        every = [(t, self.cores // t) for t in (1, *sorted(threads[1:], reverse=True))]
        return every[:1] if self.background else every


def batch_sizes(max_rows: int) -> tuple[int, ...]:
    """1, 2, 4 … and the most that is allowed."""
    doubled = [2**power for power in range(max_rows.bit_length()) if 2**power < max_rows]
    return (*doubled, max_rows)


def calibrate(
    session: Session,
    open_session: Callable[[int], Session],
    inputs: Callable[[int], Tensors],
    task: Calibration,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Cost, ...]:
    """The cost table.

    Args:
        session: an open one with one thread a run.
        open_session: opens another, with so many threads a run.
        inputs: valid inputs of so many rows.
    Raises:
        EngineError: a run failed.
    """
    started_s = clock()
    sweep_ends_s = started_s + task.budget_s * _SWEEP_SHARE
    shapes = task.shapes()
    benches: list[_Bench] = []
    with ExitStack() as stack:
        for index, (threads, instances) in enumerate(shapes):
            left_s = sweep_ends_s - clock()
            if benches and left_s <= 0:
                break
            own = session
            if threads != 1:
                own = open_session(threads)
                stack.callback(own.close)
            pool = stack.enter_context(ThreadPoolExecutor(instances))
            at_once = 1 if task.background else instances
            crew = _Crew(pool, at_once, clock)
            bench = _Bench(own, inputs, (threads, instances), crew)
            bench.sweep(task.sizes, clock() + left_s / (len(shapes) - index))
            benches.append(bench)
        _look_again(benches, clock, started_s + task.budget_s)
    return tuple(cost for bench in benches for cost in bench.costs(task.sizes))


def _look_again(benches: Sequence["_Bench"], clock: Callable[[], float], ends_s: float) -> None:
    """Measure those that are nearly the best once more, in turns, so that whatever else the machine
    does meanwhile happens to all of them."""
    cells = [(bench, cost) for bench in benches for cost in bench.measured()]
    best = max(cost.rows_per_s for _, cost in cells)
    close = [(bench, cost) for bench, cost in cells if cost.rows_per_s * _CLOSE >= best]
    if len(close) < 2:
        return
    for _ in range(_ROUNDS):
        for bench, cost in close:
            left_s = ends_s - clock()
            if left_s < cost.run_ms / 1e3 * _LEAST_REPEATS:
                return
            bench.repeat(cost.rows, cost.run_ms / 1e3, left_s)


class _Bench:
    """Measures one shape."""

    def __init__(
        self,
        session: Session,
        inputs: Callable[[int], Tensors],
        shape: tuple[int, int],
        crew: "_Crew",
    ) -> None:
        self._session = session
        self._inputs = inputs
        self._threads, self._instances = shape
        self._crew = crew
        #: Seconds of each run, by rows.
        self._times_s: dict[int, list[float]] = {}

    def sweep(self, sizes: Sequence[int], ends_s: float) -> None:
        """Measure one size after the other, until more rows stop paying or the time is over."""
        best_per_s, without_gain = 0.0, 0
        last: Cost | None = None
        for rows in sizes:
            if last is not None and not self._fits(last, rows, ends_s):
                return
            warm_s = max(self._times(rows, 1))
            self.repeat(rows, warm_s, ends_s - self._crew.clock())
            last = self._cost(rows)
            if last.rows_per_s > best_per_s * WORTHWHILE:
                best_per_s, without_gain = last.rows_per_s, 0
            else:
                without_gain += 1
            if without_gain == _SIZES_WITHOUT_GAIN:
                return

    def _fits(self, last: Cost, rows: int, ends_s: float) -> bool:
        run_s = last.run_ms / 1e3 * rows / last.rows
        return self._crew.clock() + run_s * (1 + _LEAST_REPEATS) <= ends_s

    def repeat(self, rows: int, run_s: float, left_s: float) -> None:
        """Time some runs more, while all instances are busy; at least one."""
        affordable = int(max(0.0, left_s) / max(run_s, 1e-6))
        wanted = max(int(_CELL_S / max(run_s, 1e-6)), _LEAST_REPEATS)
        repeats = max(1, min(wanted, _MOST_REPEATS, affordable))
        self._times_s.setdefault(rows, []).extend(self._times(rows, repeats))

    def _times(self, rows: int, repeats: int) -> list[float]:
        return self._crew.times_s(self._session, self._inputs(rows), repeats)

    def measured(self) -> list[Cost]:
        return [self._cost(rows) for rows in self._times_s]

    def costs(self, sizes: Sequence[int]) -> list[Cost]:
        """A cost for each size; those that were not measured continue the last in proportion."""
        found = self.measured()
        last = found[-1]
        return found + [
            self._priced(rows, last.run_ms * rows / last.rows, extrapolated=True)
            for rows in sizes
            if rows not in self._times_s
        ]

    def _cost(self, rows: int) -> Cost:
        """Whatever else the machine does only adds time: the lower quartile counts."""
        times = self._times_s[rows]
        quartile = (
            statistics.quantiles(times, n=4, method="inclusive")[0] if times[1:] else times[0]
        )
        return self._priced(rows, quartile * 1e3)

    def _priced(self, rows: int, run_ms: float, *, extrapolated: bool = False) -> Cost:
        return Cost(
            rows=rows,
            intra_op_threads=self._threads,
            instances=self._instances,
            run_ms=float(f"{max(run_ms, 1e-6):.4g}"),
            extrapolated=extrapolated,
        )


@dataclass(frozen=True)
class _Crew:
    """Threads that run at the same time, `at_once` of them, while each times its own runs."""

    pool: ThreadPoolExecutor
    at_once: int
    clock: Callable[[], float]

    def times_s(self, session: Session, inputs: Tensors, repeats: int) -> list[float]:
        futures = [
            self.pool.submit(self._times, session, inputs, repeats) for _ in range(self.at_once)
        ]
        return [seconds for future in futures for seconds in future.result()]

    def _times(self, session: Session, inputs: Tensors, repeats: int) -> list[float]:
        times = []
        for _ in range(repeats):
            started = self.clock()
            session.run(inputs)
            times.append(self.clock() - started)
        return times
