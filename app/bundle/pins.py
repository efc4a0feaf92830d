"""`serve.json`: the version of a model that must serve, whatever else is published.

It is replaced as a whole, so a reader sees the old pin or the new one, whatever happens to the
writer.
"""

import errno
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.bundle.files import read_plain_file, sync_folder, write_synced
from app.errors import BundleCorrupt, BundleIncomplete, PublishFailed, RepositoryReadOnly

PIN_FILE: Final = "serve.json"
#: Of what is still being written; a killed writer leaves such a file behind.
STAGING_PREFIX: Final = ".tmp-"
_FORBIDDEN: Final = (errno.EROFS, errno.EACCES, errno.EPERM)


class Pin(BaseModel):
    """`serve.json`: serve this version, whatever else is there."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: int = Field(ge=1)


def read_pin(model_path: Path) -> int | None:
    """The pinned version, or None where nothing is pinned.

    Raises:
        BundleCorrupt: `serve.json` is there but does not say `{"version": N}`.
    """
    try:
        raw = read_plain_file(model_path / PIN_FILE, None)
    except BundleIncomplete:
        return None
    try:
        return Pin.model_validate_json(raw, strict=True).version
    except ValidationError:
        raise BundleCorrupt(f'{PIN_FILE} must hold {{"version": N}}') from None


def write_pin(model_path: Path, version: int) -> None:
    """Pin a version; whether it is there is for the caller to know.

    Raises:
        RepositoryReadOnly: this process may not write there.
        PublishFailed: it could not be written; the old pin, or none, is still there.
    """
    staged = model_path / f"{STAGING_PREFIX}{uuid.uuid4().hex}"
    with _translated(model_path.name):
        try:
            write_synced(staged, Pin(version=version).model_dump_json().encode() + b"\n")
            staged.replace(model_path / PIN_FILE)
            sync_folder(model_path)
        finally:
            staged.unlink(missing_ok=True)


def remove_pin(model_path: Path) -> None:
    """Remove the pin; there need not be one.

    Raises:
        RepositoryReadOnly: this process may not write there.
        PublishFailed: it could not be removed.
    """
    with _translated(model_path.name):
        (model_path / PIN_FILE).unlink(missing_ok=True)
        sync_folder(model_path)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FORBIDDEN:
            raise RepositoryReadOnly(
                f"the model repository cannot be written here: {error.strerror}"
            ) from None
        raise PublishFailed(f"the pin of {name} cannot be written: {error.strerror}") from None
