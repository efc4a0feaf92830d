"""A folder of pictures with a sub-folder for each class, as a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.config import RunConfig
from training.data.dataset import Dataset
from training.data.images import (
    IMAGE,
    SUFFIXES,
    Encoded,
    brought_to,
    check_broken,
    choose_format,
    image_dataset,
    image_field,
    listed,
    open_file,
    read_pictures,
    twins,
)
from training.errors import EnvironmentTrouble, UsageError
from training.tasks import Classification


@dataclass(frozen=True)
class Labelled:
    """A file and its class, an index into the labels."""

    path: Path
    target: int


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
        pictures = [Encoded(str(one.path), partial(open_file, one.path)) for one in files]
        field = image_field(IMAGE, choose_format(pictures, config.image_size))
        decoded = read_pictures(pictures, field, config)
    except OSError as error:
        raise EnvironmentTrouble(f"{error.filename or path}: {error.strerror}") from None
    check_broken(decoded.broken, len(files), config.broken_share)
    targets = np.array([files[place].target for place in decoded.readable], dtype=np.int64)
    check_classes(labels, targets, path)
    dataset = image_dataset(
        field,
        decoded.images,
        targets,
        Classification(labels),
        source=f"{len(targets):,} pictures of {len(labels)} classes, from a folder",
    )
    notes = [brought_to(field)]
    if decoded.broken:
        some = listed(decoded.broken)
        notes.append(f"{len(decoded.broken)} unreadable pictures are left out: {some}")
    if strangers:
        notes.append(f"{strangers} files beside them are neither PNG, JPEG nor WebP")
    return Pictures(dataset, (*notes, *twins(decoded.images)))


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
        if kept:
            why = f"the only class is {kept[0][0].name!r}, so that there is nothing to tell apart"
        else:
            why = "there is none"
        raise UsageError(
            f"{path} needs a folder for each class, at least two, with PNG, JPEG or WebP pictures; "
            + why
        )
    labels = tuple(folder.name for folder, _ in kept)
    return labels, [Labelled(f, i) for i, (_, fs) in enumerate(kept) for f in fs], strangers


def check_classes(labels: Sequence[str], targets: NDArray[np.int64], path: Path) -> None:
    """Raises UsageError where a class cannot be in all three splits."""
    for label, count in zip(labels, np.bincount(targets, minlength=len(labels)), strict=True):
        if count < 3:
            raise UsageError(
                f"class {label!r} has {count} readable pictures in {path / label}; at least 3 are "
                "needed, for training, validation and test"
            )
