import json
from pathlib import Path

import pytest

from app.bundle.store import scan, verify
from training import pipeline
from training.errors import EnvironmentTrouble, GateFailed, UsageError
from training.fit.train import weights_sha256
from training.pipeline import Outcome

pytestmark = pytest.mark.training

SHORT = {"epochs": 1, "threads": 1, "gates": "accuracy>=1"}


def test_bundle_is_published_complete(outcome: Outcome, models: Path):
    files = {path.name for path in outcome.bundle.path.iterdir()}

    assert files == {"model.onnx", "golden.npz", "card.md", "report.html", "manifest.json"}
    assert set(outcome.manifest.files) == files - {"manifest.json"}
    verify(outcome.bundle)
    folder = next(one for one in scan(models) if one.name == outcome.run.name)
    assert (folder.versions, folder.problems) == ((1,), ())


def test_manifest_holds_the_evidence(outcome: Outcome):
    manifest = outcome.manifest

    assert manifest.batching.row_independent
    assert manifest.batching.max_rows == 64
    assert manifest.batching.checked_rows == (1, 2, 7, 64)
    assert set(manifest.metrics) == {"validation", "test"}
    assert manifest.metrics["test"]["accuracy"] == manifest.gates[0].value
    assert all(gate.passed for gate in manifest.gates)
    assert manifest.tolerances["fp32"]["scores"].atol >= 1e-5
    assert manifest.tolerances["reduced"]["scores"].atol >= 2e-3
    assert set(manifest.drift) == {field.name for field in manifest.signature.fields}


def test_provenance_is_that_of_the_run(outcome: Outcome):
    provenance = outcome.manifest.provenance

    assert provenance is not None
    assert provenance.run == outcome.run.name
    assert provenance.weights_sha256 == weights_sha256(outcome.predictor)
    assert provenance.data_sha256 == outcome.dataset.sha256
    assert provenance.config_sha256 == outcome.config.sha256()
    assert provenance.config["epochs"] == outcome.config.epochs
    assert {"python", "torch", "onnx", "numpy", "scikit-learn"} <= set(provenance.versions)


def test_manifest_holds_no_path_of_this_machine(outcome: Outcome, models: Path):
    text = (outcome.bundle.path / "manifest.json").read_text()

    assert json.loads(text)["name"] == outcome.run.name
    for path in (models, Path.cwd(), Path.home(), Path(pipeline.__file__).parent):
        assert str(path) not in text


def test_failed_gate_publishes_nothing(tmp_path: Path):
    with pytest.raises(GateFailed, match=r"test accuracy is .* below the required 1\.0000 by"):
        pipeline.run("penguins", tmp_path, SHORT)

    assert list(tmp_path.rglob("*")) == []


def test_models_folder_is_tried_before_the_data_is_touched(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")

    with pytest.raises(EnvironmentTrouble, match="cannot be written: Not a directory"):
        pipeline.run("digits", blocked / "models")


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("numbers", {}, "unknown run 'numbers'; known are digits, fashion, diamonds"),
        ("digits", {"speed": 1}, "unknown setting 'speed' .*; known are seed"),
    ],
)
def test_unknown_name_lists_the_known(
    tmp_path: Path, name: str, overrides: dict[str, object], message: str
):
    with pytest.raises(UsageError, match=message):
        pipeline.run(name, tmp_path, overrides)
