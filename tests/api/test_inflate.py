"""Compressed bodies: their limits, their budget, and the threads that do the work."""

import asyncio
import gzip
import json
import random
import threading
import zlib
from pathlib import Path

import httpx
import pytest

from app.api.inflate import Encoding, Inflater
from app.api.reply import Reply
from app.api.ticket import Ticket
from app.errors import MalformedBody, ModelportError, PayloadTooLarge
from app.main import create_app
from app.service import Service
from app.settings import Settings
from tests.api.answers import ROW_Y, ROWS, TENSORS, assert_refusal
from tests.api.binary import divided, raw, tensor
from tests.api.conftest import BASE_URL
from tests.api.live import PATIENCE_S
from tests.api.test_binary_tensors import ALL_RAW, INFER, X, raw_outputs

PREDICT = "/models/affine/predict"
GOOD = json.dumps(ROWS).encode()
MIB = 2**20


def zlib_of(data: bytes) -> bytes:
    return zlib.compress(data)


@pytest.mark.parametrize(
    ("word", "pack"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("GZip", gzip.compress),
     ("deflate", zlib_of), ("identity", bytes)],
)  # fmt: skip
@pytest.mark.parametrize("size", [0, 1_000, 190_000])
def test_a_body_is_answered_as_if_it_were_plain(client: httpx.Client, word, pack, size) -> None:
    body = pack(GOOD + b" " * size)

    typed = client.post(PREDICT, content=body, headers={"Content-Encoding": word})
    tensors = client.post(
        INFER, content=pack(json.dumps(TENSORS).encode()), headers={"Content-Encoding": word}
    )

    assert typed.json()["predictions"][0]["y"] == pytest.approx(ROW_Y)
    assert tensors.json()["outputs"][0]["data"] == pytest.approx(ROW_Y)


def test_the_head_of_raw_tensors_is_measured_when_plain(client: httpx.Client) -> None:
    body, headers = divided({"inputs": [tensor("x", "FP32", X)]} | ALL_RAW, raw(X))

    response = client.post(
        INFER, content=gzip.compress(body), headers=headers | {"Content-Encoding": "gzip"}
    )

    assert raw_outputs(response)["y"][0] == pytest.approx(ROW_Y)


def test_a_body_at_the_limit_is_taken(client: httpx.Client) -> None:
    noise = random.Random(1).randbytes(100_000).hex().encode()
    body = b'{"instances":[{"text":"%b"}]}' % noise[: 200_000 - 28]

    response = client.post(
        "/models/notes/predict", content=gzip.compress(body), headers={"Content-Encoding": "gzip"}
    )

    assert_refusal(response, 422)  # so long a text: the body was read as a whole


def all_of(inflater: Inflater, step: int) -> bytes:
    while not inflater.is_done:
        inflater.step(step)
    return inflater.content()


@pytest.mark.parametrize("step", [1, 7, 1000, MIB])
@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 5000])
def test_steps_of_any_size_give_the_same(step: int, size: int) -> None:
    data = random.Random(size).randbytes(size)
    inflater = Inflater(gzip.compress(data), Encoding.GZIP, 5000)

    assert all_of(inflater, step) == data
    assert inflater.size_bytes == size


@pytest.mark.parametrize("step", [1, 7, 1000, MIB])
@pytest.mark.parametrize("size", [1001, 10_000, 20_000_000])
def test_no_more_than_a_byte_beyond_the_limit_is_ever_made(step: int, size: int) -> None:
    inflater = Inflater(zlib.compress(bytes(size)), Encoding.DEFLATE, 1000)

    with pytest.raises(PayloadTooLarge, match="more than 1000 bytes"):
        all_of(inflater, step)

    assert inflater.size_bytes == 1001


@pytest.mark.parametrize("step", [1, 100, MIB])
def test_every_cut_is_found(step: int) -> None:
    whole = gzip.compress(random.Random(2).randbytes(100))
    for end in range(len(whole)):
        with pytest.raises(MalformedBody):
            all_of(Inflater(whole[:end], Encoding.GZIP, 1000), step)


def test_a_large_body_of_one_to_one_is_not_copied_again_and_again() -> None:
    data = random.Random(3).randbytes(8 * MIB)
    inflater = Inflater(zlib.compress(data, 0), Encoding.DEFLATE, 8 * MIB)

    steps = 0
    while not inflater.is_done:
        inflater.step(MIB)
        steps += 1

    assert inflater.content() == data
    assert steps <= 10


def run(scenario) -> None:
    asyncio.run(asyncio.wait_for(scenario, PATIENCE_S))


