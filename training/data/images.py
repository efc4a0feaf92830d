"""Pictures as a data set: read, brought to one form, the unreadable ones named.

Every picture is decoded and resized by the function that serving uses, so that both give the same
array; the graph takes that array as it is, uint8.
"""

import errno
import hashlib
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.bundle.features import FeatureError, image_from_bytes
from app.bundle.signature import ImageField, TensorSpec
from app.bundle.tensors import Array
from training.config import RunConfig
from training.data.dataset import Dataset, Indices
from training.errors import UsageError
from training.tasks import Targets, Task

#: The graph's input.
IMAGE: Final = "image"
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
class Encoded:
    """A picture as it comes: how its owner finds it, and its file."""

    name: str
    open: Callable[[], BinaryIO]


def open_file(path: Path) -> BinaryIO:
    """Raises OSError: it is not there, or not a file."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    return path.open("rb")


@dataclass(frozen=True)
class Format:
    """What all pictures are brought to, in pixels, and whether without colour."""

    height: int
    width: int
    is_grey: bool


@dataclass(frozen=True)
class Broken:
    """A picture that is left out, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} {self.reason}"


@dataclass(frozen=True)
class Decoded:
    """What came of encoded pictures.

    Attributes:
        images: uint8 [readable pictures, *field.shape], in the order in which they came.
        readable: int64 [readable pictures], their places among all.
        broken: the others.
    """

    images: NDArray[np.uint8]
    readable: Indices
    broken: tuple[Broken, ...]


def image_dataset(
    field: ImageField,
    images: NDArray[np.uint8],
    targets: Targets,
    task: Task,
    *,
    source: str,
    keys: Mapping[str, Array] | None = None,
) -> Dataset:
    """Input `image`: uint8 [rows, *field.shape]. The first picture is the example, if small."""
    if images[0].size <= SHOWN:
        field = field.model_copy(update={"example": _nested(images[0])})
    about = "grey values" if field.channels == 1 else "red, green and blue values"
    shape = ("batch", *field.shape)
    spec = TensorSpec(name=IMAGE, datatype="UINT8", shape=shape, description=about)
    return Dataset(source, (spec,), (field,), {IMAGE: images}, targets, task, keys=keys or {})


def choose_format(pictures: Sequence[Encoded], longer_side: int) -> Format:
    """The middle height and width of some pictures, made smaller so that the longer side is at most
    `longer_side`, or `LARGEST` where that is 0; grey only if all of them are.

    Raises:
        UsageError: none of them can be read.
    """
    some = pictures[:: max(1, len(pictures) // LOOKED_AT)]
    heights: list[int] = []
    widths: list[int] = []
    modes: set[str] = set()
    broken: list[Broken] = []
    for one in some:
        try:
            with one.open() as file, Image.open(file) as picture:  # reads the head alone
                # A camera held upright notes it beside a lying picture.
                turned = picture.getexif().get(0x0112, 1) >= 5
                width, height = picture.size[::-1] if turned else picture.size
                modes.add(picture.mode)
        except Exception as error:
            broken.append(Broken(one.name, _reason(error)))
            continue
        heights.append(height)
        widths.append(width)
    if not heights:
        raise UsageError(f"none of the pictures can be read: {listed(broken)}")
    tall, wide = statistics.median(heights), statistics.median(widths)
    scale = (longer_side or min(LARGEST, max(tall, wide))) / max(tall, wide)
    return Format(
        height=max(SMALLEST, round(tall * scale)),
        width=max(SMALLEST, round(wide * scale)),
        is_grey=modes <= _GREY_MODES,
    )


def read_pictures(pictures: Sequence[Encoded], field: ImageField, config: RunConfig) -> Decoded:
    """Decode all; in a file without a name where they have more than `resident_mib`."""
    images = _room((len(pictures), *field.shape), config.resident_mib)
    broken: list[Broken] = []
    readable: list[int] = []

    def read(one: Encoded) -> NDArray[np.uint8] | Broken:
        try:
            with one.open() as file:
                return image_from_bytes(file.read(), field)
        except (OSError, ValueError) as error:
            return Broken(one.name, _reason(error))

    with ThreadPoolExecutor(max(1, config.threads)) as pool:  # decoding lets other threads run
        for start in range(0, len(pictures), LOOKED_AT):
            answers = pool.map(read, pictures[start : start + LOOKED_AT])
            for place, answer in enumerate(answers, start):
                if isinstance(answer, Broken):
                    broken.append(answer)
                else:
                    images[len(readable)] = answer
                    readable.append(place)
    places = np.array(readable, dtype=np.int64)
    return Decoded(images[: len(places)], places, tuple(broken))


def _reason(error: Exception) -> str:
    match error:
        case FeatureError():
            return str(error)
        case OSError(strerror=str(said)):
            return f"cannot be read: {said}"
        case ValueError():  # a NUL
            return "is no name of a file"
        case _:
            return "is not a readable PNG, JPEG or WebP picture"


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
            + listed(broken)
        )


def brought_to(field: ImageField) -> str:
    """The form of all pictures, for people."""
    colours = "grey" if field.channels == 1 else "colour"
    return f"brought to {field.height} × {field.width} pixels in {colours}"


def twins(images: NDArray[np.uint8]) -> tuple[str, ...]:
    """A note where pictures are met twice."""
    count = len(images) - len({hashlib.sha256(image.tobytes()).digest() for image in images})
    if not count:
        return ()
    return (
        f"{count} pictures are the same as another; the test rows may hold what was trained on",
    )


def listed(broken: Sequence[Broken]) -> str:
    """Some of them, with the reasons."""
    more = len(broken) - NAMED
    named = "; ".join(map(str, broken[:NAMED]))
    return f"{named}; and {more} more" if more > 0 else named


def image_field(name: str, chosen: Format) -> ImageField:
    return ImageField(
        name=name,
        tensor=IMAGE,
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
