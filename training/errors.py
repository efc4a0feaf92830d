"""Every error that training raises on purpose; each owns one exit status.

TrainingError
├── UsageError          2  an unknown run, an unknown setting, a bad value
├── Rejected            1  the model must not be published
│   ├── Diverged           the loss stopped being a number
│   ├── Unsuitable         a candidate cannot do the task; another may
│   ├── GateFailed         a metric is outside its bar
│   └── ProofFailed        the exported graph does not answer as PyTorch does
└── EnvironmentTrouble  3  a folder that cannot be written, a package that is not there
"""

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
