"""What is recorded of one loaded version: plain numbers, no formatting.

Everything is recorded on the event loop's thread.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

#: 25 µs to 25 s, three steps a decade.
LATENCY_BOUNDS_S: Final = tuple(
    factor * 10.0**power for power in range(-5, 2) for factor in (2.5, 5.0, 10.0)
)[:19]
LAG_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_SORTED_TOGETHER: Final = 512
ROWS_BOUNDS: Final = tuple(float(2**power) for power in range(13))


class Histogram:
    """Counts of values by upper bound, and their sum.

    Values are sorted into their buckets many at a time, which costs a fraction.
    """

    __slots__ = ("_bucket", "_counts", "_sum", "_unsorted")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bucket = partial(bisect_left, bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._unsorted: list[float] = []

    def observe(self, value: float) -> None:
        unsorted = self._unsorted
        unsorted.append(value)
        if len(unsorted) >= _SORTED_TOGETHER:
            self._sort()

    def observe_all(self, values: Sequence[float]) -> None:
        self._unsorted += values
        if len(self._unsorted) >= _SORTED_TOGETHER:
            self._sort()

    def _sort(self) -> None:
        values, self._unsorted = self._unsorted, []
        for bucket, count in Counter(map(self._bucket, values)).items():
            self._counts[bucket] += count
        self._sum += sum(values)

    @property
    def count(self) -> int:
        return int(sum(self.state()[1:]))

    @property
    def sum(self) -> float:
        return self.state()[0]

    def state(self) -> tuple[float, ...]:
        """A copy: the sum, then the count of each bucket, the last of them without a bound."""
        if self._unsorted:
            self._sort()
        return (self._sum, *self._counts)


def latency_histogram() -> Histogram:
    return Histogram(LATENCY_BOUNDS_S)


class Rejected(Protocol):
    """An execution provider that does not serve a model; `device` is empty for one not here."""

    @property
    def provider(self) -> str: ...

    @property
    def device(self) -> str: ...


@dataclass
class ModelMetrics:
    """Figures of one version; it observes the batcher."""

    name: str
    version: str
    decode_s: Histogram = field(default_factory=latency_histogram)
    queue_s: Histogram = field(default_factory=latency_histogram)
    run_s: Histogram = field(default_factory=latency_histogram)
    encode_s: Histogram = field(default_factory=latency_histogram)
    batch_rows: Histogram = field(default_factory=lambda: Histogram(ROWS_BOUNDS))
    #: How many models record here: two while one replaces another of the same number.
    loaded: int = 0
    #: What follows describes the version as it is loaded now.
    queued_rows: Callable[[], int] = lambda: 0
    info: Mapping[str, str] = field(default_factory=dict)
    #: Graph nodes by execution provider.
    nodes: Mapping[str, int] = field(default_factory=dict)
    rejected: Sequence[Rejected] = ()

    @property
    def key(self) -> tuple[str, str]:
        return (self.name, self.version)

    def batch(self, rows: int, waits_s: Sequence[float], run_s: float) -> None:
        self.batch_rows.observe(rows)
        self.run_s.observe(run_s)
        self.queue_s.observe_all(waits_s)

    def stages(self) -> Iterable[tuple[str, Histogram]]:
        yield "decode", self.decode_s
        yield "queue", self.queue_s
        yield "run", self.run_s
        yield "encode", self.encode_s
