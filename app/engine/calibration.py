"""Measures what a run costs here: by batch size, threads and instances, within a budget.

How many threads a run should have and how many rows pay cannot be known beforehand: for some
models a batch of eight costs more for each row than a batch of one.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from app.bundle.tensors import Tensors
from app.engine.candidates import DeviceKind
from app.engine.plan import Cost
from app.engine.session import Session

_LEAST_REPEATS: Final = 3
_MOST_REPEATS: Final = 200
#: Cells of cheap runs are repeated until they have taken so long.
_CELL_S: Final = 0.02
#: What another batch size or shape must gain to be worth it; less is noise.
WORTHWHILE: Final = 1.05
#: So many sizes without a gain end the search for a better one.
_SIZES_WITHOUT_GAIN: Final = 2
_MOST_INSTANCES_OFF_CPU: Final = 2


@dataclass(frozen=True)
class Calibration:
    """What to measure.

    Attributes:
        sizes: batch sizes that the model may run at, ascending.
        cores: cores that all runs together may use.
        device: where the model runs; only on the CPU do threads of a run matter.
        budget_s: time for all of it; the first cell is always measured.
        background: other work goes on, so measure one shape only.
    """

    sizes: Sequence[int]
    cores: int
    device: DeviceKind
    budget_s: float
    background: bool = False

    def shapes(self) -> list[tuple[int, int]]:
        """Threads × instances that use all cores, the one that is best for most models first."""
        if self.device != "cpu":
            return [(1, n) for n in range(1, min(self.cores, _MOST_INSTANCES_OFF_CPU) + 1)]
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
    ends_s = clock() + task.budget_s
    shapes = task.shapes()
    costs: list[Cost] = []
    for index, (threads, instances) in enumerate(shapes):
        left_s = ends_s - clock()
        if costs and left_s <= 0:
            break
        with ExitStack() as stack:
            own = session
            if threads != 1:
                own = open_session(threads)
                stack.callback(own.close)
            pool = stack.enter_context(ThreadPoolExecutor(instances))
            bench = _Bench(own, inputs, (threads, instances), pool, clock)
            costs += bench.sweep(task.sizes, clock() + left_s / (len(shapes) - index))
    return tuple(costs)


class _Bench:
    """Measures one shape."""

    def __init__(
        self,
        session: Session,
        inputs: Callable[[int], Tensors],
        shape: tuple[int, int],
        pool: ThreadPoolExecutor,
        clock: Callable[[], float],
    ) -> None:
        self._session = session
        self._inputs = inputs
        self._threads, self._instances = shape
        self._pool = pool
        self._clock = clock

    def sweep(self, sizes: Sequence[int], ends_s: float) -> Iterator[Cost]:
        """A cost for each size; where more rows stopped paying or the time ran out, continued."""
        best = last = None
        without_gain = 0
        for rows in sizes:
            if last is not None and (
                without_gain >= _SIZES_WITHOUT_GAIN or not self._fits(last, rows, ends_s)
            ):
                yield self._cost(rows, last.run_ms * rows / last.rows, extrapolated=True)
                continue
            last = self._cost(rows, self._measure(rows, ends_s) * 1e3)
            yield last
            if best is None or last.rows_per_s > best.rows_per_s * WORTHWHILE:
                best, without_gain = last, 0
            else:
                without_gain += 1

    def _fits(self, last: Cost, rows: int, ends_s: float) -> bool:
        run_s = last.run_ms / 1e3 * rows / last.rows
        return self._clock() + run_s * (1 + _LEAST_REPEATS) <= ends_s

    def _cost(self, rows: int, run_ms: float, *, extrapolated: bool = False) -> Cost:
        return Cost(
            rows=rows,
            intra_op_threads=self._threads,
            instances=self._instances,
            run_ms=float(f"{max(run_ms, 1e-6):.4g}"),
            extrapolated=extrapolated,
        )

    def _measure(self, rows: int, ends_s: float) -> float:
        """Seconds of one run, while all instances are busy."""
        inputs = self._inputs(rows)
        warm_s = max(self._all(inputs, 1))
        left_s = max(0.0, ends_s - self._clock())
        affordable = int(left_s / max(warm_s, 1e-6))
        wanted = int(_CELL_S / max(warm_s, 1e-6))
        repeats = max(1, min(max(wanted, _LEAST_REPEATS), _MOST_REPEATS, affordable))
        times = self._all(inputs, repeats)
        # Whatever else the machine does only adds time.
        return statistics.quantiles(times, n=4, method="inclusive")[0] if times[1:] else times[0]

    def _all(self, inputs: Tensors, repeats: int) -> list[float]:
        futures: list[Future[list[float]]] = [
            self._pool.submit(self._times, inputs, repeats) for _ in range(self._instances)
        ]
        return [seconds for future in futures for seconds in future.result()]

    def _times(self, inputs: Tensors, repeats: int) -> list[float]:
        times = []
        for _ in range(repeats):
            started = self._clock()
            self._session.run(inputs)
            times.append(self._clock() - started)
        return times
