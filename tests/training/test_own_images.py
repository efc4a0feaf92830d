"""A newcomer's road with pictures: a folder of JPEGs, one command, a served model, an answer."""

import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.api.live import LiveServer
from training.__main__ import main

pytestmark = [pytest.mark.training, pytest.mark.slow]


def stripes(seed: int, *, upright: bool) -> Image.Image:
    """Coloured stripes of a random width and size, some noise over them."""
    random = np.random.default_rng(seed)
    height, width = random.integers(24, 40, 2)
    along = np.arange(width if upright else height)
    line = 120 + 90 * np.sin(along / random.uniform(0.8, 1.6) + random.uniform(0, 6))
    grid = np.tile(line, (height, 1)) if upright else np.tile(line[:, None], (1, width))
    colours = grid[..., None] * random.uniform(0.5, 1, 3) + random.normal(0, 10, (height, width, 3))
    return Image.fromarray(colours.clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own") / "my stripes"
    for label, upright in (("standing", True), ("lying", False)):
        (root / label).mkdir(parents=True)
        for number in range(80):
            content = jpeg(stripes(number, upright=upright))
            (root / label / f"{number}.jpg").write_bytes(content)
    (root / "lying/cut off.jpg").write_bytes(content[:100])
    return root


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """What one command published, served."""
    models = tmp_path_factory.mktemp("models")
    settings = ["--set", "epochs=12", "--set", "gates=accuracy>=0.9", "--set", "variants=none"]
    assert main(["run", "--data", str(folder), "--models", str(models), *settings]) == 0
    with LiveServer(models, tmp_path_factory.mktemp("server") / "log") as running:
        yield running


def test_a_new_picture_is_told_by_its_folders_name(server: LiveServer):
    for seed in range(500, 510):
        for label, upright in (("standing", True), ("lying", False)):
            picture = base64.b64encode(jpeg(stripes(seed, upright=upright))).decode()
            answer = httpx.post(
                f"{server.url}/models/my-stripes/predict",
                json={"instances": [{"image": picture}]},
                trust_env=False,
            )

            assert answer.status_code == 200, answer.text
            assert answer.json()["predictions"][0]["label"] == label


def test_a_folder_without_classes_is_one_line_and_a_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["run", "--data", str(tmp_path), "--models", str(tmp_path / "models")]) == 2

    assert "has no sub-folder with pictures" in capsys.readouterr().err
    assert not list((tmp_path / "models").rglob("*"))
