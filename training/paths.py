"""Paths that a person types."""

import contextlib
from pathlib import Path

from training.errors import EnvironmentTrouble, UsageError, hint_of


def check_exists(path: Path) -> None:
    """That something is there; whether it can be read is seen when it is.

    Raises:
        UsageError: nothing is there; the message has the nearest name beside it.
        EnvironmentTrouble: that cannot be told, for want of permission.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{path} does not exist{hint_of(path.name, _beside(path))}") from None
    except OSError as error:
        raise EnvironmentTrouble(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL
        raise UsageError(f"{str(path)!r} is no path") from None


def _beside(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return [one.name for one in path.parent.iterdir()]
    return []
