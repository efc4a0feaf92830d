import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.bundle.features import image_from_bytes
from app.bundle.signature import ImageField
from training.config import RunConfig
from training.data.fashion_mnist import collect_fashion, read_idx
from training.data.image_folder import collect_folder, is_image_folder
from training.data.split import split_dataset
from training.errors import EnvironmentTrouble, UsageError
from training.preprocess.tensors import ImagePreprocess
from training.tasks import Classification

pytestmark = pytest.mark.training

SIDE = 12


def encoded(pixels: np.ndarray, form: str) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def picture(value: int, *, grey: bool = False) -> np.ndarray:
    shape = (SIDE, 2 * SIDE) if grey else (SIDE, 2 * SIDE, 3)
    return np.full(shape, value, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures each of two classes, in three formats, and one in a folder of its own."""
    root = tmp_path / "pets"
    for label, base in (("cat", 0), ("dog", 100)):
        (root / label / "more").mkdir(parents=True)
        for number, (name, form) in enumerate(
            [("a.png", "PNG"), ("b.jpg", "JPEG"), ("c.webp", "WEBP"), ("D.PNG", "PNG")]
        ):
            (root / label / name).write_bytes(encoded(picture(base + 10 * number), form))
        (root / label / "more/e.jpeg").write_bytes(encoded(picture(base + 50), "JPEG"))
    return root


def test_every_picture_is_what_serving_would_make_of_it(folder: Path):
    found = collect_folder(folder, RunConfig())
    dataset = found.dataset

    (field,) = dataset.fields
    assert isinstance(field, ImageField)
    assert (field.height, field.width, field.channels) == (SIDE, 2 * SIDE, 3)
    assert dataset.task == Classification(("cat", "dog"))
    assert dataset.targets.tolist() == [0] * 5 + [1] * 5
    names = ["D.PNG", "a.png", "b.jpg", "c.webp", "more/e.jpeg"]
    files = [folder / label / name for label in ("cat", "dog") for name in names]
    for image, file in zip(dataset.inputs["image"], files, strict=True):
        assert np.array_equal(image, image_from_bytes(file.read_bytes(), field))
    assert found.notes == ("brought to 12 × 24 pixels in colour",)


def test_grey_pictures_are_kept_grey_and_brought_to_the_size_that_is_asked_for(folder: Path):
    for file in folder.rglob("*.*"):
        file.unlink()
    for label, base in (("cat", 0), ("dog", 100)):
        for number in range(3):
            content = encoded(picture(base + number, grey=True), "PNG")
            (folder / label / f"{number}.png").write_bytes(content)

    dataset = collect_folder(folder, RunConfig(image_size=16)).dataset

    assert dataset.inputs["image"].shape == (6, 8, 16)
    assert dataset.specs[0].shape == ("batch", 8, 16)
    assert dataset.inputs["image"][:, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]


def test_unreadable_pictures_are_named_and_left_out(folder: Path):
    (folder / "cat/broken.png").write_bytes(b"no picture")
    (folder / "cat/notes.txt").write_text("not meant to be one")

    found = collect_folder(folder, RunConfig(broken_share=0.2))

    assert len(found.dataset.targets) == 10
    assert found.notes[1] == (
        f"1 unreadable pictures are left out: {folder}/cat/broken.png is not a readable PNG, JPEG "
        "or WebP picture"
    )
    assert found.notes[2] == "1 files beside them are neither PNG, JPEG nor WebP"
    with pytest.raises(UsageError, match=r"1 of 11 pictures are unreadable.*cat/broken\.png"):
        collect_folder(folder, RunConfig(broken_share=0.05))


def test_equal_pictures_are_counted(folder: Path):
    (folder / "cat/twin.png").write_bytes((folder / "cat/a.png").read_bytes())

    notes = collect_folder(folder, RunConfig()).notes

    assert any(note.startswith("1 pictures are the same as another") for note in notes)


def test_more_pictures_than_memory_shall_hold_are_the_same_from_a_file(folder: Path):
    resident, mapped = (
        collect_folder(folder, RunConfig(resident_mib=size)).dataset for size in (1, 0)
    )

    assert isinstance(mapped.inputs["image"].base, np.memmap)
    assert np.array_equal(mapped.inputs["image"], resident.inputs["image"])
    assert mapped.sha256 == resident.sha256


def test_one_class_is_an_error(folder: Path):
    (folder / "dog").rename(folder / ".dog")

    with pytest.raises(
        UsageError, match=r"a folder for each class, at least two.*the only class is 'cat', so"
    ):
        collect_folder(folder, RunConfig())


def test_a_class_of_two_is_an_error(folder: Path):
    for file in [*(folder / "dog").rglob("*.*")][2:]:
        file.unlink()

    with pytest.raises(UsageError, match=r"class 'dog' has 2 readable pictures"):
        collect_folder(folder, RunConfig())


def test_a_folder_of_pictures_is_told_from_others(folder: Path):
    assert is_image_folder(folder)
    assert not is_image_folder(folder / "cat/more")
    assert not is_image_folder(folder / "cat/a.png")


def test_colour_is_standardised_by_channel_and_comes_first():
    images = np.random.default_rng(0).integers(0, 256, (300, 4, 5, 3), dtype=np.uint8)
    images[..., 1] //= 4
    preprocess = ImagePreprocess("image", {"image": images}, maximum=255)

    (features,) = preprocess.features({"image": images})
    rows = preprocess(features)

    assert rows.shape == (300, 3, 4, 5)
    assert preprocess.shape == (3, 4, 5)
    assert rows.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-5)
    assert rows.std(dim=(0, 2, 3), correction=0).tolist() == pytest.approx([1] * 3, abs=1e-5)


def test_half_of_the_pictures_are_mirrored():
    images = np.arange(200 * 12, dtype=np.int64).reshape(200, 3, 4).astype(np.uint8)
    preprocess = ImagePreprocess("image", {"image": images}, maximum=255)
    features = preprocess.features({"image": images})

    (varied,) = preprocess.augment(features, RunConfig(flip=True), torch.Generator())

    same = (varied == features[0]).all(dim=(1, 2))
    mirrored = (varied == features[0].flip(2)).all(dim=(1, 2))
    assert (same ^ mirrored).all()
    assert 70 < int(mirrored.sum()) < 130


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(head + array.tobytes())


def test_the_test_rows_of_fashion_mnist_are_its_own(tmp_path: Path):
    random = np.random.default_rng(0)
    for part, rows in (("train", 200), ("t10k", 30)):
        images = random.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", images)
        labels = np.arange(rows, dtype=np.uint8) % 10
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", labels)

    dataset = collect_fashion(tmp_path)
    split = split_dataset(dataset, RunConfig(validation_share=0.1))

    assert (len(split.train), len(split.validation), len(split.test)) == (180, 20, 30)
    assert np.array_equal(split.test.inputs["image"], images)
    assert split.test.targets.tolist() == (np.arange(30) % 10).tolist()
    assert np.bincount(split.validation.targets).tolist() == [2] * 10


def test_missing_and_damaged_files_say_what_to_do(tmp_path: Path):
    with pytest.raises(EnvironmentTrouble, match="apt install dataset-fashion-mnist"):
        collect_fashion(tmp_path)

    write_idx(tmp_path / "short", np.zeros((3, 4), dtype=np.uint8))
    (tmp_path / "short").write_bytes((tmp_path / "short").read_bytes()[:-1])
    with pytest.raises(EnvironmentTrouble, match="short is damaged; install it again"):
        read_idx(tmp_path, "short")
    (tmp_path / "other").write_bytes(b"<html>")
    with pytest.raises(EnvironmentTrouble, match="other is not an IDX file of bytes"):
        read_idx(tmp_path, "other")
