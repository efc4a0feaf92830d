"""Ratios, tables and the document."""

import json
import math
from typing import Any

from bench import acceptance, report
from bench.cases import CASES
from bench.generator import Outcome
from bench.measuring import Cell, Load, Plan, Results
from bench.raw import Raw
from bench.targets import BARE, MODELPORT, NAIVE


def outcome(per_s: float, cpu_us: float = 50.0, **more: Any) -> Outcome:
    figures = {
        "per_s": per_s,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "cpu_us": cpu_us,
        "pss_mib": 60.0,
        "rss_mib": 80.0,
        "answers": 100,
        "errors": {},
        "generator_share": 0.5,
    }
    return Outcome(**(figures | more))


def results() -> Results:
    seen = Results()
    seen.cells = {
        Cell("mlp-json", "64", "bare ASGI"): [outcome(20_000, 40.0), outcome(10_000, 80.0)],
        Cell("mlp-json", "64", "naive"): [outcome(2_000, 400.0), outcome(1_000, 800.0)],
        # The second repeat had half a machine; ratios within a repeat do not mind.
        Cell("mlp-json", "64", "modelport"): [outcome(30_000, 30.0), outcome(15_000, 60.0)],
    }
    seen.raw = {("mlp", "fp32"): [Raw(10.0, {"1x1 b1": 100.0, "1x1 b8": 900.0})]}
    seen.absent = {("mlp-json", "peer"): "it ended with status 1: no\n such library"}
    return seen


PLAN = Plan([CASES["mlp-json"]], [BARE, NAIVE, MODELPORT], [Load(64)], seconds=1.0, repeats=2)


def test_ratios_are_taken_within_each_repeat() -> None:
    lines = {line.wish: line for line in acceptance.judge(results(), [])}

    cpu = lines["mlp-json, 64 connections: CPU / bare ASGI"]
    rate = lines["mlp-json, 64 connections: throughput / naive"]
    assert (cpu.ratio, cpu.passed) == (0.75, True)
    assert (rate.ratio, rate.passed) == (15.0, True)


def test_a_wish_that_is_not_met_fails() -> None:
    seen = results()
    seen.cells[Cell("mlp-json", "64", "modelport")] = [outcome(15_000, 40.0)]

    failed = [line.wish for line in acceptance.judge(seen, []) if not line.passed]

    assert failed == [
        "mlp-json, 64 connections: CPU / bare ASGI",
        "mlp-json, 64 connections: throughput / naive",
    ]


def test_a_peer_without_good_answers_is_behind() -> None:
    seen = results()
    seen.cells[Cell("mlp-json", "64", "mosec")] = [outcome(0.0, p50_ms=math.nan)]

    lines = [x for x in acceptance.judge(seen, ["mosec"]) if "throughput / mosec" in x.wish]

    assert lines
    assert all(line.passed for line in lines)


def test_the_table_names_what_is_absent_and_why() -> None:
    lines = report.table(PLAN, results()).splitlines()

    assert len({len(line) for line in lines[1:4]}) == 1
    assert [line.split()[2] for line in lines[1:4]] == ["bare", "naive", "modelport"]
    assert lines[-1].endswith("left out: it ended with status 1: no such library")
    assert "session.run, 1x1 b8" in lines[4]


def test_a_busy_generator_is_marked() -> None:
    seen = results()
    seen.cells[Cell("mlp-json", "64", "naive")] = [outcome(2_000, generator_share=0.95)]

    assert "2,000*" in report.table(PLAN, seen)


def test_the_document_is_json_with_medians_and_what_is_behind_them() -> None:
    seen = results()
    seen.cells[Cell("mlp-json", "64", "naive")] = [outcome(0.0, p50_ms=math.nan)]

    document = json.loads(json.dumps(report.document(PLAN, seen), allow_nan=False))

    ours = next(cell for cell in document["cells"] if cell["server"] == "modelport")
    assert (ours["per_s"], ours["repeats"]["per_s"]) == (22_500.0, [30_000.0, 15_000.0])
    assert document["raw"][0]["best"] == "1x1 b8"
    assert document["absent"][0]["server"] == "peer"
