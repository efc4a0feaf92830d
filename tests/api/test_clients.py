"""A client that is generated from the document works against the service."""

import compileall
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.live import PATIENCE_S, LiveServer

pytest.importorskip("openapi_python_client")

CONFIG = """\
project_name_override: generated
package_name_override: modelport_generated_client
post_hooks: []
"""
PACKAGE = "modelport_generated_client"


@pytest.fixture(scope="module")
def generated(live: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the generated package."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "config.yml").write_text(CONFIG)
    with live.client() as client:
        document = client.get("/openapi.json").json()
    (folder / "openapi.json").write_text(json.dumps(document))
    command = ["-m", "openapi_python_client", "generate", "--path", "openapi.json", "--meta=none",
               "--config", "config.yml", "--output-path", PACKAGE]  # fmt: skip
    made = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True,
                          timeout=4 * PATIENCE_S, check=False)  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    # It leaves out the forms that it does not know, and warns of nothing else.
    said = (made.stdout + made.stderr).splitlines()
    warnings = sum(line.startswith("WARNING ") for line in said)
    assert warnings == sum(line.startswith("Unsupported content type ") for line in said)
    return folder


@pytest.mark.slow
def test_a_generated_client_compiles_and_predicts(
    live: LiveServer, generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compileall.compile_dir(generated / PACKAGE, quiet=2)
    monkeypatch.syspath_prepend(generated)
    api = importlib.import_module(f"{PACKAGE}.api.predict.predict_affine")
    models = importlib.import_module(f"{PACKAGE}.models")
    row = models.AffineInstance(a=1.0, b=2.0, c=3.0)

    with importlib.import_module(PACKAGE).Client(base_url=live.url, timeout=PATIENCE_S) as client:
        answer = api.sync(client=client, body=models.AffineRequest(instances=[row]))

    assert isinstance(answer, models.AffineResponse)
    assert answer.predictions[0].y == pytest.approx([-1.15, 7.3])
    assert answer.model.name == "affine"


@pytest.mark.slow
def test_a_generated_client_knows_the_errors(
    live: LiveServer, generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(generated)
    api = importlib.import_module(f"{PACKAGE}.api.predict.predict_survey")
    models = importlib.import_module(f"{PACKAGE}.models")

    with importlib.import_module(PACKAGE).Client(base_url=live.url, timeout=PATIENCE_S) as client:
        answer = api.sync(client=client, body=models.SurveyRequest(instances=[]))

    assert isinstance(answer, models.Error)
    assert answer.code == "validation_failed"
    assert answer.details[0].loc == ["instances"]
