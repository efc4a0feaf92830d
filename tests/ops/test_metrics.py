"""Figures: recorded as plain numbers, exposed as Prometheus wants them."""

import math
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.main import create_app
from app.ops.figures import LATENCY_BOUNDS_S, Histogram
from app.ops.metrics import CONTENT_TYPE, Metrics, expose
from app.settings import Settings
from tests.api.asgi import AsgiTransport
from tests.api.figures import Figures
from tests.support.bundles import make_bundle

ROWS = {"instances": [{"a": 1, "b": 2, "c": 3}] * 20}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("models")
    make_bundle(root, "affine", "affine")
    app = create_app(Settings(models=root, provider=("cpu",), max_request_rows=32))
    with httpx.Client(transport=AsgiTransport(app), base_url="http://a") as client:
        yield client


class TestHistogram:
    def test_a_value_on_a_bound_counts_below_it(self) -> None:
        histogram = Histogram((1.0, 2.0))
        for value in (0.0, 1.0, 1.5, 2.0, 2.1, 1e9):
            histogram.observe(value)

        assert histogram.state() == (histogram.sum, 2, 2, 2)
        assert histogram.count == 6
        assert histogram.sum == pytest.approx(1e9 + 6.6)

    def test_an_empty_one_has_every_bucket(self) -> None:
        assert Histogram((1.0,)).state() == (0.0, 0, 0)

    def test_latency_bounds_rise_from_25_us_to_25_s(self) -> None:
        assert list(LATENCY_BOUNDS_S) == sorted(set(LATENCY_BOUNDS_S))
        assert LATENCY_BOUNDS_S[0] == pytest.approx(25e-6)
        assert LATENCY_BOUNDS_S[-1] == pytest.approx(25.0)
        assert len({f"{bound:.6g}" for bound in LATENCY_BOUNDS_S}) == len(LATENCY_BOUNDS_S)


def test_a_fresh_service_says_that_it_is_not_ready() -> None:
    text = expose(Metrics().snapshot()).decode()

    (family,) = (f for f in text_string_to_metric_families(text) if f.name == "modelport_ready")
    assert [sample.value for sample in family.samples] == [0.0]


def test_labels_are_escaped() -> None:
    metrics = Metrics()
    name = 'a"b\\c\nd'
    metrics.received[name] += 1

    families = text_string_to_metric_families(expose(metrics.snapshot()).decode())

    labels = [s.labels for f in families for s in f.samples if s.name.endswith("received_total")]
    assert labels == [{"route": name}]


def test_the_page_is_prometheus_text(client: httpx.Client) -> None:
    response = client.get("/metrics")

    assert response.headers["content-type"] == CONTENT_TYPE
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert all(family.documentation for family in families.values())
    assert all(name.startswith("modelport_") for name in families)


def test_requests_are_counted_and_timed_once(client: httpx.Client) -> None:
    before = Figures.of(client)
    for _ in range(5):
        assert client.post("/predict", json=ROWS).status_code == 200
    client.post("/predict", json={})

    grown = Figures.of(client).since(before)

    assert grown("modelport_requests_received_total", route="predict") == 6
    assert grown("modelport_requests_total", route="predict", outcome="ok") == 5
    assert grown("modelport_requests_total", route="predict", model="affine") == 6
    assert grown("modelport_request_seconds_count", route="predict") == 6
    assert 0 < grown("modelport_request_seconds_sum", route="predict") < 6


def test_each_stage_is_timed_and_rows_are_conserved(client: httpx.Client) -> None:
    before = Figures.of(client)
    for _ in range(4):
        client.post("/predict", json=ROWS)

    grown = Figures.of(client).since(before)

    assert grown("modelport_stage_seconds_count", stage="decode") == 4
    assert grown("modelport_stage_seconds_count", stage="encode") == 4
    # A request of 20 rows is cut into runs of at most 16.
    assert grown("modelport_stage_seconds_count", stage="queue") == 8
    assert grown("modelport_batch_rows_sum") == 80
    runs = grown("modelport_batch_rows_count")
    assert 4 <= runs <= 8
    assert grown("modelport_stage_seconds_count", stage="run") == runs
    for stage in ("decode", "queue", "run", "encode"):
        assert grown("modelport_stage_seconds_sum", stage=stage) >= 0


