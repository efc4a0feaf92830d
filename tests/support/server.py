"""A real `python -m app serve` in a child process, on a free port of the loopback interface."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


@dataclass
class RunningServer:
    """A server that is up; `lines` collects what it logs."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str] = field(default_factory=list)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Signal it and wait; returns its exit status."""
        self.process.send_signal(signal_number)
        return self.process.wait(STOP_TIMEOUT_S)


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's environment with no Modelport settings but the given ones."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MODELPORT_")}
    return inherited | {"MODELPORT_LOG_FORMAT": "json"} | settings


@contextmanager
def serving(models: Path, **settings: str) -> Iterator[RunningServer]:
    """Serve `models` until the block ends; settings are environment variables."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve", "--models", str(models), "--port", "0"],
        cwd=ROOT,
        env=clean_environment(**settings),
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=_collect, args=(process, lines), daemon=True)
    reader.start()
    try:
        yield RunningServer(process, _wait_for_url(process, lines), lines)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(STOP_TIMEOUT_S)
        reader.join(STOP_TIMEOUT_S)
        assert process.stderr is not None
        process.stderr.close()


def _collect(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)


def _wait_for_url(process: subprocess.Popen[str], lines: list[str]) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        for line in lines:
            found = re.search(r'"message": "serving", "url": "([^"]+)"', line)
            if found:
                return found[1]
        time.sleep(0.02)
    raise AssertionError("the server did not start: " + "".join(lines[-20:]))
