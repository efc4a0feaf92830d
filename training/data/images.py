"""A folder of pictures with a sub-folder for each class, as a data set.

Every picture is decoded and resized by the function that serving uses, so that both give the same
array; the graph takes that array as it is, uint8.
"""

import hashlib
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.bundle.features import FeatureError, image_from_bytes
from app.bundle.signature import ImageField, TensorSpec
from training.config import RunConfig
from training.data.dataset import Dataset
from training.errors import EnvironmentTrouble, UsageError
from training.tasks import Classification

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})
#: The longer side of what is taken from the data, in pixels.
LARGEST: Final = 128
SMALLEST: Final = 8
#: Pictures of which the size and colours are looked at to choose what all are brought to.
LOOKED_AT: Final = 500
#: Numbers of a picture that is shown as an example; larger ones nobody reads.
SHOWN: Final = 4096
#: Broken pictures that are named; the rest is counted.
NAMED: Final = 5
_GREY_MODES: Final = frozenset({"1", "L", "LA", "I", "I;16", "F"})


@dataclass(frozen=True)
class Labelled:
    """A file and its class, an index into the labels."""

    path: Path
    target: int


@dataclass(frozen=True)
class Format:
    """What all pictures are brought to, in pixels, and whether without colour."""

    height: int
    width: int
    is_grey: bool


