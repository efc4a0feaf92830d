"""How far figures of a few rows may be off: the bootstrap (Efron 1979), many resamples at once.

A resample is how often each row was drawn. Figures are functions of these counts, so that a metric
is written once: with every count 1 it gives the value, with drawn counts its spread.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from app.bundle.quality import Interval

RESAMPLES = 1000
#: The share of the resamples that an interval holds.
LEVEL = 0.95
#: Counts held at once; more would only fill memory.
_CELLS = 2_000_000

#: float64 [resamples, rows]: how often each row was drawn; a resample has as many draws as rows.
Counts = NDArray[np.float64]
#: From counts to the figure of each resample, float64 [resamples]; NaN where it has none.
Measure = Callable[[Counts], NDArray[np.float64]]


def intervals(
    measures: Mapping[str, Measure], rows: int, *, seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """The middle `LEVEL` of each figure over the same resamples.

    Figures that no resample has are left out.
    """
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in measures}
    for counts in draws(rows, seed, resamples):
        for name, measure in measures.items():
            drawn[name].append(measure(counts))
    spreads = {name: np.concatenate(parts) for name, parts in drawn.items()}
    return {name: _middle(spread) for name, spread in spreads.items() if np.isfinite(spread).any()}


def draws(rows: int, seed: int, resamples: int = RESAMPLES) -> Iterator[Counts]:
    """The counts of all resamples, some at a time; the same seed and rows give the same."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS // rows)
    for start in range(0, resamples, at_once):
        some = min(at_once, resamples - start)
        places = generator.integers(0, rows, size=(some, rows), dtype=np.uint32)
        counts = np.empty((some, rows))
        for index, row in enumerate(places):
            counts[index] = np.bincount(row, minlength=rows)
        yield counts


def _middle(spread: NDArray[np.float64]) -> Interval:
    low, high = np.nanquantile(spread, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(low=float(low), high=float(high))
