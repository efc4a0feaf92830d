"""The service while its repository changes: nobody fails, and the right version answers."""

import asyncio
import gc
import json
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.api.codecs import JSON, WireFormat
from app.api.codecs.instances import InstancesCodec
from app.api.handler import InferenceRoute
from app.api.ticket import Ticket
from app.bundle.golden import Golden
from app.bundle.manifest import Batching
from app.bundle.pins import remove_pin, write_pin
from app.bundle.signature import Signature
from app.errors import Overloaded
from app.main import create_app
from app.service import Service
from app.settings import Settings
from tests.api.answers import ROW_TOTAL, ROW_Y, ROWS, TENSORS
from tests.api.conftest import BASE_URL
from tests.api.figures import Figures
from tests.api.live import PATIENCE_S
from tests.conftest import StartServer
from tests.support.bundles import RECIPES, make_bundle, make_golden

PREDICT = "/models/m/predict"


def client_of(service: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(service=service)), base_url=BASE_URL
    )


@asynccontextmanager
async def running(repository: Path, **settings: Any) -> AsyncIterator[Service]:
    quick = {"provider": ("cpu",), "cache": "off", "calibration_budget_ms": 0, "threads": 2}
    service = Service(Settings(models=repository, **(quick | {"poll_s": 0} | settings)))
    await service.start()
    try:
        yield service
    finally:
        await service.stop(PATIENCE_S)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (what is waited for happens on a thread)
            await asyncio.sleep(0.002)


def served(service: Service) -> int | None:
    return service.registry.entries["m"].served


# What is published, good and bad.


def publish_totals_first(root: Path) -> None:
    """The same graph, but a client sees only the total: another version, told by its answers."""
    signature = RECIPES["affine"]().signature
    only = tuple(p for p in signature.predictions if p.name == "total")
    make_bundle(root, "m", signature=signature.model_copy(update={"predictions": only}))


def publish_wrong_golden(root: Path) -> None:
    golden = make_golden("affine")
    off = {name: a + np.float32(1) for name, a in golden.outputs.items()}
    make_bundle(root, "m", golden=Golden(golden.inputs, off))


def publish_truncated(root: Path) -> None:
    path = make_bundle(root, "m").path / "model.onnx"
    path.write_bytes(path.read_bytes()[:-9])


def publish_without_golden(root: Path) -> None:
    (make_bundle(root, "m").path / "golden.npz").unlink()


def publish_bad_manifest(root: Path) -> None:
    path = make_bundle(root, "m").path / "manifest.json"
    path.write_text(path.read_text()[:-20])


def publish_no_graph(root: Path) -> None:
    make_bundle(root, "m", model_data=b"no ONNX at all")


BAD = [
    publish_wrong_golden,
    publish_truncated,
    publish_without_golden,
    publish_bad_manifest,
    publish_no_graph,
]


def is_right(answer: httpx.Response) -> bool:
    """Odd versions of `m` tell y and total, even ones the total alone."""
    if answer.status_code != 200:
        return False
    document = answer.json()
    (row,) = document["predictions"]
    wanted = {"total"} if document["model"]["version"] % 2 == 0 else {"y", "total"}
    if set(row) != wanted or not np.allclose(row["total"], ROW_TOTAL, atol=1e-5):
        return False
    return "y" not in row or np.allclose(row["y"], ROW_Y, atol=1e-5)


class Load:
    """Clients that ask without a pause, and keep what was wrong."""

    def __init__(self, service: Service, clients: int = 8) -> None:
        self.wrong: list[tuple[int, str]] = []
        self.versions: list[int] = []
        self._stop = False
        self._client = client_of(service)
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(clients)]

    async def _ask(self) -> None:
        while not self._stop:
            answer = await self._client.post(PREDICT, json=ROWS)
            if not is_right(answer):
                self.wrong.append((answer.status_code, answer.text))
            else:
                self.versions.append(answer.json()["model"]["version"])
            await asyncio.sleep(0)

    async def answers(self, count: int = 50) -> None:
        wanted = len(self.versions) + count
        await until(lambda: len(self.versions) >= wanted or self.wrong)

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)
        await self._client.aclose()


