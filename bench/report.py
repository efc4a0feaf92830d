"""Results as a table for people and as one document for machines."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

from bench.generator import Outcome
from bench.measuring import Plan, Results

FIGURES: Final = ("per_s", "p50_ms", "p99_ms", "cpu_us", "pss_mib", "rss_mib", "generator_share")
#: A generator that is busier than this may be what was measured.
BUSY: Final = 0.9
_HEAD: Final = (
    "case", "load", "server", "req/s", "p50 ms", "p99 ms", "CPU µs", "PSS MiB", "RSS MiB", "errors"
)  # fmt: skip


def median(outcomes: Sequence[Outcome], figure: str) -> float:
    return statistics.median(float(getattr(outcome, figure)) for outcome in outcomes)


def table(plan: Plan, results: Results) -> str:
    rows: list[Sequence[str]] = [_HEAD]
    for case in plan.cases:
        for load in plan.loads:
            for target in plan.targets:
                place = (case.name, str(load), target.name)
                for cell, outcomes in results.cells.items():
                    if (cell.case, cell.load, cell.server) == place:
                        rows.append([*place, *_figures(outcomes)])
        for seen in [results.raw.get((case.network, case.precision))]:
            if seen:
                name, best = best_raw(seen)
                cpu = statistics.median(one.cpu_us for one in seen)
                rows.append([case.name, "", f"session.run, {name}", f"{best:,.0f}", *["–"] * 6])
                rows.append(
                    [case.name, "", "session.run, 1 row", "–", "–", "–", f"{cpu:.1f}", *["–"] * 3]
                )
        for (name, server), reason in results.absent.items():
            if name == case.name:
                rows.append([name, "", server, f"left out: {' '.join(reason.split())[-160:]}"])
    return aligned(rows)


def _figures(outcomes: Sequence[Outcome]) -> list[str]:
    middle = {figure: median(outcomes, figure) for figure in FIGURES}
    errors: dict[str, int] = {}
    for outcome in outcomes:
        for status, count in outcome.errors.items():
            errors[status] = errors.get(status, 0) + count
    mark = "*" if middle["generator_share"] > BUSY else ""
    return [
        f"{middle['per_s']:,.0f}{mark}",
        f"{middle['p50_ms']:.2f}",
        f"{middle['p99_ms']:.2f}",
        f"{middle['cpu_us']:,.1f}",
        f"{middle['pss_mib']:.0f}",
        f"{middle['rss_mib']:.0f}",
        " ".join(f"{status}:{count}" for status, count in sorted(errors.items())) or "0",
    ]


def wrk_table(results: Results) -> str:
    rows: list[Sequence[str]] = [("case", "load", "server", "req/s by wrk", "of the above")]
    for cell, rates in results.wrk.items():
        rate = statistics.median(rates)
        share = rate / median(results.cells[cell], "per_s")
        rows.append((cell.case, cell.load, cell.server, f"{rate:,.0f}", f"{share:.2f}"))
    return aligned(rows)


def best_raw(seen: Sequence[Any]) -> tuple[str, float]:
    """The configuration with the most rows a second, by its median over the repeats."""
    rates = {
        name: statistics.median(one.rows_per_s[name] for one in seen) for name in seen[0].rows_per_s
    }
    best = max(rates, key=lambda name: rates[name])
    return best, rates[best]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Words to the left, figures to the right; a short row's last word may be as long as it is."""
    width = max(len(row) for row in rows)
    full = [row for row in rows if len(row) == width]
    widths = [max(len(row[column]) for row in full) for column in range(width)]
    lines = []
    for row in rows:
        last = len(row) - 1
        parts = [
            word if len(row) < width and column == last else _placed(word, widths[column], column)
            for column, word in enumerate(row)
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def _placed(word: str, width: int, column: int) -> str:
    put: Callable[[int], str] = word.ljust if column < 3 else word.rjust
    return put(width)


def document(plan: Plan, results: Results) -> dict[str, Any]:
    """Medians, and each repeat's figures behind them."""
    cells = []
    for cell, outcomes in results.cells.items():
        errors = [outcome.errors for outcome in outcomes]
        repeats = {figure: [getattr(o, figure) for o in outcomes] for figure in FIGURES}
        middle = {figure: median(outcomes, figure) for figure in FIGURES}
        cells.append(asdict(cell) | middle | {"errors": errors, "repeats": repeats})
    seen: dict[str, Any] = finite(
        {
            "seconds": plan.seconds,
            "warm_s": plan.warm_s,
            "repeats": plan.repeats,
            "cells": cells,
            "raw": [
                {
                    "network": network,
                    "precision": precision,
                    "best": best_raw(seen)[0],
                    "best_rows_per_s": best_raw(seen)[1],
                    "run_cpu_us": statistics.median(one.cpu_us for one in seen),
                    "repeats": [asdict(one) for one in seen],
                }
                for (network, precision), seen in results.raw.items()
            ],
            "absent": [
                {"case": case, "server": server, "reason": reason}
                for (case, server), reason in results.absent.items()
            ],
        }
    )
    return seen


def finite(value: Any) -> Any:
    """NaN, a quantile of no answers, and infinity, a ratio to none, are no JSON: null."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
