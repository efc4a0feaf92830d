"""A thread for work that must not hold up the event loop."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class BackgroundThread:
    """One daemon thread that does one piece of work after the other.

    Not of an executor: the interpreter waits for those at its end, and work may hang in a file
    system or in a driver.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], object]) -> None:
        """Do it some time; from any thread, and safe in a finalizer."""
        self._work.put(work)

    def call(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do it and give the result to the event loop, on whose thread this is called."""
        future: asyncio.Future[T] = self._loop.create_future()

        def do() -> None:
            try:
                result = work()
            except Exception as error:
                self.tell_loop(_fail, future, error)
            except BaseException as error:  # Foreign code asks for the process's end, or panics.
                self.tell_loop(_fail, future, RuntimeError(repr(error)))
            else:
                self.tell_loop(_succeed, future, result)

        self._work.put(do)
        return future

    def tell_loop(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call back on the event loop; nothing happens where it has ended."""
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            logger.debug("the event loop ended before background work did")

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except BaseException:
                logger.exception("background work failed")
            del work  # It may hold a whole model, and the next may be long in coming.

    def close(self, timeout_s: float) -> None:
        """End after the current piece of work; wait for that at most so long."""
        self._work.put(None)
        self._thread.join(timeout_s)


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