def test_histograms_are_cumulative(client: httpx.Client) -> None:
    client.post("/predict", json=ROWS)
    figures = Figures.of(client)

    series: dict[tuple[str, frozenset[tuple[str, str]]], list[tuple[float, float]]] = {}
    for (name, labels), value in figures.samples.items():
        if name.endswith("_bucket"):
            rest = frozenset((k, v) for k, v in labels if k != "le")
            bound = float(dict(labels)["le"])
            series.setdefault((name.removesuffix("_bucket"), rest), []).append((bound, value))
    assert len(series) >= 6
    for (name, labels), buckets in series.items():
        counts = [count for _, count in sorted(buckets)]
        assert counts == sorted(counts), name
        assert max(buckets)[0] == math.inf
        assert counts[-1] == figures.samples[f"{name}_count", labels]


def test_the_queue_is_empty_at_rest(client: httpx.Client) -> None:
    figures = Figures.of(client)

    assert figures.labels("modelport_queue_rows") == [{"model": "affine", "version": "1"}]
    assert figures.total("modelport_queue_rows") == 0
    assert figures.total("modelport_ready") == 1


def test_the_served_version_is_described(client: httpx.Client) -> None:
    (info,) = Figures.of(client).labels("modelport_model_info")

    digest = client.get("/models/affine").json()["digest"]
    assert info == {
        "model": "affine",
        "version": "1",
        "digest": digest,
        "provider": "CPUExecutionProvider",
        "device": "cpu",
        "numeric_class": "fp32",
        "precision": "fp32",
    }


def test_the_version_that_serves_is_told_among_those_that_are_loaded(tmp_path: Path) -> None:
    make_bundle(tmp_path, "affine", "affine")
    make_bundle(tmp_path, "affine", "affine")
    app = create_app(Settings(models=tmp_path, provider=("cpu",), loaded_versions=2))
    with httpx.Client(transport=AsgiTransport(app), base_url="http://a") as client:
        figures = Figures.of(client)

    assert len(figures.labels("modelport_model_info")) == 2
    assert figures.labels("modelport_model_serving") == [{"model": "affine", "version": "2"}]
    assert figures.total("modelport_model_serving") == 1


def test_what_runs_the_graph_is_told(client: httpx.Client) -> None:
    figures = Figures.of(client)

    plan = client.get("/models/affine").json()["plan"]
    wanted = set(plan["nodes_by_provider"].items())
    told = {
        (dict(labels)["provider"], value)
        for (name, labels), value in figures.samples.items()
        if name == "modelport_model_nodes"
    }
    assert told == wanted != set()


def test_a_single_process_is_one_worker(client: httpx.Client) -> None:
    figures = Figures.of(client)

    assert figures.total("modelport_workers") == 1
    assert figures.total("modelport_workers_alive") == 1
    assert figures.labels("modelport_worker_restarts_total") == [{}]
    assert figures.total("modelport_worker_restarts_total") == 0


def test_a_provider_that_does_not_serve_is_told() -> None:
    @dataclass(frozen=True)
    class Rejection:
        provider: str
        device: str

    metrics = Metrics()
    metrics.add(metrics.figures("a", 1), lambda: 0, {}, rejected=[Rejection("Warp", "gpu")])

    families = text_string_to_metric_families(expose(metrics.snapshot()).decode())

    told = [s for f in families for s in f.samples if s.name == "modelport_provider_rejected"]
    assert [(s.labels, s.value) for s in told] == [
        ({"model": "a", "version": "1", "provider": "Warp", "device": "gpu"}, 1.0)
    ]


def test_reloads_and_pins_are_told() -> None:
    metrics = Metrics()
    metrics.reloads["a", "loaded"] += 2
    metrics.pin_problems = lambda: ["b"]

    text = expose(metrics.snapshot()).decode()

    assert 'modelport_reloads_total{model="a",outcome="loaded"} 2.0' in text
    assert 'modelport_pin_problem{model="b"} 1.0' in text


def test_a_refused_version_has_no_figures(tmp_path: Path) -> None:
    make_bundle(tmp_path, "affine", "affine")
    make_bundle(tmp_path, "affine", "affine", model_data=b"no model")
    app = create_app(Settings(models=tmp_path, provider=("cpu",)))
    with httpx.Client(transport=AsgiTransport(app), base_url="http://a") as client:
        labels = Figures.of(client).labels("modelport_model_info")

    assert [label["version"] for label in labels] == ["1"]
