"""How long a run of so many rows takes: from the cost table, corrected by what is seen."""

from collections.abc import Callable
from typing import Final

_SMOOTHING: Final = 0.2
#: One run may be a hiccup: it moves the estimate by no more than this factor suggests.
_WIDEST: Final = 8.0


def unmeasured(rows: int) -> float | None:  # noqa: ARG001
    """The cost table of a model that has none."""
    return None


class RunEstimate:
    """Expected seconds of a run by its rows.

    Args:
        measured_s: seconds by the cost table, None where there is none.
    """

    def __init__(self, measured_s: Callable[[int], float | None] = unmeasured) -> None:
        self._measured_s = measured_s
        #: What it said so far; 0 for nothing.
        self._table: dict[int, float] = {}
        #: Observed over expected, by the cost table.
        self._factor = 1.0
        #: Without a table: seconds by the magnitude of rows, a power of two.
        self._learned: dict[int, float] = {}
        #: What follows from that, until something else is learned.
        self._guesses: dict[int, float] = {}

    def run_s(self, rows: int) -> float:
        """Seconds that a run of `rows` should take; 0 while nothing is known."""
        expected_s = self._expected_s(rows)
        return expected_s * self._factor if expected_s else self._by_experience(rows)

    def observe(self, rows: int, ran_s: float) -> None:
        """Learn from a run that went well."""
        expected_s = self._expected_s(rows)
        if expected_s:
            seen = min(max(ran_s / expected_s, 1 / _WIDEST), _WIDEST)
            self._factor += _SMOOTHING * (seen - self._factor)
            return
        magnitude = rows.bit_length()
        before_s = self._learned.get(magnitude, ran_s)
        self._learned[magnitude] = before_s + _SMOOTHING * (ran_s - before_s)
        self._guesses.clear()

    def _expected_s(self, rows: int) -> float:
        """By the table; 0 where it says nothing."""
        expected_s = self._table.get(rows)
        if expected_s is None:
            expected_s = self._table[rows] = self._measured_s(rows) or 0.0
        return expected_s

    def _by_experience(self, rows: int) -> float:
        """What runs of the magnitude took; else the next smaller, in proportion to its rows; else
        the next larger, as it is."""
        magnitude = rows.bit_length()
        guess_s = self._guesses.get(magnitude)
        if guess_s is None:
            guess_s = self._guesses[magnitude] = self._guess_s(magnitude)
        return guess_s

    def _guess_s(self, magnitude: int) -> float:
        if not self._learned:
            return 0.0
        known = max((m for m in self._learned if m <= magnitude), default=min(self._learned))
        return self._learned[known] * 2.0 ** max(0, magnitude - known)