async def started(repository: Path, **settings: object) -> Service:
    service = Service(Settings(models=repository, provider=("cpu",), **settings))
    await service.start()
    return service


def admitted(service: Service, body: bytes) -> Ticket:
    headers = {b"content-encoding": b"gzip", b"content-length": str(len(body)).encode()}
    app = create_app(service=service)
    route = next(r.endpoint.route for r in app.routes if r.path == "/models/{name}/predict")
    ticket = service.handler.admit(route, "affine", None, headers)
    assert isinstance(ticket, Ticket)
    return ticket


@pytest.mark.parametrize(
    ("content", "noise", "on_loop"),
    [(GOOD, 0, True), (GOOD + b" " * 100_000, 0, True), (GOOD + b" " * 300_000, 0, False),
     (GOOD, 40_000, False)],
)  # fmt: skip
def test_large_bodies_are_for_worker_threads(
    repository: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, noise: int, on_loop: bool
) -> None:
    threads: set[threading.Thread] = set()
    step = Inflater.step

    def watched(self: Inflater, most_bytes: int) -> None:
        threads.add(threading.current_thread())
        step(self, most_bytes)

    monkeypatch.setattr(Inflater, "step", watched)
    blanks = random.Random(4).choices(b" \t\n\r", k=4 * noise)

    async def scenario() -> None:
        service = await started(repository)
        try:
            replied: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            body = gzip.compress(content + bytes(blanks))
            admitted(service, body).finish(body, replied.set_result)
            assert (await replied).status == 200
        finally:
            await service.stop()

    run(scenario())
    here = threading.current_thread() in threads
    assert here == (on_loop or not noise)
    assert (len(threads) > here) == (not on_loop)


def test_what_is_decompressed_counts_against_the_budget(repository: Path) -> None:
    async def scenario() -> None:
        service = await started(repository, pending_body_bytes=4 * MIB)
        try:
            replies: list[Reply] = []
            done = asyncio.Event()

            def reply(answer: Reply) -> None:
                replies.append(answer)
                if len(replies) == 2:
                    done.set()

            # Several turns each, so that neither is done before both together are over it.
            body = gzip.compress(GOOD + b" " * (7 * MIB // 2))
            for _ in range(2):
                admitted(service, body).finish(body, reply)
            await done.wait()

            codes = sorted(answer.status for answer in replies)
            assert codes == [200, 503]
            assert service.handler._pending_body_bytes == 0
        finally:
            await service.stop()

    run(scenario())


def test_a_caller_that_leaves_ends_the_work(repository: Path) -> None:
    async def scenario() -> None:
        service = await started(repository)
        try:
            body = gzip.compress(GOOD + b" " * (3 * MIB))
            ticket = admitted(service, body)
            ticket.finish(body, lambda _: pytest.fail("nobody is there"))
            ticket.cancel()
            await asyncio.sleep(0.1)

            assert service.handler._pending_body_bytes == 0
            assert service.metrics.outcomes["predict", "affine", "cancelled"] == 1
        finally:
            await service.stop()

    run(scenario())


def test_a_bomb_within_a_bomb_is_opened_once(client: httpx.Client) -> None:
    bomb = gzip.compress(gzip.compress(bytes(50 * MIB)))

    response = client.post(PREDICT, content=bomb, headers={"Content-Encoding": "gzip"})

    assert_refusal(response, 400, "malformed_body")


def test_neighbours_are_answered_while_a_large_body_is_read(repository: Path) -> None:
    async def scenario() -> None:
        service = await started(repository, max_body_bytes=64 * MIB, pending_body_bytes=128 * MIB)
        app = create_app(service=service)
        transport = httpx.ASGITransport(app)
        try:
            async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
                headers = {"Content-Encoding": "gzip"}
                large = gzip.compress(bytes(60 * MIB), 1)
                slow = asyncio.create_task(client.post(PREDICT, content=large, headers=headers))
                quick = 0
                while not slow.done():
                    assert (await client.post(PREDICT, json=ROWS)).status_code == 200
                    quick += 1
                assert quick >= 5
                assert (await slow).status_code == 400
        finally:
            await service.stop()

    run(scenario())


def test_errors_are_of_the_tree() -> None:
    chance = random.Random(5)
    whole = gzip.compress(GOOD * 20)
    for _ in range(2000):
        body = bytearray(whole)
        body[chance.randrange(len(body))] = chance.randrange(256)
        try:
            data = all_of(Inflater(bytes(body), Encoding.GZIP, 10_000), 100)
        except ModelportError:
            continue
        assert data == GOOD * 20  # only what the header says of the file was touched
