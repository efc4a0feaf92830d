"""`/admin`: who may, what it does, and what it says."""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from app.bundle.pins import read_pin
from app.main import create_app
from app.service import Service
from app.settings import Settings
from tests.api.answers import CANARY, ROWS, assert_refusal
from tests.api.conftest import BASE_URL
from tests.api.live import PATIENCE_S
from tests.support.bundles import make_bundle

KEY = "0123456789-ключ-abc"
HEADERS = {"Authorization": f"Bearer {KEY}".encode()}
ROUTES = [
    ("GET", "/admin/models"),
    ("POST", "/admin/models/m/reload"),
    ("POST", "/admin/models/m/pin"),
    ("DELETE", "/admin/models/m/pin"),
]


@asynccontextmanager
async def admin(
    repository: Path,
    key: str | None = KEY,
    headers: Mapping[str, bytes] = HEADERS,
    **settings: Any,
) -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
    """A service that polls nothing, and a client that holds the key."""
    given: dict[str, Any] = {
        "models": repository,
        "provider": ("cpu",),
        "cache": "off",
        "calibration_budget_ms": 0,
        "poll_s": 0,
        "admin_key": key,
    }
    service = Service(Settings(**(given | settings)))
    await service.start()
    transport = httpx.ASGITransport(create_app(service=service))
    try:
        async with httpx.AsyncClient(
            transport=transport, base_url=BASE_URL, headers=headers
        ) as client:
            yield client, service
    finally:
        await service.stop(PATIENCE_S)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two good versions of `m`, and a third whose golden rows are missing."""
    root = tmp_path / "models"
    for _ in range(3):
        bundle = make_bundle(root, "m")
    (bundle.path / "golden.npz").unlink()
    return root


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Who may.


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_key_in_the_settings_there_is_no_admin(
    method: str, path: str, repository: Path
) -> None:
    async def scenario() -> None:
        async with admin(repository, None) as (client, _):
            answer = await client.request(method, path)
            document = (await client.get("/openapi.json")).json()

            assert_refusal(answer, 404, "not_found")
            assert not [path for path in document["paths"] if path.startswith("/admin")]
            assert "securitySchemes" not in document["components"]

    asyncio.run(scenario())


BAD_AUTHORIZATIONS = {
    "none": None,
    "empty": b"",
    "no scheme": KEY.encode(),
    "another scheme": f"Basic {KEY}".encode(),
    "no key": b"Bearer",
    "empty key": b"Bearer ",
    "another key": f"Bearer {CANARY}{KEY}".encode(),
    "half of it": f"Bearer {KEY[:-1]}".encode(),
    "other case": f"Bearer {KEY.upper()}".encode(),
    "not UTF-8": b"Bearer \xff\xfe" + KEY.encode(),
    "long": b"Bearer " + b"x" * 5000,
}


def test_whoever_does_not_hold_the_key_is_refused_everywhere(repository: Path) -> None:
    async def scenario() -> None:
        async with admin(repository, headers={}) as (client, service):
            for name, value in BAD_AUTHORIZATIONS.items():
                headers = {} if value is None else {"authorization": value}
                for method, path in ROUTES:
                    answer = await client.request(
                        method, path, headers=headers, content=b'{"version": 1}'
                    )
                    body = assert_refusal(answer, 401, "unauthorized")
                    assert answer.headers["www-authenticate"] == "Bearer", name
                    assert KEY not in body["error"]
            assert read_pin(repository / "m") is None
            assert service.registry.get("m").version == 2

    asyncio.run(scenario())


def test_the_key_is_not_kept_in_the_routes(repository: Path) -> None:
    app = create_app(Settings(models=repository, admin_key=KEY))

    assert KEY not in repr([vars(route) for route in app.routes])


# What it does.


def test_every_model_and_version_is_listed(repository: Path) -> None:
    async def scenario() -> None:
        make_bundle(repository, "other")
        (repository / "other" / "1" / "model.onnx").unlink()
        async with admin(repository, loaded_versions=2) as (client, _):
            answer = (await client.get("/admin/models")).json()

        model, other = answer["models"]
        assert model == {
            "model": "m",
            "served": 2,
            "loaded": [2, 1],
            "refused": {"3": "golden.npz is missing"},
            "versions": [
                {"version": 3, "state": "refused", "reason": "golden.npz is missing"},
                {"version": 2, "state": "serving", "reason": ""},
                {"version": 1, "state": "loaded", "reason": ""},
            ],
        }
        assert (other["model"], other["loaded"]) == ("other", [])
        assert "served" not in other

    asyncio.run(scenario())


def test_a_request_for_a_refused_version_is_told_why(repository: Path) -> None:
    async def scenario() -> None:
        async with admin(repository) as (client, _):
            for method, path in (
                ("POST", "/models/m/versions/3/predict"),
                ("POST", "/v2/models/m/versions/3/infer"),
                ("GET", "/v2/models/m/versions/3"),
            ):
                answer = await client.request(method, path)
                body = assert_refusal(answer, 404, "model_not_found")
                assert body["error"] == (
                    "version '3' of 'm' was refused: golden.npz is missing; loaded: 2"
                )
            other = await client.post("/models/m/versions/1/predict", json=ROWS)
            assert assert_refusal(other, 404)["error"] == (
                "version '1' of 'm' is not loaded; loaded: 2"
            )

    asyncio.run(scenario())


def test_a_reload_takes_what_is_new_and_tries_again_what_was_refused(repository: Path) -> None:
    async def scenario() -> None:
        told: list[str] = []
        async with admin(repository) as (client, service):
            service.tell_others = lambda: told.append("others")
            golden = (repository / "m" / "2" / "golden.npz").read_bytes()
            (repository / "m" / "3" / "golden.npz").write_bytes(golden)

            answer = await client.post("/admin/models/m/reload")

            assert answer.status_code == 200
            assert answer.json()["served"] == 3
            assert answer.json()["loaded"] == [3, 2]
            assert answer.json()["refused"] == {}
            assert told == ["others"]

    asyncio.run(scenario())


def test_a_reload_that_is_not_waited_for_is_202(repository: Path) -> None:
    async def scenario() -> None:
        async with admin(repository) as (client, service):
            make_bundle(repository, "m")

            answers = await asyncio.gather(
                *(client.post("/admin/models/m/reload", params={"wait_s": 0}) for _ in range(3))
            )

            for answer in answers:
                assert answer.status_code == 202
                assert answer.json()["served"] == 2
                assert answer.json()["loading"] == 4
                assert answer.json()["versions"][0]["state"] == "loading"
            last = await client.post("/admin/models/m/reload")
            assert (last.status_code, last.json()["served"]) == (200, 4)
            assert service.metrics.reloads["m", "loaded"] == 1

    asyncio.run(scenario())


def test_a_pin_rolls_back_and_without_it_the_newest_serves_again(repository: Path) -> None:
    async def scenario() -> None:
        told: list[str] = []
        async with admin(repository) as (client, service):
            service.tell_others = lambda: told.append("others")
            pinned = await client.post("/admin/models/m/pin", json={"version": 1})
            answer = await client.post("/models/m/predict", json=ROWS)
            detail = (await client.get("/models/m")).json()
            unpinned = await client.delete("/admin/models/m/pin")
            again = await client.delete("/admin/models/m/pin")

        assert (pinned.status_code, unpinned.status_code, again.status_code) == (200, 200, 200)
        assert (pinned.json()["served"], pinned.json()["pin"]) == (1, 1)
        assert answer.json()["model"]["version"] == 1
        assert (detail["version"], detail["pin"]) == (1, 1)
        assert unpinned.json()["served"] == 2
        assert "pin" not in unpinned.json()
        assert unpinned.json()["loaded"] == [2, 1]
        assert len(told) == 3
        assert names(repository / "m") == ["1", "2", "3"]

    asyncio.run(scenario())


# What it refuses.


def test_a_version_that_cannot_serve_is_not_pinned(repository: Path) -> None:
    async def scenario() -> None:
        async with admin(repository) as (client, service):
            for version, reason in (
                (3, "version 3 of m cannot serve: golden.npz is missing"),
                (9, "version 9 of m is not published; there are: 3, 2, 1"),
            ):
                answer = await client.post("/admin/models/m/pin", json={"version": version})
                assert assert_refusal(answer, 409, "pin_refused")["error"] == reason
            assert read_pin(repository / "m") is None
            assert service.registry.get("m").version == 2

    asyncio.run(scenario())


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take away the right to write; root has it anywhere, so it becomes somebody else."""
    is_root = os.geteuid() == 0
    folder.chmod(0o555)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def public_repository() -> Iterator[Path]:
    """One that every user of the machine can read; pytest's own folders are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for _ in range(2):
            make_bundle(Path(folder), "m")
        yield Path(folder)


def test_a_repository_that_is_read_only_says_so(public_repository: Path) -> None:
    repository = public_repository

    async def scenario() -> None:
        async with admin(repository) as (client, service):
            with read_only(repository / "m"):
                refused = [
                    await client.post("/admin/models/m/pin", json={"version": 1}),
                    await client.post("/admin/models/m/pin", json={"version": 2}),
                ]
            for answer in refused:
                body = assert_refusal(answer, 409, "read_only")
                assert body["error"] == (
                    "the model repository cannot be written here: Permission denied"
                )
            assert service.registry.get("m").version == 2
            assert read_pin(repository / "m") is None

    asyncio.run(scenario())


BAD_PINS = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[1]",
    "nothing": b"{}",
    "a string": b'{"version": "1"}',
    "true": b'{"version": true}',
    "a fraction": b'{"version": 1.5}',
    "zero": b'{"version": 0}',
    "huge": b'{"version": 99999999999999999999}',
    "more": b'{"version": 1, "cAnArY": 2}',
    "not UTF-8": b'{"version": "\xff"}',
}


def test_a_body_that_is_no_pin_is_refused(repository: Path) -> None:
    async def scenario() -> None:
        async with admin(repository) as (client, _):
            for body in BAD_PINS.values():
                answer = await client.post("/admin/models/m/pin", content=body)
                if b"cAnArY" in body:
                    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
                else:
                    assert_refusal(answer, 422, "validation_failed")
            large = await client.post("/admin/models/m/pin", content=b" " * 2000)
            assert_refusal(large, 413, "payload_too_large")
            assert read_pin(repository / "m") is None

    asyncio.run(scenario())


@pytest.mark.parametrize("wait_s", ["-1", "601", "nan", "inf", "soon", "1e9"])
def test_a_wait_out_of_range_is_refused(wait_s: str, repository: Path) -> None:
    async def scenario() -> None:
        async with admin(repository) as (client, _):
            answer = await client.post("/admin/models/m/reload", params={"wait_s": wait_s})
            assert_refusal(answer, 422, "validation_failed")

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["absent", "..", "%2e%2e%2fm", "M"])
def test_a_model_that_is_not_there_is_404(name: str, repository: Path) -> None:
    async def scenario() -> None:
        async with admin(repository) as (client, _):
            for method, path in (("POST", "reload"), ("POST", "pin"), ("DELETE", "pin")):
                answer = await client.request(
                    method, f"/admin/models/{name}/{path}", content=b'{"version": 1}'
                )
                assert_refusal(answer, 404)

    asyncio.run(scenario())


def test_a_repository_that_is_away_is_503_and_others_go_on(repository: Path) -> None:
    def move_away() -> None:
        repository.rename(repository.parent / "away")

    async def scenario() -> None:
        async with admin(repository) as (client, _):
            move_away()
            answer = await client.post("/admin/models/m/reload")
            body = assert_refusal(answer, 503, "unavailable")
            assert body["error"] == "the model repository does not exist"
            assert (await client.post("/models/m/predict", json=ROWS)).status_code == 200

    asyncio.run(scenario())


# The document.


def test_the_document_describes_what_is_answered(repository: Path) -> None:
    async def scenario() -> None:
        async with admin(repository) as (client, _):
            document = (await client.get("/openapi.json")).json()
            answers = {
                ("/admin/models", "get"): await client.get("/admin/models"),
                ("/admin/models/{name}/reload", "post"): await client.post(
                    "/admin/models/m/reload"
                ),
                ("/admin/models/{name}/pin", "post"): await client.post(
                    "/admin/models/m/pin", json={"version": 9}
                ),
                ("/admin/models/{name}/pin", "delete"): await client.delete(
                    "/admin/models/absent/pin"
                ),
            }

        validate(document)
        assert document["components"]["securitySchemes"] == {
            "AdminKey": {"type": "http", "scheme": "bearer"}
        }
        for (path, method), answer in answers.items():
            operation = document["paths"][path][method]
            assert operation["security"] == [{"AdminKey": []}]
            assert "401" in operation["responses"]
            response = operation["responses"][str(answer.status_code)]
            schema = response["content"]["application/json"]["schema"]
            whole = schema | {"components": document["components"]}
            Draft202012Validator(whole).validate(json.loads(answer.content))

    asyncio.run(scenario())