@dataclass(frozen=True)
class Broken:
    """A file that is left out, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


@dataclass(frozen=True)
class Pictures:
    """What came of the files: the data set, and what a person should know of them."""

    dataset: Dataset
    notes: tuple[str, ...]


def is_image_folder(path: Path) -> bool:
    """Whether it is a folder with sub-folders of which one has a picture at its top."""
    return path.is_dir() and any(
        file.suffix.lower() in SUFFIXES
        for folder in path.iterdir()
        if folder.is_dir() and not folder.name.startswith(".")
        for file in folder.iterdir()
    )


def collect_folder(path: Path, config: RunConfig) -> Pictures:
    """Input `image`: uint8 [rows, height, width], with a last dim of 3 where there is colour.

    Raises:
        UsageError: less than two classes, a class with less than three pictures, or more
            unreadable ones than `broken_share`; the message names the first.
        EnvironmentTrouble: the folder cannot be read, or the disk takes no more.
    """
    try:
        labels, files, strangers = find_files(path)
        field = _field(choose_format([one.path for one in files], config.image_size))
        images, broken = read_pictures([one.path for one in files], field, config)
    except OSError as error:
        raise EnvironmentTrouble(f"{error.filename or path}: {error.strerror}") from None
    left_out = {one.path for one in broken}
    good = [one for one in files if one.path not in left_out]
    check_broken(broken, len(files), config.broken_share)
    targets = np.array([one.target for one in good], dtype=np.int64)
    check_classes(labels, targets, path)
    if images[0].size <= SHOWN:
        field = field.model_copy(update={"example": _nested(images[0])})
    shape = ("batch", *field.shape)
    description = "grey values" if field.channels == 1 else "red, green and blue values"
    dataset = Dataset(
        source=f"{len(good):,} pictures of {len(labels)} classes, from a folder",
        specs=(TensorSpec(name="image", datatype="UINT8", shape=shape, description=description),),
        fields=(field,),
        inputs={"image": images},
        targets=targets,
        task=Classification(labels),
    )
    return Pictures(dataset, _notes(field, broken, strangers, good, images))


def find_files(path: Path) -> tuple[tuple[str, ...], list[Labelled], int]:
    """Labels, pictures by label and name, and how many other files lie among them.

    A class is a sub-folder; pictures may lie at any depth in it.
    """
    folders = sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))
    found: list[list[Path]] = []
    strangers = 0
    for folder in folders:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        files = [file for file in files if not file.name.startswith(".")]
        pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
        strangers += len(files) - len(pictures)
        found.append(pictures)
    kept = [(folder, files) for folder, files in zip(folders, found, strict=True) if files]
    if len(kept) < 2:
        raise UsageError(
            f"{path} needs a folder for each class, at least two, with PNG, JPEG or WebP pictures; "
            f"found {', '.join(folder.name for folder, _ in kept) or 'none'}"
        )
    labels = tuple(folder.name for folder, _ in kept)
    return labels, [Labelled(f, i) for i, (_, fs) in enumerate(kept) for f in fs], strangers


def choose_format(paths: Sequence[Path], longer_side: int) -> Format:
    """The middle height and width of some pictures, made smaller so that the longer side is at most
    `longer_side`, or `LARGEST` where that is 0; grey only if all of them are."""
    some = paths[:: max(1, len(paths) // LOOKED_AT)]
    heights: list[int] = []
    widths: list[int] = []
    modes: set[str] = set()
    for path in some:
        try:
            with Image.open(path) as picture:  # reads the head alone
                # A camera held upright notes it beside a lying picture.
                turned = picture.getexif().get(0x0112, 1) >= 5
                width, height = picture.size[::-1] if turned else picture.size
                modes.add(picture.mode)
        except Exception:  # noqa: S112, it is reported where it is decoded
            continue
        heights.append(height)
        widths.append(width)
    if not heights:
        raise UsageError(f"none of the pictures can be read, such as {some[0]}")
    tall, wide = statistics.median(heights), statistics.median(widths)
    scale = (longer_side or min(LARGEST, max(tall, wide))) / max(tall, wide)
    return Format(
        height=max(SMALLEST, round(tall * scale)),
        width=max(SMALLEST, round(wide * scale)),
        is_grey=modes <= _GREY_MODES,
    )


def read_pictures(
    paths: Sequence[Path], field: ImageField, config: RunConfig
) -> tuple[NDArray[np.uint8], list[Broken]]:
    """uint8 [readable pictures, *field.shape] in the order of the paths, and the others.

    In a file without a name where they have more than `resident_mib`.
    """
    images = _room((len(paths), *field.shape), config.resident_mib)
    broken = []
    count = 0

    def read(path: Path) -> NDArray[np.uint8] | Broken:
        try:
            return image_from_bytes(path.read_bytes(), field)
        except FeatureError as error:
            return Broken(path, str(error))
        except OSError as error:
            return Broken(path, f"cannot be read: {error.strerror}")

    with ThreadPoolExecutor(max(1, config.threads)) as pool:  # decoding lets other threads run
        for start in range(0, len(paths), LOOKED_AT):
            for answer in pool.map(read, paths[start : start + LOOKED_AT]):
                if isinstance(answer, Broken):
                    broken.append(answer)
                else:
                    images[count] = answer
                    count += 1
    return images[:count], broken


def _room(shape: tuple[int, ...], resident_mib: int) -> NDArray[np.uint8]:
    """In memory, or in a file that goes with the process."""
    size_bytes = int(np.prod(shape, dtype=np.int64))
    if size_bytes <= resident_mib * 2**20:
        return np.empty(shape, dtype=np.uint8)
    with tempfile.TemporaryFile(prefix="modelport-") as file:
        os.posix_fallocate(file.fileno(), 0, size_bytes)  # a full disk is an error here, not later
        return np.memmap(file, dtype=np.uint8, mode="r+", shape=shape)


def check_broken(broken: Sequence[Broken], files: int, share: float) -> None:
    """Raises UsageError where more than this share of the files is unreadable."""
    if len(broken) > share * files:
        raise UsageError(
            f"{len(broken)} of {files} pictures are unreadable, more than broken_share={share:g}: "
            + _listed(broken)
        )


def check_classes(labels: Sequence[str], targets: NDArray[np.int64], path: Path) -> None:
    """Raises UsageError where a class cannot be in all three splits."""
    for label, count in zip(labels, np.bincount(targets, minlength=len(labels)), strict=True):
        if count < 3:
            raise UsageError(
                f"class {label!r} has {count} readable pictures in {path / label}; at least 3 are "
                "needed, for training, validation and test"
            )


def _notes(
    field: ImageField,
    broken: Sequence[Broken],
    strangers: int,
    good: Sequence[Labelled],
    images: NDArray[np.uint8],
) -> tuple[str, ...]:
    colours = "grey" if field.channels == 1 else "colour"
    notes = [f"brought to {field.height} × {field.width} pixels in {colours}"]
    if broken:
        notes.append(f"{len(broken)} unreadable pictures are left out: {_listed(broken)}")
    if strangers:
        notes.append(f"{strangers} files beside them are neither PNG, JPEG nor WebP")
    digests = Counter(hashlib.sha256(image.tobytes()).digest() for image in images)
    twins = len(good) - len(digests)
    if twins:
        notes.append(
            f"{twins} pictures are the same as another; the test rows may hold what was trained on"
        )
    return tuple(notes)


def _listed(broken: Sequence[Broken]) -> str:
    more = len(broken) - NAMED
    named = "; ".join(map(str, broken[:NAMED]))
    return f"{named}; and {more} more" if more > 0 else named


def _field(chosen: Format) -> ImageField:
    return ImageField(
        name="image",
        tensor="image",
        height=chosen.height,
        width=chosen.width,
        channels=1 if chosen.is_grey else 3,
        description=(
            "A PNG, JPEG or WebP file in base64, of any size, or nested numbers [row][column]"
            + ("" if chosen.is_grey else "[red, green, blue]")
        ),
    )


def _nested(image: NDArray[np.uint8]) -> tuple[object, ...]:
    return tuple(_nested(part) if part.ndim > 1 else tuple(part.tolist()) for part in image)
