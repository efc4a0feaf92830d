"""The harness from its command line, and what it starts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.child import NotStarted, free_port, running
from bench.environments import PINS
from bench.peer_targets import PEERS
from bench.plot import draw
from bench.wires import post_json

ROOT = Path(__file__).parent.parent.parent
REQUEST = post_json("/", {})


def cell(server: str, per_s: float) -> dict[str, object]:
    return {"case": "mlp-json", "load": "64", "server": server, "per_s": per_s, "cpu_us": 40.0}


def test_a_server_that_ends_says_why() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such library')"]

    with pytest.raises(NotStarted, match=r"status 1: no such library$"):
        running(command, free_port(), REQUEST).__enter__()


def test_a_server_that_never_answers_is_given_up() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]

    with pytest.raises(NotStarted, match="did not answer in time"):
        running(command, free_port(), REQUEST, within_s=0.2).__enter__()


@pytest.mark.parametrize("peer", [peer.name for peer in PEERS])
def test_every_peer_is_a_program_with_exact_pins(peer: str) -> None:
    pins = (PINS / f"{peer}.txt").read_text().splitlines()

    assert (PINS / f"{peer}.py").is_file()
    assert all("==" in pin for pin in pins)
    assert "onnxruntime==1.32.0" in pins


def test_the_plot_is_the_same_for_the_same_results(tmp_path: Path) -> None:
    document = {"cells": [cell("naive", 1_000.0), cell("modelport", 20_000.0)]}
    pictures = [tmp_path / "a.svg", tmp_path / "b.svg"]

    for picture in pictures:
        draw(document, picture)

    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert "20,000" in pictures[0].read_text()


@pytest.mark.slow
def test_a_quick_run() -> None:
    options = [
        "--quick",
        "--no-steady",
        "--cases",
        "mlp-json",
        "--servers",
        "bare ASGI",
        "modelport",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )

    document = json.loads(done.stdout.splitlines()[-1])
    assert {cell["server"] for cell in document["cells"]} == {"bare ASGI", "modelport"}
    assert all(cell["per_s"] > 0 and cell["errors"] == [{}] for cell in document["cells"])
    assert document["generator_per_s"] > 1_000
