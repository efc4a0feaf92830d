"""How late the event loop is: while it is held up, nobody is answered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from app.ops.figures import Histogram

_EVERY_S: Final = 0.02


@asynccontextmanager
async def watched(lag_s: Histogram) -> AsyncIterator[None]:
    """Note, fifty times a second, how much later than asked the loop comes round."""
    task = asyncio.create_task(_watch(lag_s))
    try:
        yield
    finally:
        task.cancel()


async def _watch(lag_s: Histogram) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + _EVERY_S
        await asyncio.sleep(_EVERY_S)
        lag_s.observe(max(0.0, loop.time() - due_s))
