"""Limits of what a connection may take in bytes and time, and what looks after them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

#: How late a connection may be noticed that has been too slow.
_LOOK_EVERY_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Guards:
    """What a connection may take.

    Attributes:
        connections: most at once; one more is refused.
        head_bytes, head_fields: of a request's line and header fields.
        head_s: for those to arrive, from their first byte.
        body_s: for a body to arrive.
        idle_s: between requests, and before the first.
        write_s: for a caller to read anything of what was written.
        linger_s, linger_bytes: for what a caller still sends that was refused meanwhile.
        pipelined: requests that were sent before the first of them was answered.
    """

    connections: int = 10_000
    head_bytes: int = 32 * 1024
    head_fields: int = 100
    head_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 75.0
    write_s: float = 30.0
    linger_s: float = 2.0
    linger_bytes: int = 4 * 2**20
    pipelined: int = 16


class Guarded(Protocol):
    def look_after(self, now_s: float) -> None: ...


@asynccontextmanager
async def guarded(connections: Callable[[], Collection[Any]]) -> AsyncIterator[None]:
    """Look after all connections now and then: one timer for all costs less than one for each."""
    loop = asyncio.get_running_loop()

    async def look() -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now_s = loop.time()
            for connection in list(connections()):
                connection.look_after(now_s)

    task = loop.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
