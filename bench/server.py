"""The service under test as a child process, and what it takes of the machine."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

_START_WITHIN_S: Final = 120.0
_END_WITHIN_S: Final = 30.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class RunningServer:
    """A server that is ready."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    def get(self, path: str) -> Any:
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.load(answer)

    def get_text(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def rss_mib(self, figure: str = "VmRSS") -> float:
        """Resident memory; `VmHWM` is the most it ever was."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{figure}:"):
                return int(line.split()[1]) / 1024
        raise LookupError(figure)

    def cpu_s(self) -> float:
        """CPU time that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


@contextmanager
def serving(models: Path, *arguments: str, **settings: object) -> Iterator[RunningServer]:
    """`python -m app serve` on a free port, with settings by name (`poll_s=1`)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}
    given = {"models": models, "port": 0, "log_format": "json"} | settings
    environment = {f"MODELPORT_{name.upper()}": str(value) for name, value in given.items()}
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve", *arguments],
            env=kept | environment,
            stdout=log,
            stderr=log,
        )
        try:
            path = Path(log.name)
            yield RunningServer(process, _port(process, path), path)
        finally:
            process.terminate()
            try:
                process.wait(_END_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    ends_s = time.monotonic() + _START_WITHIN_S
    while time.monotonic() < ends_s and process.poll() is None:
        for line in log.read_text().splitlines():
            if '"serving"' in line:
                return int(json.loads(line)["url"].rpartition(":")[2])
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")
