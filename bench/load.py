"""HTTP load: closed loop (each connection waits for its answer) and open loop (a fixed rate).

In the open loop a request's time counts from when it was due, not from when a connection was free
for it: a slow server cannot hide its waiting line (no coordinated omission).
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import numpy as np

_HEAD_END: Final = b"\r\n\r\n"
_ANSWER_WITHIN_S: Final = 60.0


@dataclass
class Sample:
    """What a run of load saw. Times in seconds."""

    seconds: float
    #: When each answer came, on the monotonic clock, its time, and its status; 0 for none.
    at_s: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    #: Requests sent again because a connection that had been idle was closed under them.
    again: int = 0

    def note(self, due_s: float, status: int) -> None:
        now = time.monotonic()
        self.at_s.append(now)
        self.took_s.append(now - due_s)
        self.status.append(status)

    @property
    def by_status(self) -> dict[str, int]:
        return {str(status): count for status, count in sorted(Counter(self.status).items())}

    @property
    def good_per_s(self) -> float:
        return self.status.count(200) / self.seconds

    def quantile_ms(self, quantile: float, status: int = 200) -> float:
        """NaN where there was no answer of that status."""
        times = [t for t, s in zip(self.took_s, self.status, strict=True) if s == status]
        return float(np.quantile(times, quantile) * 1e3) if times else float("nan")


@dataclass(frozen=True)
class Target:
    """Where requests go, as the bytes of a whole request."""

    host: str
    port: int
    request: bytes


def post(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a JSON request."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: bench",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join(lines).encode() + _HEAD_END + body


class _Connection(asyncio.Protocol):
    """One request at a time; `ask` gives the status of its answer."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self.is_open = True

    def connection_lost(self, _: Exception | None) -> None:
        self.is_open = False
        self._settle(0)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(_HEAD_END)
        if not found:
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        if b"connection: close" in lower:
            self.is_open = False
        self._settle(int(head[9:12]))

    def _settle(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)

    async def ask(self, request: bytes) -> int:
        if self._transport is None or not self.is_open:
            return 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def _connect(target: Target) -> _Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(_Connection, target.host, target.port)
    return connection


async def _ask(
    connection: _Connection | None, target: Target, sample: Sample
) -> tuple[int, _Connection | None]:
    """Status 0 where no answer came; the connection as long as it can be used again."""
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            fresh = connection is None
            connection = connection or await _connect(target)
            status = await connection.ask(target.request)
            if not status and not fresh:
                # The server may close an idle connection just then; every client sends again.
                sample.again += 1
                connection = await _connect(target)
                status = await connection.ask(target.request)
    except (OSError, TimeoutError):
        return 0, None
    if connection.is_open:
        return status, connection
    connection.close()
    return status, None


async def closed_loop(target: Target, connections: int, seconds: float) -> Sample:
    """So many connections, each asking again as soon as it is answered."""
    sample = Sample(seconds)
    ends_s = time.monotonic() + seconds

    async def client() -> None:
        connection: _Connection | None = None
        while (due_s := time.monotonic()) < ends_s:
            status, connection = await _ask(connection, target, sample)
            if time.monotonic() <= ends_s:
                sample.note(due_s, status)
        if connection is not None:
            connection.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return sample


async def open_loop(
    target: Target,
    per_s: float,
    seconds: float,
    rng: np.random.Generator | None = None,
    choose: Callable[[int], Target] | None = None,
) -> Sample:
    """Requests at a fixed mean rate; with `rng` as a Poisson process, else evenly."""
    sample = Sample(seconds)
    idle: deque[_Connection] = deque()
    tasks: set[asyncio.Task[None]] = set()

    async def one(due_s: float, to: Target) -> None:
        status, connection = await _ask(idle.pop() if idle else None, to, sample)
        sample.note(due_s, status)
        if connection is not None:
            idle.append(connection)

    started_s = time.monotonic()
    for index, after_s in enumerate(_times(per_s, seconds, rng)):
        wait_s = started_s + after_s - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        task = asyncio.create_task(
            one(started_s + after_s, choose(index) if choose is not None else target)
        )
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks)
    for connection in idle:
        connection.close()
    return sample


def _times(per_s: float, seconds: float, rng: np.random.Generator | None) -> Sequence[float]:
    count = int(per_s * seconds)
    if rng is None:
        return [index / per_s for index in range(count)]
    return [float(t) for t in np.cumsum(rng.exponential(1 / per_s, count)) if t < seconds]
