"""`python -m bench.reload`: new versions under load, one in three broken.

A quiet stretch is measured first; then a version is published every two seconds while requests come
at a steady rate. No request may fail, and the others should hardly notice.
"""

import argparse
import asyncio
import json
import multiprocessing
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import orjson

from app.engine.proof.priority import step_back
from bench.load import Sample, Target, closed_loop, open_loop, post
from bench.networks import (
    depthwise_cnn,
    network_files,
    pictures,
    publish_files,
    publish_network,
)
from bench.server import RunningServer, serving

_EVERY_S: Final = 2.0
_KEPT: Final = 6
_SAMPLE_EVERY_S: Final = 1.0
_SETTLED: Final = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.reload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="of reloading, default 120")
    parser.add_argument("--quiet", type=float, default=30.0, help="seconds before, default 30")
    parser.add_argument("--load", type=float, default=0.3, help="share of the peak, default 0.3")
    parser.add_argument("--enlarge", type=int, default=4, help="4 is 112 × 112")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        publish_network(root, "cnn", depthwise_cnn(options.enlarge))
        with serving(root, provider="cpu", cache="off", poll_s=0.5) as server:
            print(json.dumps(asyncio.run(_measure(server, root, options))))


async def _measure(
    server: RunningServer, root: Path, options: argparse.Namespace
) -> dict[str, Any]:
    body = orjson.dumps({"instances": [{"image": pictures(1)[0].tolist()}]})
    target = Target("127.0.0.1", server.port, post("/predict", body))
    peak = await closed_loop(target, 8, 5.0)
    per_s = options.load * peak.good_per_s
    quiet = await open_loop(target, per_s, options.quiet)
    before = stalls(server)
    work = (root, options.enlarge, options.seconds)
    publisher = multiprocessing.get_context("spawn").Process(target=_publish, args=work)
    publisher.start()
    memory = asyncio.create_task(_sample_memory(server, options.seconds))
    busy = await open_loop(target, per_s, options.seconds)
    await asyncio.to_thread(publisher.join)
    newest = max(int(path.name) for path in (root / "cnn").glob("[1-9]*"))
    rss = await memory
    served = server.get("/models/cnn")["version"]
    settled = rss[int(len(rss) * _SETTLED) :]
    result = {
        "bench": "reload",
        "again_on_a_fresh_connection": busy.again,
        "rate_per_s": per_s,
        "published": newest - 1,
        "served_at_the_end": served,
        "statuses": busy.by_status,
        "quiet_p99_ms": quiet.quantile_ms(0.99),
        "reload_p99_ms": busy.quantile_ms(0.99),
        "p99_ratio": busy.quantile_ms(0.99) / quiet.quantile_ms(0.99),
        "stalls_by_bound": stalls(server, before),
        "rss_mib": {"settled": settled[0], "end": settled[-1], "most": max(settled)},
    }
    _show(result, quiet, busy)
    return result


def _show(result: dict[str, Any], quiet: Sample, busy: Sample) -> None:
    print(f"{result['rate_per_s']:.0f} requests/s; {result['published']} versions published")
    for name, sample in (("quiet", quiet), ("reloading", busy)):
        print(
            f"{name:>10}: p50 {sample.quantile_ms(0.5):.1f} ms, p99 {sample.quantile_ms(0.99):.1f} "
            f"ms, most {sample.quantile_ms(1.0):.1f} ms, {sample.by_status}"
        )
    print(f"p99 while reloading / quiet: {result['p99_ratio']:.2f}")
    print(f"event loop late by more than so many seconds: {result['stalls_by_bound']}")
    print(f"resident MiB: {result['rss_mib']}")


def _publish(root: Path, enlarge: int, seconds: float) -> None:
    """In a process of its own, that neither the server nor the load has to wait for. Every third
    version has golden outputs that no provider gives."""
    step_back()
    model = depthwise_cnn(enlarge)
    good, bad = (network_files(model, broken=broken) for broken in (False, True))
    ends_s = time.monotonic() + seconds - _EVERY_S
    count = 0
    while time.monotonic() < ends_s:
        count += 1
        publish_files(root, "cnn", good if count % 3 else bad)
        for version in sorted(int(p.name) for p in (root / "cnn").glob("[1-9]*"))[:-_KEPT]:
            shutil.rmtree(root / "cnn" / str(version))
        time.sleep(_EVERY_S)


async def _sample_memory(server: RunningServer, seconds: float) -> list[float]:
    found = []
    for _ in range(max(4, int(seconds / _SAMPLE_EVERY_S))):
        found.append(round(server.rss_mib(), 1))
        await asyncio.sleep(_SAMPLE_EVERY_S)
    return found


def stalls(server: RunningServer, before: dict[str, float] | None = None) -> dict[str, float]:
    """How often the event loop was later than each bound, in seconds."""
    text = server.get_text("/metrics")
    pattern = r'modelport_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)'
    cumulative = {bound: float(count) for bound, count in re.findall(pattern, text)}
    total = cumulative.get("+Inf", 0.0)
    late = {bound: total - count for bound, count in cumulative.items() if bound != "+Inf"}
    return {bound: count - (before or {}).get(bound, 0.0) for bound, count in late.items()}


if __name__ == "__main__":
    main()
