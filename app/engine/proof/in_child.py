"""The program of a child process: does one job and tells how it went."""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from app.engine.proof.priority import step_back
from app.engine.proof.trial import try_out
from app.engine.proof.trialjob import TrialJob
from app.engine.providers import installed as providers

Tell = Callable[[str], None]


class DiscoveryJob(BaseModel):
    """Load one plug-in package and list its devices."""

    job: Literal["discover"] = "discover"
    package: str


def main() -> None:
    """Read a job from stdin, and tell stages and the result on the given descriptor."""
    tell_fd, timeout_s = int(sys.argv[1]), float(sys.argv[2])
    # Whatever hangs, even with the interpreter's lock held: the kernel ends this process.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, timeout_s + 1.0)

    def tell(**message: object) -> None:
        os.write(tell_fd, json.dumps(message).encode() + b"\n")

    job: Mapping[str, Any] = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        result = _do(job, lambda stage: tell(stage=stage))
    except Exception:
        traceback.print_exc()
        os._exit(1)
    data = json.dumps({"result": result}).encode() + b"\n"
    while data:
        data = data[os.write(tell_fd, data) :]
    # Libraries may crash when they are unloaded; the result is out.
    os._exit(0)


def _do(job: Mapping[str, Any], tell: Tell) -> Any:
    if job["job"] == "discover":
        wanted = DiscoveryJob.model_validate(job).package
        tell("loading its library")
        packages = [p for p in providers.installed() if providers.normal_name(p) == wanted]
        found = providers.discover(distributions=packages)
        plugged = [c for c in found.candidates if c.library is not None]
        return TypeAdapter(providers.Discovery).dump_python(
            providers.Discovery(tuple(plugged), found.problems), mode="json"
        )
    trial = TrialJob.model_validate(job)
    if trial.background:
        step_back()
    return try_out(trial, tell=tell).model_dump(mode="json")


def _end_with_parent() -> None:
    """The parent holds the other end of stdin until it has the result or has died."""
    # Not by `sys.stdin`, whose lock the interpreter wants when it ends.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
