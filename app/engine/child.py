"""Runs a job of `app.engine.in_child` in a child process: what crashes or hangs there ends there.

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
from dataclasses import dataclass
from typing import Any, Final

from app.errors import EngineError
from app.program import python_module

logger = logging.getLogger(__name__)

_MODULE: Final = "app.engine.in_child"
#: How often the caller is asked whether the answer is still wanted.
_ASK_EVERY_S: Final = 0.1
_END_S: Final = 5.0
_READ_BYTES: Final = 65_536
#: More than any verdict; a child that tells more is not ours any longer.
_MOST_TOLD_BYTES: Final = 4 * 2**20
_TAIL_BYTES: Final = 2_000


class ChildFailed(EngineError):
    """The child gave no result; the message says whether it crashed or hung, and at what."""


class Cancelled(ChildFailed):
    """Nobody wants the result any longer."""


@dataclass
class _Told:
    """What the child has told so far."""

    stage: str = "starting"
    result: Mapping[str, Any] | None = None
    size_bytes: int = 0
    buffer: bytes = b""
    #: The end of what it and its libraries printed, for the log.
    tail: bytes = b""

    def hear(self, data: bytes) -> None:
        self.size_bytes += len(data)
        if self.size_bytes > _MOST_TOLD_BYTES:
            raise ChildFailed("told more than a result can be")
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
                self.stage = str(message.get("stage", self.stage))
                self.result = message.get("result", self.result)
            except (ValueError, AttributeError, RecursionError):
                raise ChildFailed(f"told nonsense while {self.stage}") from None


class _Patience:
    """How long a child is listened to."""

    def __init__(self, timeout_s: float, cancelled: Callable[[], bool]) -> None:
        self._timeout_s = timeout_s
        self._ends_s = time.monotonic() + timeout_s
        self._cancelled = cancelled

    def left_s(self, stage: str) -> float:
        """How long to wait before asking again."""
        left_s = self._ends_s - time.monotonic()
        if left_s <= 0:
            raise ChildFailed(f"took longer than {self._timeout_s:g} s, at last {stage}")
        if self._cancelled():
            raise Cancelled("is not wanted any longer")
        return min(left_s, _ASK_EVERY_S)


def run_job(
    job: Mapping[str, Any],
    timeout_s: float,
    cancelled: Callable[[], bool] = lambda: False,
    command: Sequence[str] | None = None,
) -> Mapping[str, Any]:
    """The result of a job. Blocks for `timeout_s` at most.

    Raises:
        ChildFailed: it crashed, hung or told nonsense.
        Cancelled: `cancelled` said so.
    """
    patience = _Patience(timeout_s, cancelled)
    told_fd, tell_fd = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 (this interpreter, our own module)
            [*(command or python_module(_MODULE)), str(tell_fd), str(timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(tell_fd,),
            # Ctrl-C in a terminal is the parent's business.
            start_new_session=True,
        )
    except OSError as error:
        os.close(told_fd)
        raise ChildFailed(f"no child process can be started: {error.strerror}") from error
    finally:
        os.close(tell_fd)
    told = _Told()
    with process:
        try:
            _send(process, job)
            _listen(process, told_fd, told, patience)
        finally:
            os.close(told_fd)
            _end(process, at_once=told.result is not None)
    if told.result is None:
        if told.tail:
            logger.debug(
                "a trial's last words", extra={"stderr": told.tail.decode(errors="replace")}
            )
        raise ChildFailed(f"{_how_it_ended(process.returncode)} while {told.stage}")
    return told.result


def _send(process: "subprocess.Popen[bytes]", job: Mapping[str, Any]) -> None:
    assert process.stdin is not None  # noqa: S101 (a pipe was asked for)
    with suppress(BrokenPipeError):  # It is dead already; how is told later.
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()


def _listen(
    process: "subprocess.Popen[bytes]", told_fd: int, told: _Told, patience: "_Patience"
) -> None:
    """Until a result came, or the pipe closed because the child is gone."""
    assert process.stderr is not None  # noqa: S101 (a pipe was asked for)
    with selectors.DefaultSelector() as selector:
        selector.register(told_fd, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while told.result is None:
            for key, _ in selector.select(patience.left_s(told.stage)):
                data = os.read(key.fd, _READ_BYTES)
                if key.fd == told_fd:
                    if not data:
                        return
                    told.hear(data)
                elif data:
                    told.tail = (told.tail + data)[-_TAIL_BYTES:]
                else:
                    selector.unregister(key.fd)


def _end(process: "subprocess.Popen[bytes]", *, at_once: bool) -> None:
    """Nothing of the child may go on. One that closed its pipe gets a moment to end by itself."""
    if not at_once and process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ASK_EVERY_S)
    if process.poll() is None:
        process.kill()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        logger.warning("a child process cannot be ended", extra={"pid": process.pid})


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "could not be ended"
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"crashed ({signal.Signals(-status).name})"
    except ValueError:
        return f"crashed (signal {-status})"
