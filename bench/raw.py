"""Bare ONNX Runtime in this process: what is left when there is no server at all."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.bundle.tensors import Tensors
from app.engine.cores import available_cores
from bench.runtime import session

BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Raw:
    """Args:
    cpu_us: of one run with one row, on one thread.
    """

    cpu_us: float
    rows_per_s: dict[str, float]


def measure(model: bytes | Path, inputs: Callable[[int], Tensors], seconds: float) -> Raw:
    """
    Args:
        inputs: those of so many rows.
        seconds: for each configuration.
    """
    return Raw(_run_cpu_us(model, inputs(1), seconds), rates(model, inputs, BATCHES, seconds))


def rates(
    model: bytes | Path,
    inputs: Callable[[int], Tensors],
    batches: tuple[int, ...],
    seconds: float,
) -> dict[str, float]:
    """Rows a second of every configuration that somebody might try by hand."""
    return {
        f"{threads}x{instances} b{rows}": _rate(
            model, inputs(rows), rows, (threads, instances), seconds
        )
        for threads, instances, rows in configurations(batches)
    }


def configurations(batches: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Threads of a run, runs at a time, and rows of a run: all that use every core."""
    cores = available_cores().count
    shapes = [(t, cores // t) for t in range(1, cores + 1) if cores % t == 0]
    for (threads, instances), rows in itertools.product(shapes, batches):
        yield threads, instances, rows


def _run_cpu_us(model: bytes | Path, inputs: Tensors, seconds: float) -> float:
    run = session(model).run
    run(None, inputs)
    count = 0
    ends_s = time.perf_counter() + seconds
    began_s = time.thread_time()
    while time.perf_counter() < ends_s:
        run(None, inputs)
        count += 1
    return (time.thread_time() - began_s) / count * 1e6


def _rate(
    model: bytes | Path, inputs: Tensors, rows: int, shape: tuple[int, int], seconds: float
) -> float:
    """Rows a second of `shape` (threads of a run, runs at a time)."""
    threads, instances = shape
    opened = session(model, threads)
    opened.run(None, inputs)
    counts = [0] * instances
    ends_s = time.perf_counter() + seconds

    def work(index: int) -> None:
        while time.perf_counter() < ends_s:
            opened.run(None, inputs)
            counts[index] += rows

    crew = [threading.Thread(target=work, args=(index,)) for index in range(instances)]
    started_s = time.perf_counter()
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    return sum(counts) / (time.perf_counter() - started_s)
