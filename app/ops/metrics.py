"""Counters and histograms as plain numbers, shown to Prometheus by one collector.

Recording is an addition to a dict or a list; the work of formatting is left to the scrape.
Everything is recorded on the event loop's thread.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
#: 25 µs to 25 s, three steps a decade.
LATENCY_BOUNDS_S: Final = tuple(
    factor * 10.0**power for power in range(-5, 2) for factor in (2.5, 5.0, 10.0)
)[:19]
ROWS_BOUNDS: Final = tuple(float(2**power) for power in range(13))


class Histogram:
    """Counts of values by upper bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def sum(self) -> float:
        return self._sum

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by bound, as Prometheus wants them."""
        total = 0.0
        result = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            result.append(("+Inf" if bound == float("inf") else f"{bound:.6g}", total))
        return result


def _latency() -> Histogram:
    return Histogram(LATENCY_BOUNDS_S)


@dataclass
class ModelMetrics:
    """Figures of one loaded version; it observes the batcher."""

    name: str
    version: str
    info: Mapping[str, str] = field(default_factory=dict)
    decode_s: Histogram = field(default_factory=_latency)
    queue_s: Histogram = field(default_factory=_latency)
    run_s: Histogram = field(default_factory=_latency)
    encode_s: Histogram = field(default_factory=_latency)
    batch_rows: Histogram = field(default_factory=lambda: Histogram(ROWS_BOUNDS))
    queued_rows: Callable[[], int] = lambda: 0

    def batch(self, rows: int, waits_s: Sequence[float], run_s: float) -> None:
        self.batch_rows.observe(rows)
        self.run_s.observe(run_s)
        for wait_s in waits_s:
            self.queue_s.observe(wait_s)

    def stages(self) -> Iterable[tuple[str, Histogram]]:
        yield "decode", self.decode_s
        yield "queue", self.queue_s
        yield "run", self.run_s
        yield "encode", self.encode_s


class Metrics(Collector):
    """All figures of the process.

    `received` of a route equals the sum of its `outcomes` once nothing is in flight.
    """

    def __init__(self) -> None:
        self.received: defaultdict[str, int] = defaultdict(int)
        #: (route, model, outcome) -> requests; outcome is `ok` or the code of the error.
        self.outcomes: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self.request_s: defaultdict[str, Histogram] = defaultdict(_latency)
        self.models: dict[tuple[str, str], ModelMetrics] = {}
        self.ready: Callable[[], bool] = lambda: False
        #: (model, version) of what is in the repository and was refused.
        self.refused: Callable[[], Iterable[tuple[str, int]]] = lambda: ()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    @staticmethod
    def figures(name: str, version: int) -> ModelMetrics:
        """Figures for a version that is about to be loaded; shown once it is added."""
        return ModelMetrics(name, str(version))

    def add(
        self, figures: ModelMetrics, queued_rows: Callable[[], int], info: Mapping[str, str]
    ) -> None:
        """Show the figures of a version that is loaded."""
        figures.queued_rows = queued_rows
        figures.info = info
        self.models[figures.name, figures.version] = figures

    def expose(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield from self._of_requests()
        yield from self._of_models()
        refused = GaugeMetricFamily(
            "modelport_version_refused",
            "1 for each version of the repository that could not be served.",
            labels=["model", "version"],
        )
        for model, version in self.refused():
            refused.add_metric([model, str(version)], 1)
        yield refused
        ready = GaugeMetricFamily("modelport_ready", "1 while the service takes requests.")
        ready.add_metric([], float(self.ready()))
        yield ready

    def _of_requests(self) -> Iterable[Metric]:
        received = CounterMetricFamily(
            "modelport_requests_received", "Requests that arrived.", labels=["route"]
        )
        for route, count in self.received.items():
            received.add_metric([route], count)
        yield received
        finished = CounterMetricFamily(
            "modelport_requests",
            "Requests that ended, by outcome: ok, or the code of the error.",
            labels=["route", "model", "outcome"],
        )
        for labels, count in self.outcomes.items():
            finished.add_metric(list(labels), count)
        yield finished
        seconds = HistogramMetricFamily(
            "modelport_request_seconds", "From the body's arrival to the answer.", labels=["route"]
        )
        for route, histogram in self.request_s.items():
            seconds.add_metric([route], histogram.buckets(), histogram.sum)
        yield seconds

    def _of_models(self) -> Iterable[Metric]:
        stages = HistogramMetricFamily(
            "modelport_stage_seconds",
            "Time of a stage: decode, queue and encode by request, run by batch.",
            labels=["model", "version", "stage"],
        )
        rows = HistogramMetricFamily(
            "modelport_batch_rows", "Rows of each run.", labels=["model", "version"]
        )
        depth = GaugeMetricFamily(
            "modelport_queue_rows", "Rows that wait for a run.", labels=["model", "version"]
        )
        info = GaugeMetricFamily(
            "modelport_model_info",
            "1 for each loaded version: digest, execution provider, numeric class.",
            labels=["model", "version", "digest", "provider", "device", "numeric_class"],
        )
        for model in self.models.values():
            names = [model.name, model.version]
            for stage, histogram in model.stages():
                stages.add_metric([*names, stage], histogram.buckets(), histogram.sum)
            rows.add_metric(names, model.batch_rows.buckets(), model.batch_rows.sum)
            depth.add_metric(names, model.queued_rows())
            keys = ("digest", "provider", "device", "numeric_class")
            info.add_metric([*names, *(model.info.get(key, "") for key in keys)], 1)
        yield from (stages, rows, depth, info)
