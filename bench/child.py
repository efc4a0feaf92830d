"""Any server as a child process: started on a free port, waited for, and ended with its own."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.epoll import is_whole
from bench.process_tree import members

_END_WITHIN_S: Final = 15.0
_LOG_CHARACTERS: Final = 600


class NotStarted(Exception):
    """A server did not come up; the message ends with the last words of its log."""


@dataclass(frozen=True)
class Running:
    """A server that answers: the root of its processes, and its port."""

    pid: int
    port: int


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    request: bytes,
    environment: Mapping[str, str] | None = None,
    within_s: float = 60.0,
) -> Iterator[Running]:
    """
    Args:
        request: what it must answer with 200 before it counts as started.
    Raises:
        NotStarted: it ended, or did not answer in time.
    """
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=_environment(home) | dict(environment or {}),
            start_new_session=True,
        )
        try:
            ends_s = time.monotonic() + within_s
            while status_of(port, request) != 200:
                if process.poll() is not None or time.monotonic() > ends_s:
                    log.seek(0)
                    raise NotStarted(_last_words(log.read().decode(errors="replace"), process))
                time.sleep(0.1)
            yield Running(process.pid, port)
        finally:
            _end(process)


def _environment(home: str) -> dict[str, str]:
    """This one's, but with a home that ends with the server: some leave files in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}
    kept.pop("PIP_CONSTRAINT", None)
    return kept | {"HOME": home, "PYTHONPATH": str(Path(__file__).parent.parent)}


def _last_words(log: str, process: "subprocess.Popen[bytes]") -> str:
    status = process.poll()
    how = "it did not answer in time" if status is None else f"it ended with status {status}"
    return f"{how}: {log.strip()[-_LOG_CHARACTERS:]}"


def _end(process: "subprocess.Popen[bytes]") -> None:
    tree = members(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_WITHIN_S)
    # What is left is its own: processes of its session, or that were its descendants.
    left = {pid for pid, fields in members(process.pid).items() if fields[0] != "Z"} | {
        pid for pid in tree if Path(f"/proc/{pid}").exists()
    }
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, request: bytes, timeout_s: float = 30.0) -> bytes:
    """One request on a connection of its own; the whole answer.

    Raises:
        OSError: none came.
    """
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        connection.sendall(request)
        answer = b""
        while not is_whole(answer):
            part = connection.recv(1 << 16)
            if not part:
                raise ConnectionError("the server closed the connection")
            answer += part
    return answer


def status_of(port: int, request: bytes) -> int:
    """Of one request; 0 where nobody answers."""
    try:
        answer = ask(port, request)
        return int(answer[9:12])
    except (OSError, ValueError):
        return 0
