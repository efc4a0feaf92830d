"""A virtual environment for each peer, made where it is missing or its pins have changed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parent.parent
PINS: Final = Path(__file__).parent / "peers"
#: Ignored by git.
FOLDER: Final = _ROOT / ".venv-peers"
_INSTALL_WITHIN_S: Final = 1200
#: Triton loads the system's library of the same Python; the interpreter has to be its own.
_NEEDS_SYSTEM_PYTHON: Final = frozenset({"pytriton"})


class NotInstalled(Exception):
    """A peer cannot be had here; the message is the installer's last line."""


def interpreter(peer: str) -> Path:
    """The Python of a peer's environment, which is made first where that is needed.

    Raises:
        NotInstalled: its packages could not be installed.
    """
    pins = PINS / f"{peer}.txt"
    place = FOLDER / peer
    stamp = place / "pins.txt"
    python = place / "bin" / "python"
    if stamp.exists() and stamp.read_bytes() == pins.read_bytes():
        return python
    print(f"installing {peer} into {place.relative_to(_ROOT)}", file=sys.stderr, flush=True)
    shutil.rmtree(place, ignore_errors=True)
    _create(place, needs_system_python=peer in _NEEDS_SYSTEM_PYTHON)
    # The project's own pins are not theirs.
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    command = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(pins)]
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_INSTALL_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"not installed within {_INSTALL_WITHIN_S} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NotInstalled((errors or ["pip failed"])[-1])
    shutil.copy(pins, stamp)
    return python


def _create(place: Path, *, needs_system_python: bool) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    system = shutil.which(version, path="/usr/bin") if needs_system_python else None
    subprocess.run([system or sys.executable, "-m", "venv", str(place)], check=True)
