"""Several worker processes behind one socket, and callers that keep them busy."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx
import numpy as np

from tests.api.figures import Figures
from tests.api.live import PATIENCE_S, LiveServer
from tests.support import models

#: Of the log, where a worker ended that was not told to.
ENDED: Final = "worker ended; it is started again"
_CALLERS: Final = 4


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"it did not come about that {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@dataclass(frozen=True)
class Team:
    """The workers of a server, as its log tells of them."""

    server: LiveServer

    def ready_pids(self) -> dict[int, int]:
        """By place: the process that got ready there last and has not ended since."""
        pids: dict[int, int] = {}
        for line in self.server.log_lines():
            if line["message"] == "worker ready":
                pids[line["worker"]] = line["pid"]
            if line["message"] == ENDED and pids.get(line["worker"]) == line["pid"]:
                del pids[line["worker"]]
        return pids

    def wait(self, count: int) -> dict[int, int]:
        """Until so many workers are ready."""
        wait_until(lambda: len(self.ready_pids()) == count, f"{count} workers are ready")
        return self.ready_pids()

    def count(self, message: str) -> int:
        return sum(line["message"] == message for line in self.server.log_lines())

    def figures(self) -> Figures:
        """As a client on a new connection gets them from whichever worker answers."""
        with self.server.client() as client:
            return Figures.of(client)

    def ok(self) -> float:
        return self.figures().total("modelport_requests_total", route="predict", outcome="ok")


def affine(a: float) -> list[float]:
    """What the fixture model answers to a, 2, 3."""
    row = np.array([[a, 2, 3]], dtype=np.float32)
    return [float(value) for value in models.affine({"x": row})["y"][0]]


def ask(client: httpx.Client, a: float) -> list[float]:
    answer = client.post("/predict", json={"instances": [{"a": a, "b": 2, "c": 3}]})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["predictions"][0]["y"])


@dataclass
class Tally:
    """What callers saw."""

    right: int = 0
    wrong: int = 0
    failed: list[str] = field(default_factory=list)
    retried: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, answer: list[float] | Exception, wanted: list[float], *, again: bool) -> None:
        with self._lock:
            self.retried += again
            if isinstance(answer, Exception):
                self.failed.append(repr(answer))
            elif np.allclose(answer, wanted, atol=1e-4):
                self.right += 1
            else:
                self.wrong += 1

    @property
    def all(self) -> int:
        return self.right + self.wrong + len(self.failed)


@contextmanager
def callers(server: LiveServer, *, retries: int, count: int = _CALLERS) -> Iterator[Tally]:
    """Clients that ask without a pause while the block runs, each answer known beforehand."""
    tally = Tally()
    stop = threading.Event()

    def call(first: int) -> None:
        with server.client() as client:
            number = first
            while not stop.is_set():
                number += count
                _ask_with_retries(client, float(number % 1000), retries, tally)

    threads = [threading.Thread(target=call, args=(first,)) for first in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)


def _ask_with_retries(client: httpx.Client, a: float, retries: int, tally: Tally) -> None:
    for attempt in range(retries + 1):
        try:
            answer: list[float] | Exception = ask(client, a)
        except (httpx.HTTPError, AssertionError) as error:
            answer = error
        if attempt == retries or not isinstance(answer, Exception):
            tally.note(answer, affine(a), again=attempt > 0)
            return
