"""Runs a job of `in_child.py` in a child process: what crashes or hangs there ends there.

The child tells its progress as JSON lines on a pipe of its own, since libraries print what they
like to the standard streams. It gets the job on stdin, which stays open: where it closes, the
parent is gone and the child ends.
"""

import json
import logging
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from app.errors import EngineError
from app.program import python_module

logger = logging.getLogger(__name__)

_MODULE: Final = "app.engine.proof.in_child"
#: How often the caller is asked whether the answer is still wanted, and the child whether it lives.
_ASK_EVERY_S: Final = 0.1
_END_S: Final = 5.0
_READ_BYTES: Final = 65_536
#: More than any verdict; a child that tells more is not ours any longer.
_MOST_TOLD_BYTES: Final = 4 * 2**20
_TAIL_BYTES: Final = 2_000


class ChildFailed(EngineError):
    """The child gave no result; the message says whether it crashed or hung, and at what."""


class NotStarted(ChildFailed):
    """There was no child: that says nothing of what it was to try."""


class Cancelled(ChildFailed):
    """Nobody wants the result any longer."""


def run_job(
    job: Mapping[str, Any],
    timeout_s: float,
    cancelled: Callable[[], bool] = lambda: False,
    command: Sequence[str] | None = None,
) -> Mapping[str, Any]:
    """The result of a job. Blocks for `timeout_s` at most.

    Raises:
        ChildFailed: it crashed, hung or told nonsense.
        NotStarted: the machine gave no process.
        Cancelled: `cancelled` said so.
    """
    child = _Child(command or python_module(_MODULE), timeout_s)
    try:
        child.listen(json.dumps(job).encode() + b"\n", cancelled)
    finally:
        status = child.end()
    if child.result is None:
        raise ChildFailed(f"{_how_it_ended(status)} while {child.stage}")
    if not isinstance(child.result, dict):
        raise ChildFailed(f"told nonsense while {child.stage}")
    return child.result


class _Child:
    """The process, and what it has told so far. Whoever makes one ends it."""

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self.stage = "starting"
        self.result: Any = None
        self._timeout_s = timeout_s
        self._ends_s = time.monotonic() + timeout_s
        self._told_bytes = 0
        self._line = b""
        #: The end of what it and its libraries printed, for the log.
        self._tail = b""
        self._told_fd, tell_fd = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 (this interpreter, our own module)
                [*command, str(tell_fd), str(timeout_s)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(tell_fd,),
                # Ctrl-C in a terminal is the parent's business; and what the child starts can be
                # ended with it.
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._told_fd)
            raise NotStarted(f"no child process can be started: {error.strerror}") from error
        finally:
            os.close(tell_fd)

    def listen(self, job: bytes, cancelled: Callable[[], bool]) -> None:
        """Until a result came, or nothing more will come."""
        stdin, stderr = self._process.stdin, self._process.stderr
        assert stdin is not None  # noqa: S101 (pipes were asked for)
        assert stderr is not None  # noqa: S101
        os.set_blocking(stdin.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._told_fd, selectors.EVENT_READ)
            selector.register(stderr, selectors.EVENT_READ)
            selector.register(stdin, selectors.EVENT_WRITE)
            while self.result is None:
                ready = selector.select(self._patience_s(cancelled))
                for key, _ in ready:
                    if key.fileobj is stdin:
                        job = self._send(stdin.fileno(), job)
                        if not job:
                            selector.unregister(stdin)
                    elif not self._hear(key.fd):
                        if key.fd == self._told_fd:
                            return
                        selector.unregister(key.fileobj)
                # Something that it started may hold its pipes open.
                if not ready and self._has_ended():
                    return

    def _patience_s(self, cancelled: Callable[[], bool]) -> float:
        """How long to wait before asking again."""
        left_s = self._ends_s - time.monotonic()
        if left_s <= 0:
            raise ChildFailed(f"took longer than {self._timeout_s:g} s, at last {self.stage}")
        if cancelled():
            raise Cancelled("is not wanted any longer")
        return min(left_s, _ASK_EVERY_S)

    @staticmethod
    def _send(descriptor: int, job: bytes) -> bytes:
        """What is left to send; nothing where the child has died, which is told elsewhere."""
        try:
            return job[os.write(descriptor, job) :]
        except BlockingIOError:
            return job
        except BrokenPipeError:
            return b""

    def _hear(self, descriptor: int) -> bool:
        """Take in what was written; false where no more will be."""
        data = os.read(descriptor, _READ_BYTES)
        if descriptor != self._told_fd:
            self._tail = (self._tail + data)[-_TAIL_BYTES:]
            return bool(data)
        self._told_bytes += len(data)
        if self._told_bytes > _MOST_TOLD_BYTES:
            raise ChildFailed("told more than a result can be")
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
                self.stage = str(message.get("stage", self.stage))
                self.result = message.get("result", self.result)
            except (ValueError, AttributeError, RecursionError):
                raise ChildFailed(f"told nonsense while {self.stage}") from None
        return bool(data)

    def _has_ended(self) -> bool:
        """Without taking note of it: until then its group cannot become another's."""
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with suppress(ChildProcessError):
            return os.waitid(os.P_PID, self._process.pid, how) is not None
        return True

    def end(self) -> int | None:
        """End it and all that it started; the exit status, None for one that had to be ended."""
        if self.result is None:
            self._wait_a_moment()
        by_itself = self._has_ended()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            logger.warning("a child process cannot be ended", extra={"pid": self._process.pid})
            by_itself = False
        os.close(self._told_fd)
        for pipe in (self._process.stdin, self._process.stderr):
            if pipe is not None:
                pipe.close()
        if self.result is None and self._tail:
            said = self._tail.decode(errors="replace")
            logger.debug("a trial's last words", extra={"stderr": said})
        return status if by_itself else None

    def _wait_a_moment(self) -> None:
        """One that closed its pipe is about to end by itself, and how is worth knowing."""
        ends_s = time.monotonic() + _ASK_EVERY_S
        while not self._has_ended() and time.monotonic() < ends_s:
            time.sleep(_ASK_EVERY_S / 20)


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "stopped telling"
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"crashed ({signal.Signals(-status).name})"
    except ValueError:
        return f"crashed (signal {-status})"
