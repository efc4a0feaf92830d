"""`python -m bench`: the service beside its baselines, or beside other model servers.

Baselines: the server that tutorials show, an ASGI application that does nothing, and bare ONNX
Runtime. Progress goes to stderr, tables to stdout, and the last line is one JSON document.
"""

import argparse
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench import acceptance, report, wrk
from bench.cases import CASES
from bench.child import free_port, running
from bench.generator import Generator, Job
from bench.hardware import Cores, describe, share_cores
from bench.measuring import STEADY_CONNECTIONS, Load, Plan, measure
from bench.peer_targets import PEERS, ready_peers
from bench.targets import BARE, MODELPORT, NAIVE, Target
from bench.wires import post_json

RESULTS: Final = Path(__file__).parent / "results"
_CONNECTIONS: Final = (1, 16, 64, 256)
_PEER_CASES: Final = ("mlp-json", "cnn28-json", "cnn28-binary", "cnn224-binary", "cnn224-jpeg")


def main() -> None:
    options = _options()
    # Ended from outside, it still ends the servers that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cores = share_cores(is_pinned=not options.no_pin)
    hardware = describe(cores)
    if cores.servers:
        os.sched_setaffinity(0, cores.servers)
    started_s = time.monotonic()
    targets, absent = _targets(options)
    plan = Plan(
        cases=[CASES[name] for name in options.cases],
        targets=targets,
        loads=_loads(options),
        seconds=options.seconds,
        repeats=options.repeats,
        with_raw="raw" in options.servers,
        wrk_cores=cores.load if options.wrk else None,
    )
    generator = Generator(cores.load)
    try:
        reach = _reach(generator)
        with tempfile.TemporaryDirectory() as folder:
            results = measure(plan, Path(folder), generator)
    finally:
        generator.close()
    for name, reason in absent.items():
        results.absent |= {(case.name, name): reason for case in plan.cases}
    for peer, case in itertools.product(targets, plan.cases):
        if peer in PEERS and not peer.speaks(case):
            results.absent[case.name, peer.name] = f"it takes no {case.form} over HTTP"
    lines = acceptance.judge(results, [peer.name for peer in PEERS])
    _show(report.table(plan, results), acceptance.table(lines), cores, reach)
    if results.wrk:
        print(f"{report.wrk_table(results)}\n")
    document = {
        "bench": "peers" if options.peers else "http",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_s": round(time.monotonic() - started_s),
        "hardware": hardware,
        "generator_per_s": reach,
        **report.document(plan, results),
        "acceptance": [asdict(line) | {"passed": line.passed} for line in lines],
    }
    if options.save:
        _save(report.finite(document))
    print(json.dumps(report.finite(document)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [target.name for target in (BARE, NAIVE, MODELPORT, *PEERS)]
    parser.add_argument("--peers", action="store_true", help="beside other model servers")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="default: all, or those of peers")
    parser.add_argument("--servers", nargs="+", choices=[*names, "raw"], help="default: all")
    parser.add_argument("--connections", nargs="+", type=int, default=list(_CONNECTIONS))
    parser.add_argument("--no-steady", action="store_true", help="leave the open loop out")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each figure, default 2")
    parser.add_argument("--repeats", type=int, default=3, help="default 3; the median counts")
    parser.add_argument("--no-pin", action="store_true", help="do not give load and servers cores")
    parser.add_argument("--wrk", action="store_true", help="measure with wrk too, as a cross-check")
    parser.add_argument("--quick", action="store_true", help="a smoke test: short, and only once")
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results")
    options = parser.parse_args()
    if options.wrk and not wrk.is_here():
        parser.error("wrk is not installed")
    if options.quick:
        options.seconds, options.repeats, options.connections = 0.5, 1, [1, 64]
        options.cases = options.cases or ["mlp-json", "cnn28-binary"]
    if options.cases is None:
        options.cases = list(_PEER_CASES if options.peers else CASES)
    if options.servers is None:
        others = [peer.name for peer in PEERS] if options.peers else [NAIVE.name, "raw"]
        options.servers = [BARE.name, MODELPORT.name, *others]
    return options


def _loads(options: argparse.Namespace) -> list[Load]:
    loads = [Load(connections) for connections in options.connections]
    return loads if options.no_steady else [*loads, Load(STEADY_CONNECTIONS, is_open=True)]


def _targets(options: argparse.Namespace) -> tuple[Sequence[Target], dict[str, str]]:
    """Those that are here, and why others are not."""
    own = [t for t in (BARE, NAIVE, MODELPORT) if t.name in options.servers]
    peers, absent = ready_peers([p for p in PEERS if p.name in options.servers])
    return [*own, *peers], absent


def _reach(generator: Generator) -> float:
    """Requests a second of the generator against a server that costs less than it does."""
    port = free_port()
    request = post_json("/", {"inputs": list(range(16))})
    with running([sys.executable, "-m", "bench.trivial", str(port)], port, request) as server:
        job = Job(port, server.pid, [request], STEADY_CONNECTIONS, seconds=1.0, warm_s=0.3)
        return generator.run(job).per_s


def _show(figures: str, wishes: str, cores: Cores, reach: float) -> None:
    print(f"{cores}; the load generator reaches {reach:,.0f} requests/s\n")
    print(f"{figures}\n")
    print("CPU µs: of the server's whole process tree, for each request. steady: open loop.")
    print(f"*: the load generator used more than {report.BUSY:.0%} of its core\n")
    print(f"{wishes}\n")


def _save(document: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    stamp = document["date"].replace(":", "").replace("+0000", "Z")
    path = RESULTS / f"{document['bench']}-{stamp}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"kept as {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
