"""`python -m bench.engine`: does the plan find what a patient person would find by hand?

A 224 × 224 depthwise CNN behind HTTP at 16 connections, against the best of many configurations of
bare ONNX Runtime in one process; and its memory, against the same server forced to batches of 8.
Rounds alternate between the two, so that a machine that changes its speed changes both.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
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
        for name, rate in raw_rates(model, seconds / 4):
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


def raw_rates(model: bytes, seconds: float) -> Iterator[tuple[str, float]]:
    """Rows a second of every configuration that somebody might try by hand."""
    cores = available_cores().count
    shapes = [(t, cores // t) for t in range(1, cores + 1) if cores % t == 0]
    for (threads, instances), rows in itertools.product(shapes, _BATCHES):
        yield f"{threads}x{instances} b{rows}", _raw_rate(model, threads, instances, rows, seconds)


def _raw_rate(model: bytes, threads: int, instances: int, rows: int, seconds: float) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    pixels = pictures(rows)
    session.run(None, {"pixels": pixels})
    counts = [0] * instances
    ends_s = time.perf_counter() + seconds

    def work(index: int) -> None:
        while time.perf_counter() < ends_s:
            session.run(None, {"pixels": pixels})
            counts[index] += rows

    threads_ = [threading.Thread(target=work, args=(index,)) for index in range(instances)]
    started = time.perf_counter()
    for thread in threads_:
        thread.start()
    for thread in threads_:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def _table(rates: dict[str, float]) -> str:
    return ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())


if __name__ == "__main__":
    main()
