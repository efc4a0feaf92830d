"""Requests that wait for a worker: deadlines, full queues, and callers that leave."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.main import create_app
from app.service import Service
from app.settings import Settings
from tests.api.answers import ROW_Y, ROWS, TENSORS, assert_refusal
from tests.api.conftest import BASE_URL
from tests.api.live import PATIENCE_S

BODY = b'{"instances":[{"a":1,"b":2,"c":3}]}'


class Plug:
    """Work that occupies the service's only worker until it is pulled."""

    def __init__(self) -> None:
        self._pulled = threading.Event()
        self._jobs: list[Callable[[], object]] = [lambda: self._pulled.wait(PATIENCE_S)]

    def next_job(self) -> Callable[[], object] | None:
        return self._jobs.pop() if self._jobs else None

    def pull(self) -> None:
        self._pulled.set()


@asynccontextmanager
async def plugged(
    repository: Path, **settings: object
) -> AsyncIterator[tuple[Service, FastAPI, Plug]]:
    """A service whose one worker is occupied."""
    service = Service(Settings(models=repository, provider=("cpu",), threads=1, **settings))
    await service.start()
    plug = Plug()
    try:
        service._workers.request(plug)
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
