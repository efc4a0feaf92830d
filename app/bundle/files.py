"""Files of the repository: read only when plain, written so that they outlast a crash."""

import os
import stat
from pathlib import Path
from typing import Final

from app.errors import BundleCorrupt, BundleIncomplete

#: Of files whose size nothing says: manifests and pins.
MAX_SMALL_BYTES: Final = 16 * 2**20


def read_plain_file(path: Path, size_bytes: int | None) -> bytes:
    """Read a file that is neither a link nor a device.

    Args:
        size_bytes: what it must have; None means "a small one".
    Raises:
        BundleIncomplete: it is missing or short.
        BundleCorrupt: it is something else than such a file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BundleIncomplete(f"{path.name} is missing") from None
    except OSError as error:
        raise BundleCorrupt(f"{path.name} cannot be opened: {error.strerror}") from None
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        os.close(descriptor)
        raise BundleCorrupt(f"{path.name} is a folder")
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise BundleCorrupt(f"{path.name} is not a plain file with one name")
        limit = MAX_SMALL_BYTES if size_bytes is None else size_bytes
        if status.st_size > limit:
            raise BundleCorrupt(f"{path.name} has {status.st_size} bytes, at most {limit} expected")
        if size_bytes is not None and status.st_size < size_bytes:
            raise BundleIncomplete(f"{path.name} has {status.st_size} of {size_bytes} bytes")
        return file.read(limit + 1)


def is_real_folder(path: Path) -> bool:
    """Whether it is a folder and no link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
