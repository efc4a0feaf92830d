"""Publish again and again, each time stopped at the next step: `python -m … FAULT ROOT`.

Under ROOT a folder is made for each attempt, in which version 1 is whole and version 2 is
attempted by a forked process. A step is anything that changes the disk: making a folder, opening
a file to write, flushing, renaming. FAULT is `kill`, which ends the process there (what it has
written stays in the page cache, so this is no power cut), or `full`, which fails the step as a full
disk would. The last attempt meets no fault. Prints the number of steps.
"""

import errno
import os
import sys
from pathlib import Path
from typing import Any

from app.bundle import PublishFailed
from tests.bundle.small import publish_small

KILLED, REFUSED, ESCAPED = 42, 43, 44
MAX_STEPS = 100


class Fault:
    """Strikes at the given step, counted from 1, of what is done under `root`."""

    def __init__(self, kind: str, strikes_at: int, root: Path) -> None:
        self.kind = kind
        self.steps_left = strikes_at
        self.root = str(root)

    def step(self) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            if self.kind == "kill":
                os._exit(KILLED)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in {"open", "os.mkdir", "os.rename"}:
            return
        if not str(arguments[0]).startswith(self.root):
            return
        if event == "os.mkdir" and Path(arguments[0]).is_dir():
            return  # is there already: nothing to change
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        self.step()

    def arm(self) -> None:
        really_sync = os.fsync

        def fsync(descriptor: int) -> None:  # the one step that raises no audit event
            self.step()
            really_sync(descriptor)

        sys.addaudithook(self.audit)
        os.fsync = fsync


def attempt(kind: str, step: int, root: Path) -> int:
    """Publish version 2 in a process of its own; its exit status."""
    publish_small(root)
    child = os.fork()
    if child == 0:
        try:
            Fault(kind, step, root).arm()
            publish_small(root)
        except PublishFailed:
            os._exit(REFUSED)
        except BaseException:  # anything else is a finding; the parent reports it
            os._exit(ESCAPED)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(kind: str, root: Path) -> int:
    expected = KILLED if kind == "kill" else REFUSED
    for step in range(1, MAX_STEPS):
        status = attempt(kind, step, root / f"step{step}")
        if status == 0:
            sys.stdout.write(f"{step - 1}\n")
            return 0
        if status != expected:
            sys.stderr.write(f"step {step} ended with {status}\n")
            return 1
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
