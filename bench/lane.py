"""CPU of a request in the lane without sockets, beside a bare ASGI application's.

`python -m bench.lane`: what to run again and again while the hot path is worked on. What counts for
users is measured over sockets, by `make bench`.
"""

import argparse
import asyncio
import functools
import logging
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.api.lane.protocol import LaneProtocol
from app.main import create_app
from app.server import lane_of
from app.service import Service
from app.settings import Settings
from bench.zoo import NETWORKS, publish_bundle

_MODEL: Final = "mlp"
_REPEATS: Final = 9
_TENSOR: Final = {
    "name": "x",
    "shape": [1, 16],
    "datatype": "FP32",
    "data": [round(0.1 * i, 1) for i in range(16)],
}
REQUESTS: Final = {
    "infer": (f"/v2/models/{_MODEL}/infer", {"inputs": [_TENSOR]}),
    "predict": (
        f"/models/{_MODEL}/predict",
        {"instances": [{f"f{i}": round(0.1 * i, 1) for i in range(16)}]},
    ),
}


class Transport(asyncio.Transport):
    """Counts answers instead of sending them."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = 0
        self.last = b""

    def write(self, data: Any) -> None:
        self.answers += data.startswith(b"HTTP/1.1 ")
        self.last = data

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002
        return default

    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


async def bare(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
    """Reads the body and answers a constant."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"229")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * 229})


def rounds(
    protocol: Callable[..., Any], config: uvicorn.Config, count: int, request: bytes
) -> Callable[[int], Awaitable[float]]:
    """A function that sends a request on each of `count` connections, so many times.

    It gives CPU seconds of one request.
    """
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT")]
    transports = [Transport() for _ in range(count)]
    connections = [protocol(config=config, server_state=state, app_state={}) for _ in transports]
    for connection, transport in zip(connections, transports, strict=True):
        connection.connection_made(transport)

    async def run(times: int) -> float:
        before_s = time.process_time()
        for _ in range(times):
            wanted = transports[-1].answers + 1
            for connection in connections:
                connection.data_received(request)
            while any(one.answers < wanted for one in transports):  # noqa: ASYNC110 (a turn)
                await asyncio.sleep(0)
        assert b" 200 " in transports[0].last[:16] or transports[0].last.startswith(b"x")
        return (time.process_time() - before_s) / (times * count)

    return run


async def measure(service: Service, path: str, body: bytes, count: int, times: int) -> str:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    app = create_app(service=service)
    plain = {"lifespan": "off", "log_config": None, "ws": "none", "access_log": False}
    lane = functools.partial(LaneProtocol, lane_of(app, service))
    ours = rounds(lane, uvicorn.Config(app, **plain), count, request)  # type: ignore[arg-type]
    floor = rounds(HttpToolsProtocol, uvicorn.Config(bare, **plain), count, request)  # type: ignore[arg-type]
    await ours(times)
    await floor(times)
    pairs = [(await ours(times), await floor(times)) for _ in range(_REPEATS)]
    ratio = statistics.median(a / b for a, b in pairs)
    ours_us, floor_us = (1e6 * min(column) for column in zip(*pairs, strict=True))
    return f"{ours_us:.1f} µs, bare ASGI {floor_us:.1f} µs, median ratio {ratio:.2f}"


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lane", description=__doc__)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=100, help="requests a connection and repeat")
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        publish_bundle(Path(folder), NETWORKS[_MODEL], with_int8=False)
        settings = Settings(models=Path(folder), provider=("cpu",), threads=1, cache="off")
        service = Service(settings)
        await service.start()
        for name, (path, document) in REQUESTS.items():
            body = orjson.dumps(document)
            told = await measure(service, path, body, given.connections, given.rounds)
            print(f"{name:8} {given.connections} connections: {told}")
        await service.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
