"""What the service wants of itself, as ratios of figures that were measured side by side."""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bench.cases import CASES
from bench.generator import Outcome
from bench.measuring import Cell, Results
from bench.raw import Raw
from bench.report import aligned, best_raw

OURS: Final = "modelport"
_BARE: Final = "bare ASGI"
_BUSY_LOADS: Final = ("16", "64", "256")


@dataclass(frozen=True)
class Line:
    """One wish and how it was met.

    Args:
        is_at_most: the ratio must not be above the bound; else not below it.
    """

    wish: str
    ratio: float
    bound: float
    is_at_most: bool

    @property
    def passed(self) -> bool:
        return self.ratio <= self.bound if self.is_at_most else self.ratio >= self.bound


def judge(results: Results, peers: Sequence[str]) -> list[Line]:
    """A line for each wish whose figures were all measured."""
    judge = _Judge(results)
    return [*judge.baselines(), *(line for peer in peers for line in judge.peer(peer))]


class _Judge:
    def __init__(self, results: Results) -> None:
        self._results = results

    def baselines(self) -> Iterator[Line]:
        at_64 = "mlp-json, 64 connections"
        yield from self._most(
            f"{at_64}: CPU / bare ASGI", 0.9, self._over("mlp-json", "64", _BARE, "cpu_us")
        )
        for server, bound in (("naive", 12.0), ("mosec", 1.3)):
            ratio = self._over("mlp-json", "64", server, "per_s")
            yield from self._least(f"{at_64}: throughput / {server}", bound, ratio)
        pytriton = [self._over("mlp-json", load, "pytriton", "per_s", "64") for load in _BUSY_LOADS]
        best = [ratio for ratio in pytriton if ratio is not None]
        ratio = min(best) if best else None
        yield from self._least(f"{at_64}: throughput / pytriton's best", 1.5, ratio)
        typed = self._over("mlp-typed", "64", _BARE, "cpu_us")
        yield from self._most("mlp-typed, 64 connections: CPU / bare ASGI", 1.2, typed)
        for case in ("mlp-json", "mlp-typed"):
            ratio = self._over(case, "1", _BARE, "p50_ms")
            yield from self._most(f"{case}, 1 connection: p50 / bare ASGI", 1.5, ratio)
        for case, share in (("cnn28-json", 1.7), ("cnn28-binary", 1.0)):
            for load in ("16", "64"):
                wish = f"{case}, {load} connections: CPU / (raw run + {share:g} bare ASGI)"
                yield from self._most(wish, 1.0, self._over_sum(case, load, share))
        for case, bound in (
            ("cnn224-binary", 0.95),
            ("cnn224-jpeg", 0.9),
            ("cnn224-int8-binary", 0.95),
        ):
            for load in _BUSY_LOADS:
                wish = f"{case}, {load} connections: throughput / raw best"
                yield from self._least(wish, bound, self._over_best(case, load))

    def peer(self, name: str) -> Iterator[Line]:
        """Ahead in every column."""
        for case in CASES:
            for load in _BUSY_LOADS:
                wish = f"{case}, {load} connections: throughput / {name}"
                yield from self._least(wish, 1.0, self._over(case, load, name, "per_s"))
            wish = f"{case}, 1 connection: p50 / {name}"
            yield from self._most(wish, 1.0, self._over(case, "1", name, "p50_ms"))
            for load in ("1", *_BUSY_LOADS):
                for figure, words in (("cpu_us", "CPU"), ("pss_mib", "memory")):
                    plural = "" if load == "1" else "s"
                    wish = f"{case}, {load} connection{plural}: {words} / {name}"
                    yield from self._most(wish, 1.0, self._over(case, load, name, figure))

    def _seen(self, case: str, load: str, server: str) -> list[Outcome]:
        return self._results.cells.get(Cell(case, load, server), [])

    def _over(
        self, case: str, load: str, server: str, figure: str, our_load: str | None = None
    ) -> float | None:
        """Ours over theirs: the median of the ratios of each repeat."""
        ours = self._seen(case, our_load or load, OURS)
        theirs = self._seen(case, load, server)
        pairs = [
            (getattr(o, figure), getattr(t, figure)) for o, t in zip(ours, theirs, strict=False)
        ]
        # Where they had no good answer at all, ours are as many times more as there can be.
        return _middle(
            [own / other if other else math.inf for own, other in pairs if not math.isnan(other)]
        )

    def _over_sum(self, case: str, load: str, share: float) -> float | None:
        """Our CPU time over that of a bare run and a share of a bare server together."""
        ours, bare = self._seen(case, load, OURS), self._seen(case, load, _BARE)
        together = zip(ours, bare, self._raw(case), strict=False)
        return _middle([o.cpu_us / (raw.cpu_us + share * b.cpu_us) for o, b, raw in together])

    def _over_best(self, case: str, load: str) -> float | None:
        ours, raw = self._seen(case, load, OURS), self._raw(case)
        best = best_raw(raw)[0] if raw else ""
        return _middle([o.per_s / r.rows_per_s[best] for o, r in zip(ours, raw, strict=False)])

    def _raw(self, case: str) -> Sequence[Raw]:
        return self._results.raw.get((CASES[case].network, CASES[case].precision), [])

    def _most(self, wish: str, bound: float, ratio: float | None) -> Iterable[Line]:
        return [] if ratio is None else [Line(wish, ratio, bound, is_at_most=True)]

    def _least(self, wish: str, bound: float, ratio: float | None) -> Iterable[Line]:
        return [] if ratio is None else [Line(wish, ratio, bound, is_at_most=False)]


def _middle(ratios: Sequence[float]) -> float | None:
    return statistics.median(ratios) if ratios else None


def table(lines: Sequence[Line]) -> str:
    rows: list[Sequence[str]] = [("wish", "bound", "", "ratio", "")]
    for line in lines:
        bound = f"{'<=' if line.is_at_most else '>='} {line.bound:g}"
        rows.append((line.wish, bound, "", f"{line.ratio:.2f}", "PASS" if line.passed else "FAIL"))
    return aligned(rows)
