"""The figures of this process, and the page that Prometheus reads.

Recording is an addition to a dict or a list; the work of formatting is left to the scrape.
Everything is recorded on the event loop's thread.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app.ops import families
from app.ops.families import FAMILIES, Family
from app.ops.figures import (
    LAG_BOUNDS_S,
    Histogram,
    ModelMetrics,
    Rejected,
    latency_histogram,
)
from app.ops.snapshot import Labels, Series, Snapshot, Values, shown

__all__ = ("CONTENT_TYPE", "Metrics", "ModelMetrics", "expose")

#: Labels what never became a request of a route.
PROTOCOL: Final = "protocol"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
#: Versions let go whose figures are kept.
_KEPT_VERSIONS: Final = 64


class Metrics:
    """All figures of the process.

    `received` of a route equals the sum of its `outcomes` once nothing is in flight.
    """

    def __init__(self) -> None:
        self.received: defaultdict[str, int] = defaultdict(int)
        #: (route, model, outcome) -> requests; outcome is `ok` or the code of the error.
        self.outcomes: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self.request_s: defaultdict[str, Histogram] = defaultdict(latency_histogram)
        #: How late the event loop is.
        self.lag_s = Histogram(LAG_BOUNDS_S)
        #: (model, outcome) -> versions tried after the start; outcome is `loaded` or `refused`.
        self.reloads: defaultdict[tuple[str, str], int] = defaultdict(int)
        #: By name and version; those that are let go stay for a while, for what still ends on them.
        self.models: dict[tuple[str, str], ModelMetrics] = {}
        self.ready: Callable[[], bool] = lambda: False
        #: (model, version) of what answers where no version is named.
        self.serving: Callable[[], Iterable[tuple[str, int]]] = lambda: ()
        #: (model, version) of what is in the repository and was refused.
        self.refused: Callable[[], Iterable[tuple[str, int]]] = lambda: ()
        #: Models whose pin is not obeyed.
        self.pin_problems: Callable[[], Iterable[str]] = lambda: ()
        #: Processes that serve, this one among them.
        self.workers = 1
        #: Adds what the other workers have done; called on a thread.
        self.with_others: Callable[[Snapshot], Snapshot] = lambda own: own
        self._let_go: dict[tuple[str, str], None] = {}
        self._snapshots = 0

    def figures(self, name: str, version: int) -> ModelMetrics:
        """Figures for a version that is about to be loaded; shown once it is added.

        Those of one that was loaded before go on: a counter never goes back.
        """
        key = (name, str(version))
        return self.models.get(key) or ModelMetrics(*key)

    def add(
        self,
        figures: ModelMetrics,
        queued_rows: Callable[[], int],
        info: Mapping[str, str],
        *,
        nodes: Mapping[str, int] | None = None,
        rejected: Sequence[Rejected] = (),
    ) -> None:
        """Show the figures of a version that is loaded.

        Args:
            info: values of the labels of `modelport_model_info`.
            nodes: graph nodes by execution provider.
            rejected: execution providers that do not serve it.
        """
        figures.queued_rows = queued_rows
        figures.info = info
        figures.nodes = nodes or {}
        figures.rejected = rejected
        figures.loaded += 1
        self._let_go.pop(figures.key, None)
        self.models[figures.key] = figures

    def remove(self, name: str, version: int) -> None:
        """Show a version no more, which was added and is let go; its counts wait for its return."""
        key = (name, str(version))
        self.models[key].loaded -= 1
        if self.models[key].loaded:
            return  # what replaced it on disk has the same number
        self.models[key].queued_rows = lambda: 0  # the model behind it must not be kept
        self._let_go[key] = None
        if len(self._let_go) > _KEPT_VERSIONS:
            oldest = next(iter(self._let_go))
            del self._let_go[oldest], self.models[oldest]

    def refuse_connection(self, outcome: str) -> None:
        """Count what was refused before it was known what it is.

        Args:
            outcome: the code of the error.
        """
        self.received[PROTOCOL] += 1
        self.outcomes[PROTOCOL, "", outcome] += 1

    def snapshot(self) -> Snapshot:
        """A copy of everything, as of now."""
        self._snapshots += 1
        series: dict[str, dict[Labels, Values]] = {family.name: {} for family in FAMILIES}
        for family, labels, values in (*self._of_requests(), *self._of_versions(), *self._states()):
            series[family.name][labels] = values
        return Snapshot(series, self._snapshots)

    async def page(self) -> bytes:
        """Everything, of all workers, in Prometheus' text format."""
        own = self.snapshot()
        return await asyncio.to_thread(lambda: expose(self.with_others(own)))

    def _of_requests(self) -> Iterator[tuple[Family, Labels, Values]]:
        for route, count in self.received.items():
            yield families.RECEIVED, (route,), (count,)
        for labels, count in self.outcomes.items():
            yield families.FINISHED, labels, (count,)
        for route, histogram in self.request_s.items():
            yield families.REQUEST_SECONDS, (route,), histogram.state()
        yield families.LAG_SECONDS, (), self.lag_s.state()
        for outcome, count in self.reloads.items():
            yield families.RELOADS, outcome, (count,)

    def _of_versions(self) -> Iterator[tuple[Family, Labels, Values]]:
        for version in self.models.values():
            for stage, histogram in version.stages():
                yield families.STAGE_SECONDS, (*version.key, stage), histogram.state()
            yield families.BATCH_ROWS, version.key, version.batch_rows.state()
            if not version.loaded:
                continue
            yield families.QUEUE_ROWS, version.key, (version.queued_rows(),)
            about = tuple(version.info.get(label, "") for label in families.INFO_LABELS)
            yield families.MODEL_INFO, (*version.key, *about), (1,)
            for provider, nodes in version.nodes.items():
                yield families.MODEL_NODES, (*version.key, provider), (nodes,)
            for one in version.rejected:
                labels = (*version.key, one.provider, one.device)
                yield families.PROVIDER_REJECTED, labels, (1,)

    def _states(self) -> Iterator[tuple[Family, Labels, Values]]:
        for model, version in self.serving():
            yield families.MODEL_SERVING, (model, str(version)), (1,)
        for model, version in self.refused():
            yield families.VERSION_REFUSED, (model, str(version)), (1,)
        for model in self.pin_problems():
            yield families.PIN_PROBLEM, (model,), (1,)
        yield families.READY, (), (float(self.ready()),)
        yield families.WORKERS, (), (self.workers,)
        yield families.WORKERS_ALIVE, (), (1,)
        yield families.RESTARTS, (), (0,)


def expose(snapshot: Snapshot) -> bytes:
    """A snapshot in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Page(shown(snapshot)))
    return generate_latest(registry)


class _Page(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        for family in FAMILIES:
            yield _metric(family, self._snapshot.of(family))


def _metric(family: Family, series: Series) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, (total, *counts) in series.items():
            histogram.add_metric(labels, _buckets(family.bounds, counts), total)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, (value,) in series.items():
        metric.add_metric(labels, value)
    return metric


def _buckets(bounds: Sequence[float], counts: Sequence[float]) -> list[tuple[str, float]]:
    """Cumulative counts by bound, as Prometheus wants them."""
    total = 0.0
    result = []
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        total += count
        result.append(("+Inf" if bound == float("inf") else f"{bound:.6g}", total))
    return result
