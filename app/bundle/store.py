"""The model repository: folders `<name>/<version>/` in which published bundles lie.

Publishing is atomic: a version is written beside its place and renamed into it, so that a reader
sees the old state or the complete new version, whatever happens to the writer. A published
version is never changed.
"""

import hashlib
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from app.bundle.files import is_real_folder, read_plain_file, sync_folder, write_synced
from app.bundle.golden import Golden, load_golden
from app.bundle.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    MODEL_NAME_PATTERN,
    VERSION_PATTERN,
    FileRecord,
    Manifest,
    Precision,
    parse_manifest,
)
from app.bundle.pins import STAGING_PREFIX, read_pin
from app.errors import (
    BundleCorrupt,
    BundleError,
    PinRefused,
    PublishFailed,
)

_STALE_STAGING_S: Final = 24 * 3600
_VERSIONS_TRIED: Final = 100
_VERSIONS_TOLD: Final = 10


@dataclass(frozen=True)
class ModelFolder:
    """One model of the repository, as found on disk; nothing in it has been read but the pin."""

    name: str
    path: Path
    #: Newest first. A folder without a manifest is not listed: it is still being written.
    versions: tuple[int, ...]
    pin: int | None = None
    #: Why the pin that is there cannot be read; such a model is not served.
    pin_problem: str = ""
    #: What a person should know besides.
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """A version whose manifest was read; its files are verified as they are opened."""

    path: Path
    manifest: Manifest
    #: sha256 of the manifest, which holds the sha256 of every other file.
    digest: str

    def read(self, file_name: str) -> bytes:
        """The bytes of a file, checked against the manifest.

        Raises:
            BundleIncomplete, BundleCorrupt: they are not the bytes that were published.
        """
        record = self.manifest.files.get(file_name)
        if record is None:
            raise BundleCorrupt(f"{file_name} is not in the manifest")
        data = read_plain_file(self.path / file_name, record.size_bytes)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise BundleCorrupt(f"{file_name} has another sha256 than the manifest says")
        return data

    # Read, hashed and parsed once: opening a model asks for these several times.
    @cached_property
    def _models(self) -> dict[Precision, bytes]:
        return {}

    @cached_property
    def _golden(self) -> Golden:
        return load_golden(self.read(GOLDEN_FILE))

    def model(self, precision: Precision = "fp32") -> bytes:
        """The ONNX file of one of the bundle's graphs. Raises as `read` does."""
        if precision not in self._models:
            self._models[precision] = self.read(self.manifest.model_file(precision))
        return self._models[precision]

    def golden(self) -> Golden:
        """The golden rows. Raises as `read` and `load_golden` do."""
        return self._golden


def scan(root: Path) -> tuple[ModelFolder, ...]:
    """The models of a repository, by name.

    Raises:
        BundleError: the repository is missing or cannot be read.
    """
    try:
        entries = sorted(root.iterdir())
    except FileNotFoundError:
        raise BundleError("the model repository does not exist") from None
    except NotADirectoryError:
        raise BundleError("the model repository is not a folder") from None
    except OSError as error:
        raise BundleError(f"the model repository cannot be read: {error.strerror}") from None
    return tuple(
        _scan_model(entry)
        for entry in entries
        if re.fullmatch(MODEL_NAME_PATTERN, entry.name) and is_real_folder(entry)
    )


def _scan_model(path: Path) -> ModelFolder:
    problems: list[str] = []
    versions: list[int] = []
    try:
        for entry in path.iterdir():
            if not re.fullmatch(VERSION_PATTERN, entry.name) or not is_real_folder(entry):
                continue
            if (entry / MANIFEST_FILE).is_file():
                versions.append(int(entry.name))
            else:
                problems.append(f"version {entry.name} has no {MANIFEST_FILE} (yet)")
    except OSError as error:
        problems.append(f"folder cannot be read: {error.strerror}")
    pin, pin_problem = None, ""
    try:
        pin = read_pin(path)
    except BundleError as error:
        pin_problem = str(error)
    found = tuple(sorted(versions, reverse=True))
    return ModelFolder(path.name, path, found, pin, pin_problem, tuple(problems))


def open_bundle(model_path: Path, version: int) -> Bundle:
    """Read a version's manifest and check that it belongs where it lies.

    Raises:
        BundleError: what is wrong with it.
    """
    path = model_path / str(version)
    raw = read_plain_file(path / MANIFEST_FILE, None)
    manifest = parse_manifest(raw)
    if (manifest.name, manifest.version) != (model_path.name, version):
        raise BundleCorrupt(
            f"manifest is of {manifest.name} version {manifest.version}, "
            f"but lies in {model_path.name}/{version}"
        )
    for needed in (MODEL_FILE, GOLDEN_FILE):
        if needed not in manifest.files:
            raise BundleCorrupt(f"manifest lists no {needed}")
    return Bundle(path, manifest, hashlib.sha256(raw).hexdigest())