def test_versions_change_under_load_and_no_request_fails(tmp_path: Path) -> None:
    async def scenario() -> None:
        make_bundle(tmp_path, "m")
        async with running(tmp_path, poll_s=0.02) as service:
            load = Load(service)
            await load.answers()
            publish_totals_first(tmp_path)
            await until(lambda: served(service) == 2)
            await load.answers()
            for number, publish in enumerate(BAD, 3):
                publish(tmp_path)
                await until(lambda number=number: ("m", number) in service.registry.refused)
                await load.answers()
                assert served(service) == 2
            write_pin(tmp_path / "m", 1)
            await until(lambda: served(service) == 1)
            await load.answers()
            remove_pin(tmp_path / "m")
            await until(lambda: served(service) == 2)
            await load.answers()
            await load.stop()

        assert load.wrong == []
        assert set(load.versions) == {1, 2}
        assert load.versions[-1] == 2

    asyncio.run(scenario())


def test_a_request_that_was_admitted_before_a_swap_is_answered_by_its_own_version(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        make_bundle(tmp_path, "m")
        async with running(tmp_path, keep_previous=False) as service:
            go_on = asyncio.Event()

            async def slow_body() -> AsyncIterator[bytes]:
                data = json.dumps(ROWS).encode()
                yield data[:5]
                await go_on.wait()
                yield data[5:]

            async with client_of(service) as client:
                slow = asyncio.create_task(
                    client.post(
                        PREDICT, content=slow_body(), headers={"content-type": "application/json"}
                    )
                )
                await until(lambda: service.metrics.received["predict"] == 1)
                publish_totals_first(tmp_path)
                await service.reloader.reload("m", PATIENCE_S)
                assert list(service.registry.entries["m"].loaded) == [2]
                assert (await client.post(PREDICT, json=ROWS)).json()["model"]["version"] == 2
                go_on.set()
                answer = await slow

            assert is_right(answer)
            assert answer.json()["model"]["version"] == 1

    asyncio.run(scenario())


def test_loaded_versions_are_addressed_side_by_side(tmp_path: Path) -> None:
    async def scenario() -> None:
        make_bundle(tmp_path, "m")
        async with running(tmp_path) as service, client_of(service) as client:
            publish_totals_first(tmp_path)
            await service.reloader.reload("m", PATIENCE_S)
            for version in (1, 2):
                answer = await client.post(f"/models/m/versions/{version}/predict", json=ROWS)
                assert is_right(answer)
                assert answer.json()["model"]["version"] == version
                tensors = await client.post(f"/v2/models/m/versions/{version}/infer", json=TENSORS)
                assert tensors.json()["model_version"] == str(version)
            missing = await client.post("/models/m/versions/3/predict", json=ROWS)
            assert missing.json()["error"] == "version '3' of 'm' is not loaded; loaded: 2, 1"

    asyncio.run(scenario())


def test_the_document_and_the_catalogue_follow(tmp_path: Path) -> None:
    async def scenario() -> None:
        make_bundle(tmp_path, "m")
        async with running(tmp_path) as service, client_of(service) as client:
            before = (await client.get("/openapi.json")).json()
            make_bundle(tmp_path, "other", "strings")
            publish_totals_first(tmp_path)
            publish_wrong_golden(tmp_path)
            service.rescan()
            await until(lambda: "other" in service.registry.served and served(service) == 2)
            write_pin(tmp_path / "m", 9)
            await service.reloader.reload("m", PATIENCE_S)
            after = (await client.get("/openapi.json")).json()
            detail = (await client.get("/models/m")).json()
            metrics = Figures.of_text((await client.get("/metrics")).text)

        assert "/models/other/predict" not in before["paths"]
        assert "/models/other/predict" in after["paths"]
        rows = {
            document["components"]["schemas"]["MPrediction"]["required"].__len__()
            for document in (before, after)
        }
        assert rows == {1, 2}
        assert detail["version"] == 2
        assert (detail["pin"], detail["pin_problem"]) == (9, "pinned version 9 is absent")
        states = {one["version"]: one["state"] for one in detail["versions"]}
        assert states == {3: "refused", 2: "serving", 1: "loaded"}
        assert detail["versions"][0]["reason"].startswith("no execution provider")
        assert metrics.total("modelport_pin_problem", model="m") == 1
        assert metrics.total("modelport_version_refused", model="m", version="3") == 1
        assert metrics.total("modelport_reloads_total", model="m", outcome="loaded") == 1
        assert metrics.total("modelport_reloads_total", model="m", outcome="refused") == 1

    asyncio.run(scenario())


@pytest.mark.slow
def test_what_is_let_go_returns_its_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        make_bundle(tmp_path, "m")
        async with running(tmp_path, keep_previous=False) as service, client_of(service) as client:
            traces = []
            for _ in range(5):
                model = service.registry.get("m")
                traces += [weakref.ref(model), weakref.ref(model._session)]
                traces.append(weakref.ref(model._session._session))
                del model
                for path, body in ((PREDICT, ROWS), ("/v2/models/m/infer", TENSORS)):
                    assert (await client.post(path, json=body)).status_code == 200
                make_bundle(tmp_path, "m")
                await service.reloader.reload("m", PATIENCE_S)
            gc.collect()
            await until(lambda: not any(trace() for trace in traces))
            await client.post(PREDICT, json=ROWS)
            figures = Figures.of_text((await client.get("/metrics")).text)

        assert [one["version"] for one in figures.labels("modelport_model_info")] == ["6"]

    asyncio.run(scenario())


def test_nothing_slow_of_a_reload_is_done_by_the_event_loop(tmp_path: Path) -> None:
    async def scenario() -> None:
        made_on: list[str] = []
        freed_on: list[str] = []

        def make_codec(signature: Signature) -> InstancesCodec:
            made_on.append(threading.current_thread().name)
            return InstancesCodec(signature, 10)

        route = InferenceRoute("watched", WireFormat((JSON,), make_codec))
        make_bundle(tmp_path, "m")
        async with running(tmp_path, keep_previous=False) as service:
            trace = weakref.ref(
                service.registry.get("m")._session._session,
                lambda _: freed_on.append(threading.current_thread().name),
            )
            for version in (1, 2):
                ticket = service.handler.admit(route, "m", None, {})
                assert isinstance(ticket, Ticket)
                ticket.cancel()
                del ticket
                if version == 1:
                    make_bundle(tmp_path, "m")
                    await service.reloader.reload("m", PATIENCE_S)
            await until(lambda: freed_on)

        assert trace() is None
        assert made_on == ["MainThread", "modelport-load"]
        assert freed_on == ["modelport-files"]

    asyncio.run(scenario())


def test_limits_of_the_settings_reach_requests_and_models(tmp_path: Path) -> None:
    async def scenario() -> None:
        make_bundle(tmp_path, "m")
        own = {"m": {"timeout_ms": 7}, "n": {"precision": "fp32"}}
        async with running(tmp_path, per_model=own, timeout_ms=9, queue_bytes=2048) as service:
            limits = service.handler.limits
            model = service.registry.get("m")
            rows = {"x": np.zeros((200, 3), np.float32)}
            first = model.submit(rows, 200, None, lambda _: None)
            with pytest.raises(Overloaded):  # by bytes: 4096 rows may wait
                model.submit(rows, 200, None, lambda _: None)
            first.cancel()

        assert (limits.timeout_ms, limits.timeout_ms_by_model) == (9, {"m": 7})

    asyncio.run(scenario())


def test_the_end_does_not_wait_for_a_version_that_is_being_proved(tmp_path: Path) -> None:
    others = set(threading.enumerate())  # of services that tests share

    async def scenario() -> None:
        make_bundle(tmp_path, "m")
        async with running(tmp_path, calibration_budget_ms=30_000) as service:
            # Measuring it up to its largest batch takes seconds.
            many = Batching(row_independent=True, max_rows=65_536, checked_rows=(1,))
            make_bundle(tmp_path, "m", "conv", batching=many)
            waiting = asyncio.create_task(service.reloader.reload("m", PATIENCE_S))
            await until(lambda: service.registry.entries["m"].loading == 2)
            service.drain()
            assert (await waiting).served == 1

    asyncio.run(scenario())

    left = set(threading.enumerate()) - others
    assert not [thread.name for thread in left if thread.name.startswith("modelport-")]


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


@pytest.mark.slow
def test_memory_is_flat_over_many_reloads(tmp_path: Path) -> None:
    async def scenario() -> tuple[int, int]:
        root = tmp_path / "models"
        make_bundle(root, "m")
        async with running(root) as service, client_of(service) as client:
            sizes: list[int] = []
            for number in range(24):
                make_bundle(root, "m")
                await service.reloader.reload("m", PATIENCE_S)
                assert is_right_or_odd(await client.post(PREDICT, json=ROWS))
                if number in (9, 23):
                    gc.collect()
                    sizes.append(resident_bytes())
            return sizes[0], sizes[1]

    early, late = asyncio.run(scenario())

    assert late - early < 16 * 2**20


def is_right_or_odd(answer: httpx.Response) -> bool:
    (row,) = answer.json()["predictions"]
    return np.allclose(row["y"], ROW_Y, atol=1e-5)


# Over sockets, as clients see it.


class HttpLoad:
    """Threads with a connection each."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.wrong: list[str] = []
        self.versions: set[int] = set()
        self.count = 0
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=PATIENCE_S, trust_env=False) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(PREDICT, json=ROWS)
                except httpx.HTTPError as error:
                    self.wrong.append(repr(error))
                    continue
                self.count += 1
                if is_right(answer):
                    self.versions.add(answer.json()["model"]["version"])
                else:
                    self.wrong.append(answer.text)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)


@pytest.fixture
def soaked(tmp_path: Path, start_server: StartServer) -> Iterator[tuple[Path, HttpLoad, str]]:
    root = tmp_path / "models"
    make_bundle(root, "m")
    server = start_server(root, poll_s=0.1)
    load = HttpLoad(server.url)
    yield root, load, server.url
    load.stop()


@pytest.mark.slow
def test_hot_reload_under_load(soaked: tuple[Path, HttpLoad, str]) -> None:
    """A version every half second, one in three of them broken, until several have served."""
    root, load, url = soaked
    good: list[int] = [1]
    version = 1
    deadline = time.monotonic() + 2 * PATIENCE_S
    while version < 12 or len(load.versions) < 4:
        assert time.monotonic() < deadline, load.versions
        version += 1
        if version % 3 == 0:
            BAD[version // 3 % len(BAD)](root)
        else:
            publish_totals_first(root) if version % 2 == 0 else make_bundle(root, "m")
            good.append(version)
        time.sleep(0.5)
    with httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False) as client:
        deadline = time.monotonic() + PATIENCE_S
        while client.get("/models/m").json()["version"] != good[-1]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        load.stop()
        figures = Figures.of(client)

    assert load.wrong == []
    assert load.versions <= set(good)
    assert {1, good[-1]} <= load.versions
    assert figures.total("modelport_requests_total", outcome="ok", route="predict") == load.count
    assert figures.total("modelport_reloads_total", outcome="refused") >= 1


def test_a_request_leaves_nothing_for_the_garbage_collector(tmp_path: Path) -> None:
    """Else a version that was let go would stay until the collector comes round."""

    async def scenario() -> int:
        make_bundle(tmp_path, "m")
        async with running(tmp_path) as service, client_of(service) as client:
            await client.post(PREDICT, json=ROWS)
            gc.collect()
            gc.disable()
            try:
                for _ in range(20):
                    assert (await client.post(PREDICT, json=ROWS)).status_code == 200
                    assert (await client.post(PREDICT, json={"instances": [{}]})).status_code == 422
                await asyncio.sleep(0)
                return sum(type(found) is Ticket for found in gc.get_objects())
            finally:
                gc.enable()

    assert asyncio.run(scenario()) == 0
