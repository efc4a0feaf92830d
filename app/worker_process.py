"""A worker process as its supervisor sees it."""

import signal
import socket
import subprocess
import time
from collections.abc import Sequence

from app.channel import READY, RESCAN, TELL_OTHERS, Channel
from app.program import python_module


class WorkerProcess:
    """Started when this is made. `close` it when it has ended.

    Args:
        place: which of the N workers it is, from 0.
        number: of this process; one that replaces it has a higher one.
        listener: inherited by it.
        options: of `python -m app worker`, beside those that are added here.
    """

    def __init__(
        self, place: int, number: int, listener: socket.socket, options: Sequence[str]
    ) -> None:
        self.place = place
        self.number = number
        self.is_ready = False
        self.has_hung_up = False
        self._started_s = time.monotonic()
        self.channel, theirs = Channel.pair()
        inherited = (listener.fileno(), theirs.fileno())
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own program)
                [
                    *python_module("app"),
                    "worker",
                    *("--place", str(place), "--number", str(number)),
                    *("--listener", str(inherited[0]), "--channel", str(inherited[1])),
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
                # Ctrl-C goes to the terminal's whole group; workers hear of it from us alone.
                process_group=0,
            )
        except BaseException:
            self.channel.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def listen(self) -> bool:
        """Take in what it said; true where the others are to look at the repository."""
        heard = self.channel.heard()
        if heard is None:
            self.has_hung_up = True
            return False
        self.is_ready = self.is_ready or READY in heard
        return TELL_OTHERS in heard

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._started_s

    def rescan(self) -> None:
        self.channel.say(RESCAN)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def exit_status(self) -> int | None:
        """None while it lives; as of `subprocess`: negative for a signal."""
        return self._process.poll()

    def close(self) -> None:
        """Where it lives, it takes this for the end of its supervisor and ends by itself."""
        self.channel.close()


def ended_by(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
