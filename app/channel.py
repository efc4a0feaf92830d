"""What the supervisor and a worker say to each other: single bytes on a pair of sockets.

That the other side closes, which its death does too, is said by it as well.
"""

import socket
from contextlib import suppress
from typing import Final, Self

#: From a worker: it accepts requests.
READY: Final = b"r"
#: From a worker: the others should look at the repository.
TELL_OTHERS: Final = b"t"
#: To a worker: look at the repository.
RESCAN: Final = b"s"

_READ_BYTES: Final = 4096


class Channel:
    """One end. Nothing here blocks."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        end.set_inheritable(False)
        self._end = end

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """The supervisor's end and the worker's."""
        ours, theirs = socket.socketpair()
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self._end.fileno()

    def say(self, word: bytes) -> None:
        """Where the other side has gone or is far behind, nobody needs it."""
        with suppress(OSError):
            self._end.send(word)

    def heard(self) -> bytes | None:
        """What has been said since; None once the other side has gone."""
        try:
            return self._end.recv(_READ_BYTES) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def close(self) -> None:
        self._end.close()
