"""A process that takes only what is left of the processors.

For a whole process only: a thread of such low priority would hold the interpreter's lock for as
long as others keep it from running, and they would wait for it.
"""

import os
import sys
from contextlib import suppress
from typing import Final

_NICE: Final = 19


def step_back() -> None:
    """From now on this process takes only what is left; there is no way back.

    To be called by the first thread; it holds for threads that are started afterwards, too.
    """
    with suppress(OSError, AttributeError):  # not everywhere allowed, or there
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
