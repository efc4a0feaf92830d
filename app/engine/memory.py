"""Gives memory that was freed back to the operating system."""

import ctypes
import functools
from collections.abc import Callable


def give_back_freed() -> None:
    """Opening a session frees several copies of its weights, which the C library would keep.

    Does nothing where the C library is not glibc. May take some milliseconds, without the GIL.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
