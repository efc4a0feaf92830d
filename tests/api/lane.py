"""The application behind its fast lane and a real socket, with an ordinary httpx client."""

import asyncio
import functools
import socket
import threading
from types import TracebackType
from typing import Self

import httpx
import uvicorn

from app.api.lane.protocol import LaneProtocol
from app.main import create_app
from app.server import lane_of
from app.service import Service
from app.settings import Settings
from tests.api.live import PATIENCE_S


class LaneTransport(httpx.BaseTransport):
    """Serves on a free port, from an event loop of a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self._service = Service(settings)
        app = create_app(service=self._service)
        protocol = functools.partial(LaneProtocol, lane_of(app, self._service))
        config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, ws="none")
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._port = self._socket.getsockname()[1]
        self._loop = config.get_loop_factory()()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lane", daemon=True)
        self._way = httpx.HTTPTransport()

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._service.start())
        self._serving = asyncio.run_coroutine_threadsafe(
            self._server.serve(sockets=[self._socket]), self._loop
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            self._way.close()
            self._server.should_exit = True
            self._serving.result(PATIENCE_S)
            self._run(self._service.stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE_S)
            self._loop.close()

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        return self._way.handle_request(request)
