"""Requests that wait for a worker: deadlines, full queues, and callers that leave."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.engine.scheduling.workers import Job
from app.main import create_app
from app.service import Service
from app.settings import ModelSettings, Settings
from tests.api.answers import ROW_Y, ROWS, TENSORS, assert_refusal
from tests.api.conftest import BASE_URL
from tests.api.live import PATIENCE_S

INFER = "/v2/models/affine/infer"
COLOURS = {"instances": [{"colour": "red"}]}
BODY = b'{"instances":[{"a":1,"b":2,"c":3}]}'


class Plug:
    """Work that occupies the service's only worker until it is pulled."""

    def __init__(self) -> None:
        self._pulled = threading.Event()
        self._jobs = [Job(lambda: self._pulled.wait(PATIENCE_S))]

    def next_job(self) -> Job | None:
        return self._jobs.pop() if self._jobs else None

    def pull(self) -> None:
        self._pulled.set()


@asynccontextmanager
async def plugged(
    repository: Path, **settings: object
) -> AsyncIterator[tuple[Service, FastAPI, Plug]]:
    """A service whose one worker is occupied, and that knows no cost of a run: all need it."""
    fixed = {"provider": ("cpu",), "threads": 1, "calibration_budget_ms": 0}
    service = Service(Settings(models=repository, **fixed, **settings))
    await service.start()
    plug = Plug()
    try:
        service._workers.share(plug.next_job).request()
        await asyncio.sleep(0.05)
        yield service, create_app(service=service), plug
    finally:
        plug.pull()
        await service.stop()


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE_URL)


class Caller:
    """One ASGI request whose caller may leave."""

    def __init__(self, app: FastAPI, path: str = "/models/affine/predict") -> None:
        self.sent: list[dict[str, object]] = []
        self._left = asyncio.Event()
        self._body = [{"type": "http.request", "body": BODY, "more_body": False}]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, object]:
        if self._body:
            return self._body.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, object]) -> None:
        self.sent.append(message)

    async def leave(self) -> None:
        self._left.set()
        await asyncio.wait_for(self.task, PATIENCE_S)


def outcomes(service: Service) -> dict[str, int]:
    found: dict[str, int] = {}
    for (route, _, outcome), count in service.metrics.outcomes.items():
        if route in ("predict", "infer"):
            found[outcome] = found.get(outcome, 0) + count
    return found


@pytest.mark.slow
def test_a_caller_that_leaves_is_counted_and_batch_mates_are_answered(repository: Path) -> None:
    async def scenario() -> None:
        async with plugged(repository) as (service, app, plug):
            async with client_of(app) as client:
                first = asyncio.create_task(client.post("/models/affine/predict", json=ROWS))
                leaver = Caller(app)
                last = asyncio.create_task(client.post("/models/affine/predict", json=ROWS))
                await asyncio.sleep(0.1)
                assert service.registry.get("affine").queued_rows == 3

                await leaver.leave()

                assert leaver.sent == []
                assert service.registry.get("affine").queued_rows == 2
                plug.pull()
                for answer in await asyncio.wait_for(asyncio.gather(first, last), PATIENCE_S):
                    assert answer.json()["predictions"][0]["y"] == pytest.approx(ROW_Y)
            assert outcomes(service) == {"cancelled": 1, "ok": 2}
            assert service.metrics.received["predict"] == 3

    asyncio.run(scenario())


def test_many_of_a_batch_may_leave(repository: Path) -> None:
    async def scenario() -> None:
        async with plugged(repository) as (service, app, plug):
            leavers = [Caller(app) for _ in range(15)]
            stayer = Caller(app)
            await asyncio.sleep(0.1)
            await asyncio.gather(*(leaver.leave() for leaver in leavers))
            plug.pull()
            await asyncio.wait_for(stayer.task, PATIENCE_S)

            assert stayer.sent[0]["status"] == 200
            assert outcomes(service) == {"cancelled": 15, "ok": 1}

    asyncio.run(scenario())


def test_a_waiting_request_that_the_server_cuts_off_is_told_so(repository: Path) -> None:
    async def scenario() -> None:
        async with plugged(repository) as (service, app, _):
            waiting = Caller(app)
            await asyncio.sleep(0.1)
            waiting.task.cancel()
            await waiting.task

            assert outcomes(service) == {"draining": 1}
            assert waiting.sent[0]["status"] == 503
            assert service.registry.get("affine").queued_rows == 0

    asyncio.run(scenario())


def test_a_request_that_is_cut_off_within_its_body_is_told_so(repository: Path) -> None:
    async def scenario() -> None:
        async with plugged(repository) as (service, app, _):
            waiting = Caller(app)
            waiting._body[0]["more_body"] = True
            await asyncio.sleep(0.05)
            waiting.task.cancel()
            await waiting.task

            assert outcomes(service) == {"draining": 1}
            assert waiting.sent[0]["status"] == 503
            assert service.metrics.received["predict"] == 1

    asyncio.run(scenario())


