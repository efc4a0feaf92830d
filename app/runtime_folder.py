"""What worker processes share while they run: a folder of figures and, if need be, of verdicts."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.errors import SettingsError
from app.settings import Settings


@contextmanager
def runtime_folder() -> Iterator[Path]:
    """A folder that is gone when the block ends; only this user can read it.

    Raises:
        SettingsError: there is no place for it.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="modelport-"))
    except OSError as error:
        raise SettingsError(
            "several workers need a temporary folder, and none can be written "
            f"({error.strerror}); set TMPDIR or MODELPORT_WORKERS=1"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def worker_options(settings: Settings, folder: Path) -> Sequence[str]:
    """What a worker is told beside the environment."""
    options = [
        *("--workers", str(settings.workers), "--models", str(settings.models)),
        *("--host", settings.host, "--port", str(settings.port), "--folder", str(folder)),
    ]
    if not _can_be_written(settings.cache_folder):
        # The first worker proves for all: the others must find what it found.
        options += ["--cache", str(folder / "cache")]
    return options


def _can_be_written(folder: Path | None) -> bool:
    if folder is None:
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
