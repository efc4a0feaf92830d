"""The figures of all workers, in files of one folder.

Each worker writes its own file; the supervisor adds the file of a worker that has ended to the file
`retired.json`, which names the workers that are in it, and deletes it only then. Who reads takes
the workers' files first and `retired.json` last, and leaves out every worker that it names. If the
reader finds a worker named there, its figures are in `retired.json`, whether its file was still
read or not. If not, the worker was added later than that reading, so its file was deleted later
still, and was there to be read before. Either way it counts once.
"""

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from app.ops.families import RESTARTS
from app.ops.snapshot import Snapshot, merge, read_document, retire, write_document

logger = logging.getLogger(__name__)

_RETIRED: Final = "retired.json"
_WORKER: Final = re.compile(r"worker-(\d+)\.json")
#: A reading takes milliseconds; a worker's number must be remembered for longer than that.
_KEPT_NUMBERS: Final = 1000
_RESTARTED: Final = Snapshot({RESTARTS.name: {(): (1,)}})


class Scoreboard:
    """The view of one worker: it writes its own figures and reads those of all.

    Safe to use from several threads.

    Args:
        folder: exists, and is this service's alone.
        number: of this worker; a worker that replaces it has another.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number
        self._lock = threading.Lock()
        self._sequence = 0
        self._written = b""
        self._failed = False
        self._closed = False

    def post(self, own: Snapshot) -> None:
        """Write the figures of this worker, where they have changed. Never fails."""
        with self._lock:
            # Threads may come here in another order than that in which the snapshots were made.
            if own.sequence <= self._sequence or self._closed:
                return
            self._sequence = own.sequence
            document = write_document(own)
            if document == self._written:
                return
            try:
                _replace(_file(self._folder, self._number), document)
            except OSError as error:
                self._say_once(error)
                return
            self._written, self._failed = document, False

    def _say_once(self, error: OSError) -> None:
        if not self._failed:
            logger.warning("cannot write the figures", extra={"error": error.strerror})
        self._failed = True

    def merged(self, own: Snapshot) -> Snapshot:
        """The figures of all workers, `own` for this one."""
        self.post(own)
        others = dict(self._others())
        retired, numbers = _read(self._folder / _RETIRED) or (Snapshot(), [])
        living = (snapshot for number, snapshot in others.items() if number not in numbers)
        return merge((retired, own, *living))

    def _others(self) -> Iterator[tuple[int, Snapshot]]:
        for path in sorted(self._folder.glob("worker-*.json")):
            match = _WORKER.fullmatch(path.name)
            if match is not None and int(match[1]) != self._number:
                found = _read(path)
                if found is not None:
                    yield int(match[1]), found[0]

    def close(self) -> None:
        """Write no more: the folder is about to go."""
        with self._lock:
            self._closed = True


def fold(folder: Path, number: int, *, restarted: bool) -> None:
    """Count a worker that has ended among the retired. Only the supervisor does this.

    Args:
        restarted: another worker takes its place.
    Raises:
        OSError: the folder cannot be written; the worker's file counts as before.
    """
    path = _file(folder, number)
    retired, numbers = _read(folder / _RETIRED) or (Snapshot(), [])
    ended, _ = _read(path) or (Snapshot(), [])
    total = retire(retired, ended)
    if restarted:
        total = merge((total, _RESTARTED))
    numbers = [*numbers, number][-_KEPT_NUMBERS:]
    _replace(folder / _RETIRED, write_document(total, numbers))
    path.unlink(missing_ok=True)
    _temporary(path).unlink(missing_ok=True)  # it may have been killed while it wrote


def _file(folder: Path, number: int) -> Path:
    return folder / f"worker-{number}.json"


def _read(path: Path) -> tuple[Snapshot, list[int]] | None:
    """None for a file that is not there, or that is broken, which is logged."""
    try:
        return read_document(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("skipped a file of figures", extra={"file": path.name, "error": str(error)})
        return None


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old content or the new."""
    temporary = _temporary(path)
    temporary.write_bytes(data)
    temporary.replace(path)


def _temporary(path: Path) -> Path:
    return path.with_suffix(".tmp")