def test_a_deadline_that_passes_while_waiting_is_504(repository: Path) -> None:
    async def scenario() -> None:
        async with plugged(repository) as (service, app, _), client_of(app) as client:
            asked = asyncio.get_running_loop().time()
            response = await client.post(
                "/models/affine/predict", json=ROWS, headers={"Modelport-Timeout-Ms": "80"}
            )

            waited = asyncio.get_running_loop().time() - asked
            assert_refusal(response, 504, "deadline_exceeded")
            assert 0.07 < waited < 2
            assert service.registry.get("affine").queued_rows == 0

    asyncio.run(scenario())


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(repository: Path) -> None:
    async def scenario() -> None:
        async with plugged(repository, queue_rows=2) as (_, app, plug), client_of(app) as client:
            waiting = [
                asyncio.create_task(client.post("/models/affine/predict", json=ROWS))
                for _ in range(2)
            ]
            await asyncio.sleep(0.05)
            refused = await asyncio.wait_for(
                client.post("/v2/models/affine/infer", json=TENSORS), 1
            )

            assert_refusal(refused, 503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            plug.pull()
            answers = await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)
            assert [answer.status_code for answer in answers] == [200, 200]

    asyncio.run(scenario())


def test_under_overload_a_request_is_refused_before_its_body_is_read(repository: Path) -> None:
    async def scenario() -> None:
        async with plugged(repository, queue_rows=1) as (service, app, plug):
            waiting = Caller(app)
            await asyncio.sleep(0.05)
            unread = Caller(app)
            body, unread._body = unread._body, []
            await asyncio.wait_for(unread.task, PATIENCE_S)
            plug.pull()
            await asyncio.wait_for(waiting.task, PATIENCE_S)

            assert body != []
            assert unread.sent[0]["status"] == 503
            assert waiting.sent[0]["status"] == 200
            assert outcomes(service) == {"overloaded": 1, "ok": 1}
            assert service.metrics.outcomes["predict", "affine", "overloaded"] == 1

    asyncio.run(scenario())


def test_a_model_may_have_a_time_limit_of_its_own(repository: Path) -> None:
    per_model = {"affine": ModelSettings(timeout_ms=80)}

    async def scenario() -> None:
        async with (
            plugged(repository, per_model=per_model) as (_, app, plug),
            client_of(app) as client,
        ):
            other = asyncio.create_task(client.post("/models/strings/predict", json=COLOURS))
            own = await client.post("/models/affine/predict", json=ROWS)
            header = {"Modelport-Timeout-Ms": "60000"}
            longer = asyncio.create_task(
                client.post("/models/affine/predict", json=ROWS, headers=header)
            )
            await asyncio.sleep(0.1)
            plug.pull()

            assert_refusal(own, 504, "deadline_exceeded")
            for answer in await asyncio.wait_for(asyncio.gather(other, longer), PATIENCE_S):
                assert answer.status_code == 200

    asyncio.run(scenario())


def test_the_shorter_of_two_time_limits_holds(repository: Path) -> None:
    body = {**TENSORS, "parameters": {"timeout": 80_000}}

    async def scenario() -> None:
        async with plugged(repository) as (_, app, _plug), client_of(app) as client:
            by_body = client.post(INFER, json=body, headers={"Modelport-Timeout-Ms": "60000"})
            response = await asyncio.wait_for(by_body, PATIENCE_S)
            assert_refusal(response, 504, "deadline_exceeded")

            body["parameters"] = {"timeout": 60_000_000}
            by_header = client.post(INFER, json=body, headers={"Modelport-Timeout-Ms": "80"})
            response = await asyncio.wait_for(by_header, PATIENCE_S)
            assert_refusal(response, 504, "deadline_exceeded")

    asyncio.run(scenario())


def test_what_waits_is_answered_when_the_service_stops(repository: Path) -> None:
    async def scenario() -> None:
        async with plugged(repository) as (service, app, plug), client_of(app) as client:
            waiting = asyncio.create_task(client.post("/models/affine/predict", json=ROWS))
            await asyncio.sleep(0.05)
            stopping = asyncio.create_task(service.stop(PATIENCE_S))
            await asyncio.sleep(0.05)
            late = await client.post("/models/affine/predict", json=ROWS)
            plug.pull()

            assert (await asyncio.wait_for(waiting, PATIENCE_S)).status_code == 200
            await asyncio.wait_for(stopping, PATIENCE_S)
            assert_refusal(late, 503, "not_ready")
            assert late.headers["retry-after"] == "1"
            assert_refusal(await client.get("/health/ready"), 503, "not_ready")
            assert (await client.get("/health/live")).status_code == 200

    asyncio.run(scenario())
