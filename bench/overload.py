"""`python -m bench.overload`: what is left of the service when twice or ten times too much comes.

Unloaded and peak are measured first. Then requests come at a multiple of the peak, in an open loop,
each with a deadline of three times the unloaded p99: what cannot be answered in time should be
refused at once, and everything else answered in time.
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from app.engine.cores import available_cores
from bench.load import Sample, Target, closed_loop, open_loop, post
from bench.networks import depthwise_cnn, pictures, publish_network
from bench.server import RunningServer, serving


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each part, default 10")
    parser.add_argument("--enlarge", type=int, default=16, help="8 is 224 × 224, 16 is 448 × 448")
    parser.add_argument("--factors", type=float, nargs="+", default=[2.0, 10.0])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        publish_network(root, "cnn", depthwise_cnn(options.enlarge))
        with serving(root, provider="cpu", cache="off") as server:
            print(json.dumps(asyncio.run(_measure(server, options))))


async def _measure(server: RunningServer, options: argparse.Namespace) -> dict[str, Any]:
    body = orjson.dumps({"instances": [{"image": pictures(1)[0].tolist()}]})

    def target(timeout_ms: int = 60_000) -> Target:
        headers = {"Modelport-Timeout-Ms": str(timeout_ms)}
        return Target("127.0.0.1", server.port, post("/predict", body, headers))

    await closed_loop(target(), 4, 2.0)
    # As many connections as cores: nobody waits for anybody, and every core is at work.
    unloaded = await closed_loop(target(), available_cores().count, options.seconds)
    peak = await closed_loop(target(), 16, options.seconds)
    p99_ms = unloaded.quantile_ms(0.99)
    result: dict[str, Any] = {
        "bench": "overload",
        "unloaded_p99_ms": p99_ms,
        "peak_per_s": peak.good_per_s,
        "factors": {},
    }
    print(f"unloaded: p50 {unloaded.quantile_ms(0.5):.1f} ms, p99 {p99_ms:.1f} ms")
    print(f"peak at 16 connections: {peak.good_per_s:.1f} a second")
    for factor in options.factors:
        sample = await open_loop(
            target(round(3 * p99_ms)),
            factor * peak.good_per_s,
            options.seconds,
            np.random.default_rng(1),
        )
        result["factors"][f"{factor:g}"] = _show(factor, sample, peak, p99_ms)
    await asyncio.sleep(2.0)
    after = await closed_loop(target(), available_cores().count, 2.0)
    result["after_p99_ms"] = after.quantile_ms(0.99)
    print(f"2 s later: p99 {after.quantile_ms(0.99):.1f} ms")
    return result


def _show(factor: float, sample: Sample, peak: Sample, unloaded_p99_ms: float) -> dict[str, Any]:
    figures = {
        "goodput_ratio": sample.good_per_s / peak.good_per_s,
        "accepted_p99_ms": sample.quantile_ms(0.99),
        "accepted_p99_ratio": sample.quantile_ms(0.99) / unloaded_p99_ms,
        "refused_p99_ms": sample.quantile_ms(0.99, 503),
        "statuses": sample.by_status,
    }
    print(
        f"{factor:g} × the peak: goodput {figures['goodput_ratio']:.3f} of it, accepted p99 "
        f"{figures['accepted_p99_ratio']:.2f} × unloaded, refusals p99 "
        f"{figures['refused_p99_ms']:.1f} ms, {sample.by_status}"
    )
    return figures


if __name__ == "__main__":
    main()