#: Name, inode, size in bytes and time of the last change in ns of each file of a folder.
Fingerprint = tuple[tuple[str, int, int, int], ...]


def fingerprint(path: Path) -> Fingerprint:
    """What a folder looks like from outside; another one where anything in it has changed."""
    found: list[tuple[str, int, int, int]] = []
    try:
        for entry in path.iterdir():
            status = entry.lstat()
            found.append((entry.name, status.st_ino, status.st_size, status.st_mtime_ns))
    except OSError:
        return ()
    return tuple(sorted(found))


def manifest_digest(model_path: Path, version: int) -> str:
    """The digest of a version as it lies there now; empty where it cannot be read."""
    try:
        raw = read_plain_file(model_path / str(version) / MANIFEST_FILE, None)
    except BundleError:
        return ""
    return hashlib.sha256(raw).hexdigest()


def check_pinnable(folder: ModelFolder, version: int) -> None:
    """A version that is to be pinned must be there, and whole.

    Raises:
        PinRefused: why it cannot be pinned.
    """
    if version not in folder.versions:
        there = ", ".join(map(str, folder.versions[:_VERSIONS_TOLD])) or "none"
        raise PinRefused(f"version {version} of {folder.name} is not published; there are: {there}")
    try:
        verify(open_bundle(folder.path, version))
    except BundleError as error:
        raise PinRefused(f"version {version} of {folder.name} cannot serve: {error}") from None


def verify(bundle: Bundle) -> None:
    """Check every file of the bundle against the manifest.

    Raises:
        BundleError: the first file that differs, and how.
    """
    bundle.model()
    bundle.golden()
    for name in bundle.manifest.files.keys() - {MODEL_FILE, GOLDEN_FILE}:
        bundle.read(name)


def publish(
    root: Path,
    name: str,
    files: Mapping[str, bytes],
    manifest_for: Callable[[int], Manifest],
    describe: Callable[[Manifest], Mapping[str, bytes]] = lambda _: {},
) -> Bundle:
    """Write the next version of a model, completely or not at all.

    Two publishers at once get two versions.

    Args:
        files: the parts that do not depend on the version number: model, golden, variants.
        manifest_for: the manifest for a version number; its `files` are filled in here.
        describe: the parts made for people from the manifest (card, report).
    Raises:
        PublishFailed: bad name, no room, no permission; nothing of it stays visible.
    """
    if not re.fullmatch(MODEL_NAME_PATTERN, name):
        raise PublishFailed(f"model name {name!r} does not match {MODEL_NAME_PATTERN}")
    model_path = root / name
    staging = model_path / f"{STAGING_PREFIX}{uuid.uuid4().hex}"
    try:
        model_path.mkdir(parents=True, exist_ok=True)
        sync_folder(root)  # so that a new model's own folder lasts
        _remove_stale_staging(model_path)
        staging.mkdir()
        for file_name, data in files.items():
            write_synced(staging / file_name, data)
        version = _commit(model_path, staging, files, manifest_for, describe)
    except OSError as error:
        raise PublishFailed(f"cannot publish {name}: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return open_bundle(model_path, version)


def _commit(
    model_path: Path,
    staging: Path,
    files: Mapping[str, bytes],
    manifest_for: Callable[[int], Manifest],
    describe: Callable[[Manifest], Mapping[str, bytes]],
) -> int:
    """Finish the staged folder as the next free version and rename it into place."""
    for _ in range(_VERSIONS_TRIED):
        version = _next_version(model_path)
        manifest = manifest_for(version)
        papers = describe(manifest)
        for file_name, data in papers.items():
            write_synced(staging / file_name, data)
        records = {
            file_name: FileRecord(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for file_name, data in {**files, **papers}.items()
        }
        complete = manifest.model_copy(update={"files": records})
        write_synced(staging / MANIFEST_FILE, complete.to_json())
        sync_folder(staging)
        try:
            # Fails where the target holds anything: another publisher took the number.
            staging.rename(model_path / str(version))
        except OSError:
            if not (model_path / str(version)).exists():
                raise
            continue
        try:
            sync_folder(model_path)
        except OSError:
            # What is answered as failed must not stay visible.
            (model_path / str(version)).rename(staging)
            raise
        return version
    raise PublishFailed(f"cannot publish {model_path.name}: no free version number found")


def _next_version(model_path: Path) -> int:
    taken = [int(p.name) for p in model_path.iterdir() if re.fullmatch(VERSION_PATTERN, p.name)]
    return max(taken, default=0) + 1


def _remove_stale_staging(model_path: Path) -> None:
    """Clear what killed publishers left; a young folder may belong to one that is at work."""
    for entry in model_path.glob(f"{STAGING_PREFIX}*"):
        try:
            if time.time() - entry.lstat().st_mtime <= _STALE_STAGING_S:
                continue
            if is_real_folder(entry):
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
        except OSError:
            continue
