"""Which configuration and which candidate serve. Pure: verdicts in, a choice out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from app.engine.proof.calibration import INSTANCES_OFF_CPU, WORTHWHILE
from app.engine.proof.plan import Cost
from app.engine.proof.verdict import Verdict
from app.engine.providers.candidates import DeviceKind

#: About what handing a run to a thread and its result back costs.
INLINE_BELOW_MS: Final = 0.1
#: The same for each of many requests that run together ...
INLINE_ROW_BELOW_MS: Final = 0.05
#: ... as long as the event loop is not held for longer.
INLINE_BATCH_BELOW_MS: Final = 1.0


@dataclass(frozen=True)
class Configuration:
    """How runs are made: `instances` at a time, each of at most `rows` by so many threads."""

    intra_op_threads: int
    instances: int
    rows: int
    #: Rows a second when all instances are busy; None where nothing was measured.
    rows_per_s: float | None


def configuration(
    costs: Sequence[Cost], cores: int, max_rows: int, device: DeviceKind = "cpu"
) -> Configuration:
    """The shape with the most rows a second, and the smallest batch within 5 % of its best.

    Costs were measured with the preferred shape first; another must be clearly faster. Where there
    are none it is what is usual: one-thread runs on every core of a CPU, few runs elsewhere.
    """
    best: Cost | None = None
    for shape in dict.fromkeys(cost.shape for cost in costs):
        own = [cost for cost in costs if cost.shape == shape]
        most = max(cost.rows_per_s for cost in own)
        found = min(
            (cost for cost in own if cost.rows_per_s * WORTHWHILE >= most), key=lambda c: c.rows
        )
        if best is None or found.rows_per_s > best.rows_per_s * WORTHWHILE:
            best = found
    if best is None:
        instances = cores if device == "cpu" else min(cores, INSTANCES_OFF_CPU)
        return Configuration(1, instances, max_rows, None)
    return Configuration(best.intra_op_threads, best.instances, best.rows, best.rows_per_s)


def inline_rows(costs: Iterable[Cost], chosen: Configuration) -> int:
    """Largest batch that is run for less than threads cost its requests; 0 for none."""
    shape = (chosen.intra_op_threads, chosen.instances)
    own = sorted((c for c in costs if c.shape == shape and c.rows <= chosen.rows), key=_rows)
    cheap = list(takewhile(_is_cheap, own))
    return cheap[-1].rows if cheap and chosen.intra_op_threads == 1 else 0


def _is_cheap(cost: Cost) -> bool:
    if cost.run_ms < INLINE_BELOW_MS:
        return True
    row_ms = cost.run_ms / cost.rows
    return row_ms < INLINE_ROW_BELOW_MS and cost.run_ms < INLINE_BATCH_BELOW_MS


def _rows(cost: Cost) -> int:
    return cost.rows


def fastest_first(verdicts: Sequence[Verdict], cores: int, max_rows: int) -> list[Verdict]:
    """The accepted verdicts; one goes before those of better rank only if it is clearly faster.

    Args:
        verdicts: best rank first. Without a measured cost the rank alone counts.
    """
    order: list[Verdict] = []
    left = [verdict for verdict in verdicts if verdict.accepted]
    while left:
        best = left[0]
        for other in left[1:]:
            if _rate(other, cores, max_rows) > _rate(best, cores, max_rows) * WORTHWHILE:
                best = other
        order.append(best)
        left.remove(best)
    return order


def _rate(verdict: Verdict, cores: int, max_rows: int) -> float:
    return configuration(verdict.costs, cores, max_rows).rows_per_s or 0.0
