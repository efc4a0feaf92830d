"""Work that takes only what is left of the processors."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, TypeVar

T = TypeVar("T")

_NICE: Final = 19


def step_back() -> None:
    """From now on the calling thread takes only what is left; there is no way back.

    In a process's first thread, this holds for threads that are started afterwards, too.
    """
    with suppress(OSError, AttributeError):  # not everywhere allowed, or there
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def stepping_back(work: Callable[[], T]) -> T:
    """The result of `work`, done by a thread of its own that steps back. Blocks.

    Threads that the work starts step back with it.
    """
    result: Future[T] = Future()

    def do() -> None:
        step_back()
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=do, name="modelport-low-priority", daemon=True)
    thread.start()
    return result.result()
