"""The application in this process, behind an ordinary httpx client."""

import asyncio
import threading
from types import TracebackType
from typing import Self

import httpx
from fastapi import FastAPI

from tests.api.live import PATIENCE_S


class AsgiTransport(httpx.BaseTransport):
    """Runs an application with its lifespan on an event loop of its own thread.

    Clients of several threads may send at the same time; their requests meet on the one loop.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._transport = httpx.ASGITransport(app)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="asgi", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._lifespan = self._app.router.lifespan_context(self._app)
        self._run(self._lifespan.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            self._run(self._lifespan.__aexit__(kind, error, traceback))
            self._run(self._loop.shutdown_default_executor())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE_S)
            self._loop.close()

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return self._run(self._answer(request))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        body = await response.aread()
        return httpx.Response(response.status_code, headers=response.headers, content=body)
