"""The load generator as a process of its own, on a core of its own where there are several.

`python -m bench.generator [CORE …]` reads one job a line and answers with one line, both JSON.
"""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from bench.epoll import Load, Seen
from bench.process_tree import cpu_s, memory

_SEED: Final = 1


@dataclass(frozen=True)
class Job:
    """One run of load.

    Args:
        pid: root of the server's processes.
        per_s: mean rate of the open loop (a Poisson process); None is the closed loop.
    """

    port: int
    pid: int
    requests: Sequence[bytes]
    connections: int
    seconds: float
    warm_s: float
    per_s: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a job saw. `cpu_us` is of the server's whole tree, for each good answer."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    pss_mib: float
    rss_mib: float
    answers: int
    errors: dict[str, int]
    #: Share of its core that the generator used; near 1 it is what was measured.
    generator_share: float
    kept: list[tuple[int, bytes]] = field(default_factory=list, repr=False)


class Generator:
    """The process, as its parent sees it.

    Args:
        cores: those that it may use; none for all.
    """

    def __init__(self, cores: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.generator", *map(str, cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, job: Job) -> Outcome:
        """
        Raises:
            ConnectionError: the server was not there, or went away.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = asdict(job) | {"requests": [base64.b64encode(r).decode() for r in job.requests]}
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise ConnectionError(answer["error"])
        answer["kept"] = [(turn, base64.b64decode(raw)) for turn, raw in answer["kept"]]
        return Outcome(**answer)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


class _Meter:
    """CPU time of the server and of this process at both edges of the measured window."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._servers_s: list[float] = []
        self._own_s: list[float] = []

    def read(self) -> None:
        self._servers_s.append(cpu_s(self._pid))
        self._own_s.append(time.process_time())

    @property
    def server_s(self) -> float:
        return self._servers_s[1] - self._servers_s[0]

    @property
    def own_s(self) -> float:
        return self._own_s[1] - self._own_s[0]


def perform(job: Job) -> Outcome:
    """Put the load on the server, from this process."""
    meter = _Meter(job.pid)
    load = Load(("127.0.0.1", job.port), job.requests, job.connections, meter.read)
    try:
        if job.per_s is None:
            seen = load.closed_loop(job.warm_s, job.seconds)
        else:
            span_s = job.warm_s + job.seconds
            gaps = np.random.default_rng(_SEED).exponential(1 / job.per_s, int(job.per_s * span_s))
            due_s = np.cumsum(gaps)
            seen = load.open_loop(due_s[due_s < span_s].tolist(), job.warm_s, job.seconds)
        return _outcome(seen, meter, job.pid)
    finally:
        load.close()


def _outcome(seen: Seen, meter: _Meter, pid: int) -> Outcome:
    answers = len(seen.latencies_s)
    median, late = np.quantile(seen.latencies_s, [0.5, 0.99]) if answers else (np.nan, np.nan)
    taken = memory(pid)
    return Outcome(
        per_s=answers / seen.seconds,
        p50_ms=float(median) * 1e3,
        p99_ms=float(late) * 1e3,
        cpu_us=meter.server_s / answers * 1e6 if answers else np.nan,
        pss_mib=taken.pss,
        rss_mib=taken.rss,
        answers=answers,
        errors=dict(seen.errors),
        generator_share=meter.own_s / seen.seconds,
        kept=seen.kept,
    )


def main() -> None:
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, [int(core) for core in sys.argv[1:]])
    for line in sys.stdin:
        given = json.loads(line)
        given["requests"] = [base64.b64decode(request) for request in given["requests"]]
        answer: dict[str, Any]
        try:
            answer = asdict(perform(Job(**given)))
            answer["kept"] = [
                (turn, base64.b64encode(raw).decode()) for turn, raw in answer["kept"]
            ]
        except OSError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
