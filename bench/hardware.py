"""The machine that figures come from, and which of its cores do what."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

_VERSIONS: Final = ("onnxruntime", "fastapi", "starlette", "uvicorn", "uvloop", "httptools")


@dataclass(frozen=True)
class Cores:
    """Those of the servers, and those of the load generator; none means any."""

    servers: Sequence[int]
    load: Sequence[int]

    def __str__(self) -> str:
        if not self.load:
            return "not pinned: servers and load share all cores"
        return f"servers on core {_listed(self.servers)}, load on core {_listed(self.load)}"


def _listed(cores: Sequence[int]) -> str:
    return ", ".join(map(str, cores))


def share_cores(*, is_pinned: bool) -> Cores:
    """The load gets the last core, where there are two or more."""
    cores = sorted(os.sched_getaffinity(0))
    if not is_pinned or len(cores) < 2:
        return Cores((), ())
    return Cores(cores[:-1], cores[-1:])


def describe(cores: Cores) -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _VERSIONS},
        "pinning": str(cores),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
