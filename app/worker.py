"""A worker process: the service on a socket that the supervisor bound."""

import asyncio
import logging
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app import server
from app.channel import READY, RESCAN, TELL_OTHERS, Channel
from app.ops.scoreboard import Scoreboard
from app.service import Service
from app.settings import Settings

logger = logging.getLogger(__name__)

_POST_S: Final = 1.0


@dataclass(frozen=True)
class Assignment:
    """What the supervisor tells a worker beside its settings.

    Attributes:
        place: which of the N workers it is, from 0.
        number: of this process; no other has it.
        listener, channel: file descriptors that it inherited.
        folder: what the workers share while they run.
    """

    place: int
    number: int
    listener: int
    channel: int
    folder: Path


def work(settings: Settings, assignment: Assignment) -> None:
    """Serve until SIGTERM or SIGINT, or until the supervisor is gone.

    Raises:
        SettingsError, NothingToServe: as `app.server.serve`.
    """
    worker = Worker(assignment)
    service = Service(settings)
    service.metrics.workers = settings.workers
    with socket.socket(fileno=assignment.listener) as listener:
        listener.set_inheritable(False)
        server.run(service, listener, worker.attend)
    worker.leave()


class Worker:
    """What there is beside serving: the channel to the supervisor, and the shared figures."""

    def __init__(self, assignment: Assignment) -> None:
        self._channel = Channel(socket.socket(fileno=assignment.channel))
        self._folder = assignment.folder
        self._scoreboard = Scoreboard(assignment.folder, assignment.number)
        self._is_orphan = False

    @asynccontextmanager
    async def attend(
        self, process: server.Server, service: Service
    ) -> AsyncIterator[Callable[[], None]]:
        """Around the whole life of a service; gives what is to be called once it serves."""
        loop = asyncio.get_running_loop()
        service.metrics.with_others = self._scoreboard.merged
        service.tell_others = lambda: self._channel.say(TELL_OTHERS)
        tasks: list[asyncio.Task[None]] = []

        def ready() -> None:
            tasks.append(loop.create_task(self._post(service)))
            self._channel.say(READY)

        loop.add_reader(self._channel.fileno(), self._hear, process, loop)
        try:
            yield ready
        finally:
            loop.remove_reader(self._channel.fileno())
            for task in tasks:
                task.cancel()
            self._scoreboard.post(service.metrics.snapshot())

    async def _post(self, service: Service) -> None:
        while True:
            await asyncio.to_thread(self._scoreboard.post, service.metrics.snapshot())
            await asyncio.sleep(_POST_S)

    def _hear(self, process: server.Server, loop: asyncio.AbstractEventLoop) -> None:
        heard = self._channel.heard()
        if heard is None:
            loop.remove_reader(self._channel.fileno())
            self._end_alone(process)
        elif RESCAN in heard:
            process.rescan()

    def _end_alone(self, process: server.Server) -> None:
        """The supervisor is gone: nobody would replace this worker, nor stop it."""
        logger.warning("the supervisor has ended")
        self._is_orphan = True
        self._scoreboard.close()
        if not process.started:
            self.leave()
            os._exit(1)
        process.handle_exit(signal.SIGTERM, None)

    def leave(self) -> None:
        """Remove what the supervisor would have removed."""
        if self._is_orphan:
            shutil.rmtree(self._folder, ignore_errors=True)
