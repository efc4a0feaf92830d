"""Signals as something to wait for and to read, for a loop of our own."""

import signal
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import FrameType
from typing import Final, Self

_READ_BYTES: Final = 4096


class SignalQueue:
    """Holds the signals `numbers` while its block runs, and ignores them from then on.

    Its file descriptor is readable when one has come. For the main thread.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self._received: deque[int] = deque()
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)

    def __enter__(self) -> Self:
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._numbers:
            # A child's end is the one that must not be ignored: its exit status would be lost.
            ending = signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN
            signal.signal(number, ending)
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._received.append(number)

    def fileno(self) -> int:
        return self._reader.fileno()

    def take(self) -> Iterator[int]:
        """Those that have come since, in order."""
        with suppress(BlockingIOError):
            self._reader.recv(_READ_BYTES)
        while self._received:
            yield self._received.popleft()
