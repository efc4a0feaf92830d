"""When a model is paused: nothing succeeds any more, and its own golden row fails too."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_FAILURES_TO_PROBE: Final = 5
_FIRST_COOL_DOWN_S: Final = 1.0
_LONGEST_COOL_DOWN_S: Final = 30.0


@dataclass(slots=True)
class Breaker:
    """Stops a model whose golden row fails too, so that it does not eat the budget of others."""

    clock: Callable[[], float]
    failures: int = 0
    #: From the wish for a probe until its verdict: the batches that fail meanwhile ask for none.
    probing: bool = False
    open_until_s: float = -math.inf
    cool_down_s: float = _FIRST_COOL_DOWN_S

    def fail(self) -> bool:
        """Count a batch of which nothing succeeded; says whether a probe is wanted now."""
        self.failures += 1
        if self.failures < _FAILURES_TO_PROBE or self.probing or self.clock() < self.open_until_s:
            return False
        self.probing = True
        return True

    def succeed(self) -> None:
        self.failures = 0
        self.cool_down_s = _FIRST_COOL_DOWN_S

    def acquit(self) -> None:
        self.probing = False
        self.succeed()

    def trip(self) -> None:
        self.probing = False
        self.open_until_s = self.clock() + self.cool_down_s
        self.cool_down_s = min(2 * self.cool_down_s, _LONGEST_COOL_DOWN_S)
