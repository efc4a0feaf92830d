"""Runs the service on uvicorn: bind first, prove, serve, drain."""

import asyncio
import functools
import gc
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI
from starlette.routing import Route

from app.api.endpoint import InferenceEndpoint
from app.api.lane.addresses import Addresses
from app.api.lane.guards import Guards, guarded
from app.api.lane.protocol import Lane, LaneProtocol
from app.listener import bind, cannot_listen
from app.main import create_app
from app.ops.lag import watched
from app.service import Service
from app.settings import Settings

logger = logging.getLogger(__name__)

Beside = Callable[["Server", Service], AbstractAsyncContextManager[Callable[[], None]]]

_LAST_WORDS_S: Final = 1.0


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; returns after a clean shutdown.

    Raises:
        SettingsError: the address cannot be listened on.
        NothingToServe: no model can be served.
    """
    with bind(settings) as listener:
        run(Service(settings), listener)


def run(service: Service, listener: socket.socket, beside: Beside | None = None) -> None:
    """Start the service and serve on a socket that is bound; returns after a clean shutdown.

    Args:
        beside: entered before the start and left after the end; gives what is to be called once
            requests are accepted.
    Raises:
        SettingsError, NothingToServe: as `serve`.
    """
    app = create_app(service=service)
    config = uvicorn.Config(
        app,
        http=functools.partial(LaneProtocol, lane_of(app, service)),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",  # the service is started here, so that its errors are ours to show
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(service.settings.grace_s)),
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_run(service, Server(config, service), listener, beside or _alone))


def lane_of(app: FastAPI, service: Service) -> Lane:
    """The fast lane to the inference routes of an application."""
    settings = service.settings
    ways = [
        (route.path, route.endpoint.route)
        for route in app.routes
        if isinstance(route, Route) and isinstance(route.endpoint, InferenceEndpoint)
    ]
    return Lane(
        handler=lambda: service.handler,
        count_refusal=service.metrics.refuse_connection,
        addresses=Addresses(ways if settings.fast_lane else ()),
        max_body_bytes=settings.max_body_bytes,
        guards=Guards(
            connections=settings.max_connections,
            head_bytes=settings.max_head_bytes,
            head_s=settings.head_timeout_s,
            body_s=settings.body_timeout_s,
            idle_s=settings.idle_timeout_s,
            write_s=settings.write_timeout_s,
        ),
    )


@asynccontextmanager
async def _alone(server: "Server", service: Service) -> AsyncIterator[Callable[[], None]]:  # noqa: ARG001
    yield lambda: None


async def _run(service: Service, server: "Server", listener: socket.socket, beside: Beside) -> None:
    server.remember_loop(asyncio.get_running_loop())
    async with beside(server, service) as ready:
        server.on_ready = ready
        await service.start()
        # What lives as long as the process need not be looked through again and again.
        gc.collect()
        gc.freeze()
        try:
            listener.listen(server.config.backlog)
        except OSError as error:  # another process was quicker since it was bound
            await service.stop()
            raise cannot_listen(service.settings, error) from None
        signal.signal(signal.SIGHUP, server.handle_hangup)
        logger.info("serving", extra=_where(listener, service))
        try:
            connections = server.server_state.connections
            async with watched(service.metrics.lag_s), guarded(lambda: connections):
                await server.serve(sockets=[listener])
        finally:
            # uvicorn gives the handlers back; another SIGTERM must go on changing nothing.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            await service.stop(server.grace_left_s())
    logger.info("stopped")


def _where(listener: socket.socket, service: Service) -> dict[str, str]:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return {"url": f"http://{shown}:{port}", "models": ", ".join(service.registry.served)}


class Server(uvicorn.Server):
    """uvicorn with our end: not ready at once, accepting for a while, then finishing."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._stopped_accepting_s = 0.0
        self._rescan_is_due = False
        #: Called once requests are accepted.
        self.on_ready: Callable[[], None] = lambda: None

    def grace_left_s(self) -> float:
        """What shutting down the connections has left of the grace period."""
        spent_s = time.monotonic() - self._stopped_accepting_s
        return max(0.0, self._service.settings.grace_s - spent_s)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_ready()
        if self._rescan_is_due:
            self._service.rescan()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopped_accepting_s = time.monotonic()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if isinstance(connection, LaneProtocol):
                connection.cut_off()
        # Those that the grace period cut off have yet to tell their callers.
        if self.server_state.tasks:
            await asyncio.wait(set(self.server_state.tasks), timeout=_LAST_WORDS_S)

    def remember_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def rescan(self) -> None:
        """Look at the repository now, or as soon as requests are accepted."""
        if not self.started:
            self._rescan_is_due = True
        elif not self._stopping:
            self._service.rescan()

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """SIGHUP: look at the repository now."""
        assert self._loop is not None  # noqa: S101 (the handler is set by what runs on it)
        self._loop.call_soon_threadsafe(self._hang_up)

    def _hang_up(self) -> None:
        if self._stopping:
            logger.info("SIGHUP changes nothing: stopping")
            return
        logger.info("SIGHUP: looking at the model repository")
        self.rescan()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """SIGTERM drains; another changes nothing. A second Ctrl-C stops waiting."""
        if self._stopping:
            if sig == signal.SIGINT:
                self.should_exit = self.force_exit = True
            return
        self._stopping = True
        logger.info("stopping", extra={"signal": signal.Signals(sig).name})
        self._service.drain()
        delay_s = self._service.settings.drain_delay_s if sig == signal.SIGTERM else 0.0
        if self._loop is None or delay_s == 0:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._exit_after, delay_s)

    def _exit_after(self, delay_s: float) -> None:
        assert self._loop is not None  # noqa: S101 (checked by the caller)
        self._loop.call_later(delay_s, setattr, self, "should_exit", True)
