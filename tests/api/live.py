"""The service as a child process on a free port, and bytes on its socket."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import httpx

ROOT: Final = Path(__file__).parent.parent.parent
#: No wait of a test is longer than this.
PATIENCE_S: Final = 30.0


def environment(**settings: object) -> dict[str, str]:
    """The environment of a child: nothing of ours but the given settings (`port=0` and so on)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}
    quick = {
        "MODELPORT_PROVIDER": "cpu",
        "MODELPORT_PORT": "0",
        "MODELPORT_CACHE": "off",
        "MODELPORT_CALIBRATION_BUDGET_MS": "0",
        "MODELPORT_POLL_S": "0",
        "PYTHONWARNINGS": "error",
    }
    given = {f"MODELPORT_{name.upper()}": str(value) for name, value in settings.items()}
    return kept | quick | given


def run_app(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """`python -m app …` until it ends."""
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


class LiveServer:
    """`python -m app serve` as a child; ready when this is made, gone when the block ends."""

    def __init__(self, repository: Path, log: Path, **settings: object) -> None:
        self._log = log
        given = {"models": repository, "port": 0, "log_format": "json"} | settings
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app", "serve"],
                cwd=ROOT,
                env=environment(**given),
                stdout=stderr,
                stderr=stderr,
            )
        try:
            self.url: str = self.wait_for_line("serving")["url"]
        except BaseException:
            self.end()
            raise
        self.address = ("127.0.0.1", int(self.url.rpartition(":")[2]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)

    def log_lines(self) -> list[dict[str, Any]]:
        """Every line so far; one that is not JSON is a failure of the test."""
        text = self._log.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def wait_for_line(self, message: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for line in self.log_lines():
                if line["message"] == message:
                    return line
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"no {message!r} in the log: {self._log.read_text()}")

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE_S, trust_env=False)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def connect(self) -> "Wire":
        return Wire(self.address)


class Wire:
    """One TCP connection, byte by byte."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=PATIENCE_S)
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def reset(self) -> None:
        """Leave with a RST instead of a FIN, as a client that was killed may."""
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._stream.close()
        self._socket.close()

    def read_response(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, and body of the next response."""
        status = int(self._stream.readline().split(b" ")[1])
        headers: dict[str, str] = {}
        while (line := self._stream.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        return status, headers, self._stream.read(length)

    def read_rest(self) -> bytes:
        """What comes until the other side closes; empty where it has closed already."""
        try:
            return self._stream.read()
        except ConnectionResetError:
            return b""


def head(
    path: str, headers: Mapping[str, str], method: str = "POST", version: str = "1.1"
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: test"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
