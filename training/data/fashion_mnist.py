"""Fashion-MNIST: 70,000 grey pictures of clothes, 28 × 28 pixels, ten classes of equal size.

Installed from a Debian package as IDX files, a format that is a head of big-endian numbers and
then the values (described at the end of http://yann.lecun.com/exdb/mnist/).
"""

import gzip
import math
import struct
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.bundle.signature import ImageField, TensorSpec
from training.data.dataset import Dataset
from training.errors import EnvironmentTrouble
from training.tasks import Classification

SOURCE: Final = "Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747; MIT)"
FOLDER: Final = Path("/usr/share/datasets/fashion-mnist")
PACKAGE: Final = "dataset-fashion-mnist"
LABELS: Final = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIDE: Final = 28
#: The third byte of an IDX file where its values are unsigned bytes.
_UNSIGNED_BYTES: Final = 8


def collect_fashion(folder: Path = FOLDER) -> Dataset:
    """Input `image`: uint8 [70000, 28, 28]; the last 10,000 rows are the set's own test rows.

    Raises:
        EnvironmentTrouble: the files are not there, or damaged.
    """
    parts = [
        (
            read_idx(folder, f"{part}-images-idx3-ubyte"),
            read_idx(folder, f"{part}-labels-idx1-ubyte"),
        )
        for part in ("train", "t10k")
    ]
    images = np.concatenate([images for images, _ in parts])
    targets = np.concatenate([labels for _, labels in parts]).astype(np.int64)
    spec = TensorSpec(
        name="image",
        datatype="UINT8",
        shape=("batch", SIDE, SIDE),
        description="grey values, 0 (background) to 255",
    )
    field = ImageField(
        name="image",
        tensor="image",
        height=SIDE,
        width=SIDE,
        description=(
            "One piece of clothing, light on black: nested numbers [row][column], "
            "or a PNG, JPEG or WebP file in base64"
        ),
        example=tuple(tuple(row) for row in images[0].tolist()),
    )
    return Dataset(
        source=SOURCE,
        specs=(spec,),
        fields=(field,),
        inputs={"image": images},
        targets=targets,
        task=Classification(LABELS),
        test_rows=np.arange(len(parts[0][0]), len(images), dtype=np.int64),
    )


def read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """Unsigned bytes of an IDX file, compressed (`.gz`) or not, in the shape that it says.

    Raises:
        EnvironmentTrouble: the file is missing, or not as long as it says.
    """
    packed, plain = folder / f"{name}.gz", folder / name
    try:
        content = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    except FileNotFoundError:
        raise EnvironmentTrouble(
            f"{packed} is missing; install Fashion-MNIST by: apt install {PACKAGE} (Debian and "
            f"Ubuntu), or put its four files into {folder}"
        ) from None
    except (OSError, EOFError) as error:
        raise EnvironmentTrouble(f"{packed} cannot be read: {error}") from None
    zeros, kind, dimensions = struct.unpack_from(">HBB", content.ljust(4, b"\xff"))
    head = 4 + 4 * dimensions
    if zeros or kind != _UNSIGNED_BYTES or len(content) < head:
        raise EnvironmentTrouble(f"{folder / name} is not an IDX file of bytes; install it again")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    if len(content) != head + math.prod(shape):
        raise EnvironmentTrouble(f"{folder / name} is damaged; install it again")
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape)
