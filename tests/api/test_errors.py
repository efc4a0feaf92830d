"""Every failure has one form, one log line, and one place in the counters."""

import asyncio
import json
import logging
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.routing import Route

from app.api import boundary
from app.api.codecs.instances import InstancesCodec
from app.api.reply import error_body
from app.errors import Detail, ModelportError, Overloaded, ValidationFailed
from app.ops.logging import JsonFormatter, TextFormatter
from app.ops.metrics import Metrics
from tests.api.answers import CANARY, ROWS, TENSORS, assert_clean, assert_refusal
from tests.api.conftest import MakeClient
from tests.api.figures import Figures
from tests.support.bundles import make_bundle

FAILED = "request failed"


def failing_app(metrics: Metrics) -> FastAPI:
    """A small application of ordinary routes that fail in every way."""
    app = FastAPI()
    boundary.install(app, metrics)

    @app.get("/known")
    async def known() -> None:
        raise Overloaded("too much", retry_after_s=7)

    @app.get("/unexpected")
    async def unexpected() -> None:
        raise RuntimeError(f"/secret/path {CANARY}")

    @app.get("/number/{number}")
    async def number(number: int) -> int:
        return number

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, CANARY, {"X-Tea": "green"})

    async def late(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError(CANARY)

    app.router.routes.append(Route("/late", type("Late", (), {"__call__": staticmethod(late)})()))
    return app


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def get(metrics: Metrics):
    app = failing_app(metrics)

    def ask(path: str, **headers: str) -> httpx.Response:
        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
                return await client.get(path, headers=headers)

        return asyncio.run(go())

    return ask


class TestOrdinaryRoutes:
    def test_our_own_error(self, get, metrics: Metrics) -> None:
        response = get("/known")

        body = assert_refusal(response, 503, "overloaded")
        assert body["error"] == "too much"
        assert response.headers["retry-after"] == "7"
        assert dict(metrics.outcomes) == {("other", "", "overloaded"): 1}

    def test_an_unexpected_error_tells_nothing(
        self, get, metrics: Metrics, caplog: pytest.LogCaptureFixture
    ) -> None:
        response = get("/unexpected", **{"X-Request-Id": "abc-1"})

        body = assert_refusal(response, 500, "internal")
        assert body["request_id"] == "abc-1"
        assert dict(metrics.outcomes) == {("other", "", "internal"): 1}
        (record,) = [r for r in caplog.records if r.getMessage() == FAILED]
        assert record.levelno == logging.ERROR
        line = json.loads(JsonFormatter().format(record))
        assert line["request_id"] == "abc-1"
        assert "RuntimeError: /secret/path" in line["exception"]

    def test_framework_validation_does_not_echo(self, get, metrics: Metrics) -> None:
        body = assert_refusal(get(f"/number/{CANARY}"), 422, "validation_failed")

        assert body["details"][0]["loc"] == ["path", "number"]
        assert dict(metrics.outcomes) == {("other", "", "validation_failed"): 1}

    def test_not_found(self, get) -> None:
        body = assert_refusal(get(f"/{CANARY}"), 404, "not_found")

        assert body["error"] == "there is nothing at this address"

    def test_a_framework_error_without_a_word_of_ours(
        self, get, metrics: Metrics, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)

        response = get("/teapot")

        body = assert_refusal(response, 418)
        assert body["code"] == "i_m_a_teapot"
        assert response.headers["x-tea"] == "green"
        assert sum(metrics.outcomes.values()) == sum(metrics.received.values()) == 1
        assert [r.status for r in caplog.records if r.getMessage() == FAILED] == [418]

    def test_an_error_after_the_answer_has_begun_is_logged_and_counted(
        self, get, metrics: Metrics, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(AssertionError):  # the transport sees an answer without an end
            get("/late")

        assert dict(metrics.outcomes) == {("other", "", "internal"): 1}
        assert [r.status for r in caplog.records if r.getMessage() == FAILED] == [500]


@pytest.mark.parametrize("path", ["/predict", "/models/affine/predict", "/v2/models/affine/infer"])
def test_405_names_the_allowed_method(client: httpx.Client, path: str) -> None:
    response = client.get(path)

    assert_refusal(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_an_unexpected_error_inside_inference_tells_nothing(
    make_client: MakeClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def encode(*_: object) -> bytes:
        raise ValueError("a fault of our own")

    monkeypatch.setattr(InstancesCodec, "encode", encode)
    make_bundle(tmp_path, "liar", "conv")
    client = make_client(models=tmp_path)
    body = {"instances": [{"pixels": [[7] * 8] * 8}]}

    response = client.post("/predict", json=body, headers={"X-Request-Id": "lost-1"})

    assert assert_refusal(response, 500, "internal")["request_id"] == "lost-1"
    (record,) = [r for r in caplog.records if r.getMessage() == FAILED]
    line = json.loads(JsonFormatter().format(record))
    assert (line["request_id"], line["model"], line["level"]) == ("lost-1", "liar", "error")
    assert "ValueError" in line["exception"]
    figures = Figures.of(client)
    assert figures.total("modelport_requests_received_total", route="predict") == 1
    assert figures.total("modelport_requests_total", route="predict", outcome="internal") == 1


class TestCounters:
    SENT = (
        ("predict", "/models/affine/predict", json.dumps(ROWS), "ok"),
        ("predict", "/models/affine/predict", "{}", "validation_failed"),
        ("predict", "/models/affine/predict", "{", "malformed_body"),
        ("predict", "/models/nope/predict", "{}", "model_not_found"),
        ("predict", "/predict", "{}", "model_required"),
        ("predict", "/models/poison/predict", '{"instances":[{"index":9}]}', "model_failed"),
        ("predict", "/models/affine/predict", " " * 200_001, "payload_too_large"),
        ("infer", "/v2/models/affine/infer", json.dumps(TENSORS), "ok"),
        ("infer", "/v2/models/affine/infer", '{"inputs":[]}', "invalid_tensor"),
        ("infer", "/v2/models/nope/infer", "{}", "model_not_found"),
    )

    def test_received_is_the_sum_of_outcomes_of_every_route(self, client: httpx.Client) -> None:
        before = Figures.of(client)

        for _, path, body, _ in self.SENT:
            client.post(path, content=body)
        client.get("/models")
        client.get("/nowhere")

        after = Figures.of(client)
        grown = after.since(before)
        for route in ("predict", "infer"):
            expected = [outcome for r, _, _, outcome in self.SENT if r == route]
            assert grown("modelport_requests_received_total", route=route) == len(expected)
            assert grown("modelport_requests_total", route=route) == len(expected)
            for outcome in set(expected):
                count = grown("modelport_requests_total", route=route, outcome=outcome)
                assert count == expected.count(outcome), outcome
        assert grown("modelport_requests_total", route="other", outcome="not_found") == 1
        # The scrape counts itself once it is answered.
        received = after.total("modelport_requests_received_total", route="other")
        assert received == after.total("modelport_requests_total", route="other")


class TestLogLines:
    def test_a_failure_is_one_line_of_json_without_payload(
        self, client: httpx.Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        instance = {"a": CANARY, "b": [CANARY], "c": 1, "x\n\u2028\x1b[31m\u202e": 1}

        response = client.post(
            "/models/affine/predict",
            json={"instances": [instance]},
            headers={"X-Request-Id": "one"},
        )

        assert_refusal(response, 422)
        (record,) = [r for r in caplog.records if r.getMessage() == FAILED]
        for formatter in (JsonFormatter(), TextFormatter()):
            line = formatter.format(record)
            assert len(line.splitlines()) == 1
            assert line.isascii()
            assert line.isprintable()
            assert CANARY not in line
        parsed = json.loads(JsonFormatter().format(record))
        wanted = {"request_id": "one", "route": "predict", "model": "affine", "status": 422,
                  "code": "validation_failed", "level": "info", "message": FAILED}  # fmt: skip
        assert wanted.items() <= parsed.items()

    def test_a_foreign_name_in_the_address_is_escaped(
        self, client: httpx.Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)

        client.post("/models/a%0aINFO%20forged%1b[0m/predict", json=ROWS)

        (record,) = [r for r in caplog.records if r.getMessage() == FAILED]
        assert len(JsonFormatter().format(record).splitlines()) == 1
        assert TextFormatter().format(record).isprintable()

    def test_success_is_not_logged(
        self, client: httpx.Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)

        client.post("/models/affine/predict", json=ROWS)

        assert [record for record in caplog.records if record.name.startswith("app")] == []


def test_the_body_of_an_error_is_its_own() -> None:
    error = ValidationFailed("a.b: bad", [Detail(("a", 0), "bad", "value_error")])

    assert error_body(error, "r1") == {
        "error": "a.b: bad",
        "code": "validation_failed",
        "request_id": "r1",
        "details": [{"loc": ["a", 0], "msg": "bad", "type": "value_error"}],
    }
    assert_clean("application/json", json.dumps(error_body(ModelportError("x"), "r2")).encode())
