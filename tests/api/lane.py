"""The application behind its fast lane and a real socket, with an ordinary httpx client."""

import asyncio
import functools
import socket
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import httpx
import uvicorn

from app.api.lane.guards import guarded
from app.api.lane.protocol import LaneProtocol
from app.main import create_app
from app.server import lane_of
from app.service import Service
from app.settings import Settings
from tests.api.live import PATIENCE_S


class LaneTransport(httpx.BaseTransport):
    """Serves on a free port, from an event loop of a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self.service = Service(settings)
        app = create_app(service=self.service)
        protocol = functools.partial(LaneProtocol, lane_of(app, self.service))
        config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, ws="none")
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._socket.getsockname()
        self._loop = config.get_loop_factory()()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lane", daemon=True)
        self._way = httpx.HTTPTransport()

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self.service.start())
        self._serving = asyncio.run_coroutine_threadsafe(self._serve(), self._loop)
        return self

    async def _serve(self) -> None:
        async with guarded(lambda: self._server.server_state.connections):
            await self._server.serve(sockets=[self._socket])

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
            self._run(self.service.stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE_S)
            self._loop.close()

    def ask(self, question: Callable[[set[LaneProtocol]], Any]) -> Any:
        """Put to the open connections, on their event loop."""

        async def answer() -> Any:
            return question(self._server.server_state.connections)

        return self._run(answer())

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host="127.0.0.1", port=self.address[1])
        return self._way.handle_request(request)
