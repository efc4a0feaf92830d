"""Every error that training raises on purpose; each owns one exit status.

TrainingError
├── UsageError          2  an unknown run, setting or path, a bad value, data that do not do
├── Rejected            1  the model must not be published
│   ├── Diverged           the loss stopped being a number
│   ├── Unsuitable         a candidate cannot do the task; another may
│   ├── GateFailed         a metric is outside its bar
│   └── ProofFailed        the exported graph does not answer as PyTorch does
└── EnvironmentTrouble  3  no permission, a full disk, a package that is not there

An interruption (Ctrl-C) is no error: it is a KeyboardInterrupt, whose exit status is 130.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class TrainingError(Exception):
    """Root of the tree. `str(error)` is one line for the person at the terminal."""

    exit_status: ClassVar[int] = 1


class UsageError(TrainingError):
    exit_status = 2


class Rejected(TrainingError):
    pass


class Diverged(Rejected):
    pass


class Unsuitable(Rejected):
    pass


class GateFailed(Rejected):
    pass


class ProofFailed(Rejected):
    pass


class EnvironmentTrouble(TrainingError):
    exit_status = 3


def hint_of(given: str, known: Iterable[str]) -> str:
    """` (did you mean …?)`, or nothing where no known name is like the given one."""
    close = nearest(given, known)
    return f" (did you mean {close}?)" if close else ""


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name that is most like the given one, if any is."""
    return next(iter(difflib.get_close_matches(given, list(known), n=1)), None)
