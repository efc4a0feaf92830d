"""`python -m bench.engine`: does the plan find what a patient person would find by hand?

A 224 × 224 depthwise CNN behind HTTP at 16 connections, against the best of many configurations of
bare ONNX Runtime in one process; and its memory, against the same server forced to batches of 8.
Rounds alternate between the two, so that a machine that changes its speed changes both.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

import onnxruntime
import orjson

from app.engine.cores import available_cores
from app.engine.proof.plans import load_plans, save_plans
from app.planning import plan
from app.settings import load_settings
from bench.load import Sample, Target, closed_loop, post
from bench.networks import depthwise_cnn, pictures, publish_network
from bench.raw import rates
from bench.server import RunningServer, serving

CONNECTIONS: Final = 16
_BATCHES: Final = (1, 2, 4, 8, 16)


def main() -> None:
    options = _options()
    model = depthwise_cnn()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        publish_network(root, "cnn", model)
        plans = Path(folder) / "plans.json"
        for line in plan(load_settings(models=root, cache="off"), out=plans):
            print(line)
        _force_batch(plans, 8)
        result = asyncio.run(_measure(root, model, plans, options))
    print(json.dumps(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement, default 5")
    return parser.parse_args()


async def _measure(
    root: Path, model: bytes, forced: Path, options: argparse.Namespace
) -> dict[str, Any]:
    seconds = options.seconds
    raw: dict[str, list[float]] = {}
    ours: list[float] = []
    for _ in range(options.rounds):
        with serving(root, provider="cpu", cache="off") as server:
            sample = await _load(server, seconds)
            ours.append(sample.good_per_s)
            rss = server.rss_mib("VmRSS")
        found = rates(model, lambda rows: {"pixels": pictures(rows)}, _BATCHES, seconds / 4)
        for name, rate in found.items():
            raw.setdefault(name, []).append(rate)
    with serving(root, provider="cpu", cache="off", plan=forced) as server:
        batch_8 = await _load(server, seconds)
        rss_8 = server.rss_mib("VmRSS")
    by_hand = {name: statistics.median(rates) for name, rates in raw.items()}
    best = max(by_hand, key=lambda name: by_hand[name])
    rate = statistics.median(ours)
    print(f"\nbare ONNX Runtime, rows/s: {_table(by_hand)}")
    print(f"served at {CONNECTIONS} connections: {rate:.0f} rows/s, {rss:.0f} MiB resident")
    print(f"forced to batches of 8: {batch_8.good_per_s:.0f} rows/s, {rss_8:.0f} MiB resident")
    print(f"throughput / best by hand ({best}): {rate / by_hand[best]:.3f}")
    print(f"memory / batches of 8: {rss / rss_8:.3f}")
    return {
        "bench": "engine",
        "cores": available_cores().count,
        "onnxruntime": onnxruntime.__version__,
        "raw_rows_per_s": by_hand,
        "served_rows_per_s": ours,
        "statuses": sample.by_status,
        "throughput_ratio": rate / by_hand[best],
        "memory_mib": rss,
        "memory_batch_8_mib": rss_8,
        "memory_ratio": rss / rss_8,
    }


async def _load(server: RunningServer, seconds: float) -> Sample:
    body = orjson.dumps({"instances": [{"image": pictures(1)[0].tolist()}]})
    target = Target("127.0.0.1", server.port, post("/predict", body))
    await closed_loop(target, CONNECTIONS, 1.0)
    return await closed_loop(target, CONNECTIONS, seconds)


def _force_batch(path: Path, rows: int) -> None:
    """The same plans with batches of so many rows."""
    plans = load_plans(path)
    save_plans(path, {k: p.model_copy(update={"max_rows": rows}) for k, p in plans.items()})


def _table(rates: dict[str, float]) -> str:
    return ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())


if __name__ == "__main__":
    main()
