"""Ctrl-C and SIGTERM wait for the end of a training step, so that what is kept is whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether a signal came. A second one acts at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def is_asked(self) -> bool:
        return self.number is not None

    def now(self) -> None:
        """Let the signal do what it does elsewhere: an exception, or the end of the process."""
        self.restore()
        signal.raise_signal(signal.SIGINT if self.number is None else self.number)
        raise KeyboardInterrupt  # where the signal was to be ignored

    def listen(self) -> None:
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.number = number
        self.restore()


@contextmanager
def stop_between_steps() -> Iterator[Stop]:
    """Outside the main thread, where Python takes no signals, it is never asked to stop."""
    stop = Stop()
    if threading.current_thread() is threading.main_thread():
        stop.listen()
    try:
        yield stop
    finally:
        stop.restore()
