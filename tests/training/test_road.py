"""The whole road: train, prove, publish, serve, predict; held-out rows over HTTP equal PyTorch."""

import asyncio
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.live import LiveServer
from training.pipeline import Outcome

pytestmark = pytest.mark.training

ROOT = Path(__file__).parents[2]
ROWS = 300
AT_ONCE = 32


@pytest.fixture(scope="module")
def server(
    models: Path, digits: Outcome, penguins: Outcome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    log = tmp_path_factory.mktemp("server") / "log"
    with LiveServer(models, log, default_model="digits") as running:
        yield running


async def _predict_each(
    url: str, instances: Sequence[dict[str, Any]], at_once: int
) -> list[dict[str, Any]]:
    """One instance a request, `at_once` in flight; the answers in the order of the instances."""
    gate = asyncio.Semaphore(at_once)
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(limits=limits, timeout=30, trust_env=False) as client:

        async def predict(instance: dict[str, Any]) -> dict[str, Any]:
            async with gate:
                answer = await client.post(url, json={"instances": [instance]})
            assert answer.status_code == 200, answer.text
            (prediction,) = answer.json()["predictions"]
            return prediction

        return await asyncio.gather(*(predict(instance) for instance in instances))


def _agree(predictions: Sequence[dict[str, Any]], want: dict[str, Any]) -> None:
    labels = [prediction["label"] for prediction in predictions]
    assert labels == list(want["label"])
    scores = np.array([list(prediction["scores"].values()) for prediction in predictions])
    np.testing.assert_allclose(scores, want["scores"], atol=1e-5)


def test_300_held_out_digits_each_get_what_pytorch_answers(
    server: LiveServer, digits: Outcome
) -> None:
    instances = digits.test.instances[:ROWS]
    assert len(instances) == ROWS
    want = digits.reference({name: a[:ROWS] for name, a in digits.test.inputs.items()})

    predictions = asyncio.run(_predict_each(f"{server.url}/predict", instances, AT_ONCE))

    _agree(predictions, want)
    # Rows that were mixed up would show: the scores of different pictures differ.
    assert len({json.dumps(prediction) for prediction in predictions}) > ROWS * 0.99


def test_penguins_with_cells_missing_get_what_pytorch_answers(
    server: LiveServer, penguins: Outcome
) -> None:
    url = f"{server.url}/models/penguins/predict"
    rows = len(penguins.test.instances)
    want = penguins.reference(dict(penguins.test.inputs))

    answer = httpx.post(url, json={"instances": penguins.test.instances}, trust_env=False)

    assert answer.status_code == 200
    assert any(None in instance.values() for instance in penguins.test.instances[:rows])
    _agree(answer.json()["predictions"], want)


def test_an_unknown_category_is_answered_or_refused_as_the_signature_says(
    server: LiveServer, penguins: Outcome
) -> None:
    url = f"{server.url}/models/penguins/predict"
    numbers = {"bill_length_mm": 46.5, "bill_depth_mm": 17.9, "flipper_length_mm": 192.0,
               "body_mass_g": 3500.0}  # fmt: skip
    want = penguins.reference(
        {
            "numbers": np.array([list(numbers.values())], dtype=np.float32),
            "categories": np.array([["Atlantis", "female"]], dtype=object),
        }
    )

    accepted = httpx.post(
        url,
        json={"instances": [numbers | {"island": "Atlantis", "sex": "female"}]},
        trust_env=False,
    )
    refused = httpx.post(
        url, json={"instances": [numbers | {"island": "Dream", "sex": "?"}]}, trust_env=False
    )

    assert accepted.status_code == 200
    _agree(accepted.json()["predictions"], want)
    assert refused.status_code == 422
    assert refused.json()["details"][0]["loc"] == ["instances", 0, "sex"]


def _console_examples() -> list[tuple[str, str]]:
    """Each `$ command` of the README's console blocks with the answer printed below it."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [
        (command, answer)
        for block in blocks
        for command, answer in re.findall(r"^\$ (.*)\n((?:[^$].*\n)+)", block, re.MULTILINE)
    ]


@pytest.mark.parametrize(("command", "answer"), _console_examples())
def test_readme_examples_give_the_printed_answers(
    server: LiveServer, command: str, answer: str
) -> None:
    done = subprocess.run(
        shlex.split(command.replace("127.0.0.1:8000", server.url.removeprefix("http://"))),
        capture_output=True,
        text=True,
        timeout=30,
    )

    pattern = ".*".join(re.escape(part) for part in answer.strip().split("…"))
    assert re.fullmatch(pattern, done.stdout), done.stdout


def test_ten_lines_of_bare_onnxruntime_give_the_golden_outputs(
    models: Path, digits: Outcome
) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/bundle.md").read_text(), re.DOTALL)
    script = script.replace("models/digits/1", str(digits.bundle.path))

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60
    )

    assert (done.stdout, done.stderr) == ("True\n", "")
