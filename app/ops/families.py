"""Every metric that is exposed: its name, help, labels, and how several processes' become one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import add
from typing import Final, Literal

from app.ops.figures import LAG_BOUNDS_S, LATENCY_BOUNDS_S, ROWS_BOUNDS

_VERSION: Final = ("model", "version")


@dataclass(frozen=True)
class Family:
    """Metrics of one name.

    Attributes:
        name: of a counter, without the `_total` that Prometheus wants.
        kind: of counters and histograms, those of processes that have ended still count.
        join: one value from those of two processes; of histograms, bucket by bucket.
        bounds: upper bounds of a histogram's buckets.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: Literal["counter", "histogram", "gauge"] = "counter"
    join: Callable[[float, float], float] = add
    bounds: Sequence[float] = ()

    @property
    def outlives(self) -> bool:
        """Whether a process that has ended still counts."""
        return self.kind != "gauge"

    @property
    def is_of_versions(self) -> bool:
        """Whether this grows with every version that is published."""
        return self.outlives and self.labels[:2] == _VERSION


RECEIVED: Final = Family("modelport_requests_received", "Requests that arrived.", ("route",))
FINISHED: Final = Family(
    "modelport_requests",
    "Requests that ended, by outcome: ok, or the code of the error.",
    ("route", "model", "outcome"),
)
REQUEST_SECONDS: Final = Family(
    "modelport_request_seconds",
    "From the body's arrival to the answer.",
    ("route",),
    "histogram",
    bounds=LATENCY_BOUNDS_S,
)
STAGE_SECONDS: Final = Family(
    "modelport_stage_seconds",
    "Time of a stage: decode, queue and encode by request, run by batch.",
    (*_VERSION, "stage"),
    "histogram",
    bounds=LATENCY_BOUNDS_S,
)
BATCH_ROWS: Final = Family(
    "modelport_batch_rows", "Rows of each run.", _VERSION, "histogram", bounds=ROWS_BOUNDS
)
LAG_SECONDS: Final = Family(
    "modelport_event_loop_lag_seconds",
    "How late the event loop came round, asked fifty times a second.",
    (),
    "histogram",
    bounds=LAG_BOUNDS_S,
)
RELOADS: Final = Family(
    "modelport_reloads",
    "Versions that were tried after the start, by outcome: loaded or refused.",
    ("model", "outcome"),
)
RESTARTS: Final = Family(
    "modelport_worker_restarts", "Worker processes that ended and were started again."
)
QUEUE_ROWS: Final = Family(
    "modelport_queue_rows", "Rows that wait for a run, in all workers.", _VERSION, "gauge"
)
INFO_LABELS: Final = ("digest", "provider", "device", "numeric_class", "precision")
MODEL_INFO: Final = Family(
    "modelport_model_info",
    "1 for each loaded version: digest, execution provider, numeric class, precision.",
    (*_VERSION, *INFO_LABELS),
    "gauge",
    max,
)
MODEL_SERVING: Final = Family(
    "modelport_model_serving",
    "1 for the version of each model that answers where a request names none.",
    _VERSION,
    "gauge",
    max,
)
MODEL_NODES: Final = Family(
    "modelport_model_nodes",
    "Graph nodes of a loaded version on each execution provider.",
    (*_VERSION, "provider"),
    "gauge",
    max,
)
PROVIDER_REJECTED: Final = Family(
    "modelport_provider_rejected",
    "1 for each execution provider that was asked for and does not serve the version.",
    (*_VERSION, "provider", "device"),
    "gauge",
    max,
)
VERSION_REFUSED: Final = Family(
    "modelport_version_refused",
    "1 for each version of the repository that could not be served.",
    _VERSION,
    "gauge",
    max,
)
PIN_PROBLEM: Final = Family(
    "modelport_pin_problem", "1 for each model whose pin is not obeyed.", ("model",), "gauge", max
)
READY: Final = Family(
    "modelport_ready", "1 while every worker that has started takes requests.", (), "gauge", min
)
WORKERS: Final = Family(
    "modelport_workers", "Worker processes that are configured.", (), "gauge", max
)
WORKERS_ALIVE: Final = Family(
    "modelport_workers_alive", "Worker processes that have started and live.", (), "gauge"
)

FAMILIES: Final = (
    RECEIVED,
    FINISHED,
    REQUEST_SECONDS,
    STAGE_SECONDS,
    BATCH_ROWS,
    LAG_SECONDS,
    RELOADS,
    RESTARTS,
    QUEUE_ROWS,
    MODEL_INFO,
    MODEL_SERVING,
    MODEL_NODES,
    PROVIDER_REJECTED,
    VERSION_REFUSED,
    PIN_PROBLEM,
    READY,
    WORKERS,
    WORKERS_ALIVE,
)
