"""How long the exported graph takes: ONNX Runtime on one thread of this machine."""

import time
from dataclasses import dataclass

import numpy as np

from app.bundle.golden import Run
from app.bundle.tensors import Tensors, row_count, take_rows

BATCH_ROWS = 32
WARM_UP_RUNS = 5
#: For each size: so long, and so many runs at the least and at the most.
MEASURE_S = 0.2
FEWEST_RUNS = 10
MOST_RUNS = 1000


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a run, of one row and of `BATCH_ROWS`."""

    one_row_ms: float
    batch_ms: float

    def times_as_fast_as(self, other: "Latency") -> float:
        """The geometric mean of both sizes; above 1 this is the faster one."""
        product = other.one_row_ms / self.one_row_ms * other.batch_ms / self.batch_ms
        return float(product**0.5)


def measure_latency(run: Run, inputs: Tensors) -> Latency:
    """Measure on real rows.

    Args:
        inputs: the graph's inputs, any number of rows from 1.
    """
    rows = row_count(inputs)
    one, many = (take_rows(inputs, np.arange(size) % rows) for size in (1, BATCH_ROWS))
    return Latency(_typical_ms(run, one), _typical_ms(run, many))


def _typical_ms(run: Run, inputs: Tensors) -> float:
    """The lower quartile: whatever else runs on a machine makes a run longer, never shorter."""
    for _ in range(WARM_UP_RUNS):
        run(inputs)
    taken: list[float] = []
    until = time.perf_counter() + MEASURE_S
    while len(taken) < FEWEST_RUNS or (len(taken) < MOST_RUNS and time.perf_counter() < until):
        started = time.perf_counter()
        run(inputs)
        taken.append(time.perf_counter() - started)
    return float(np.quantile(taken, 0.25)) * 1000
