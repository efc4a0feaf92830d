"""What makes a verdict valid: this machine, and the versions of what it was reached with."""

import functools
import hashlib
import platform
from pathlib import Path
from typing import Final

from app import __version__
from app.engine.providers.installed import runtime_version

_CPU_INFO: Final = Path("/proc/cpuinfo")
#: Which kernels ONNX Runtime chooses depends on these lines.
_TELLING: Final = ("model name", "flags", "CPU implementer", "CPU part", "Features")


@functools.cache
def fingerprint() -> str:
    """Hex digest of processor, system and versions. Devices come with each candidate."""
    parts = [
        __version__,
        runtime_version(),
        platform.python_version(),
        platform.system(),
        platform.machine(),
        *_processor(_CPU_INFO),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _processor(path: Path) -> list[str]:
    """The first processor's telling lines; all are the same on the machines that we know."""
    try:
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return [platform.processor()]
    return [line for line in first.splitlines() if line.startswith(_TELLING)]
