"""Runs that are shorter than handing them to a thread: a few at a time, on the event loop."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

#: After so many runs, or so long, others on the loop have their turn.
_RUNS_A_TURN: Final = 4
_TURN_S: Final = 2e-3
#: A model whose runs take longer than this belongs on a thread.
_LONGEST_S: Final = 2e-3
_SMOOTHING: Final = 0.2


class InlineRuns:
    """Decides what runs on the loop, and when.

    Args:
        rows: most rows of such a run; 0 for none.
        run_next: runs one batch of at most `rows`; says whether there may be more.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, rows: int, run_next: Callable[[], bool]
    ) -> None:
        self._loop = loop
        #: Most rows of a run; 0 where none is to be had here, or no more.
        self.rows = rows
        self._run_next = run_next
        self._turn_due = False
        self._mean_s = 0.0

    def plan_turn(self) -> None:
        """Run soon. What arrives in the same turn of the loop is batched together."""
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def hurry(self) -> None:
        """Run now what was to run soon."""
        if self._turn_due:
            self._turn()

    def _turn(self) -> None:
        if not self._turn_due:
            return  # it was hurried
        self._turn_due = False
        ends_s = time.perf_counter() + _TURN_S
        for _ in range(_RUNS_A_TURN):
            if not self._run_next():
                return
            if time.perf_counter() >= ends_s:
                break
        self.plan_turn()

    def observe(self, ran_s: float) -> None:
        """Stop for good where runs take much longer than was promised."""
        # One hiccup of the machine, however long, is no proof.
        self._mean_s += _SMOOTHING * (min(ran_s, 2 * _LONGEST_S) - self._mean_s)
        if self.rows and self._mean_s > _LONGEST_S:
            self.rows = 0
            logger.warning(
                "a model's runs are too long for the event loop; they go to threads from now on",
                extra={"run_ms": round(ran_s * 1e3, 3)},
            )
