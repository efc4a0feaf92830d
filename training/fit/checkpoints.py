"""How far the training of a candidate got, in a file, so that a later process can go on."""

import contextlib
import hashlib
import io
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from app.bundle.files import write_synced
from training.config import RunConfig
from training.data.dataset import Dataset
from training.errors import EnvironmentTrouble, UsageError

#: Seconds of training that an interruption may cost.
EVERY_S: Final = 10.0
_KEY: Final = "fingerprint"


@dataclass(frozen=True)
class Checkpoint:
    """The file of one candidate.

    Attributes:
        fingerprint: of data, settings and candidate; a file of others is not gone on with.
        resume: whether to go on from what is there.
        every_s: a file is written when the last one is older; 0 is after every step.
    """

    path: Path
    fingerprint: str
    resume: bool = False
    every_s: float = EVERY_S

    def load(self) -> dict[str, Any] | None:
        """What was saved; None where there is nothing or nothing is to be resumed.

        Raises:
            UsageError: it is of other data, settings or code, or damaged.
        """
        if not self.resume or not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise UsageError(f"the checkpoint {self.path} cannot be read: {error}") from None
        if state.pop(_KEY, None) != self.fingerprint:
            raise UsageError(
                f"the checkpoint {self.path} is of other data, settings or versions; "
                "run without --resume to start anew"
            )
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file, completely or not at all; what fails leaves nothing of its own.

        Raises:
            EnvironmentTrouble: the disk is full, or the folder cannot be written.
        """
        buffer = io.BytesIO()
        torch.save({**state, _KEY: self.fingerprint}, buffer)
        fresh = self.path.with_suffix(".new")
        made = [one for one in (self.path.parent, self.path.parent.parent) if not one.exists()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_synced(fresh, buffer.getvalue())
            fresh.replace(self.path)
        except OSError as error:
            raise EnvironmentTrouble(
                f"the checkpoint {self.path} cannot be written: {error.strerror}; nothing was "
                "published (--checkpoints names another folder)"
            ) from None
        finally:  # also after an impatient Ctrl-C
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            _remove_empty(made)


@dataclass(frozen=True)
class Checkpoints:
    """The folder of one run, a file for each candidate."""

    folder: Path
    fingerprint: str
    resume: bool = False
    every_s: float = EVERY_S

    def of(self, candidate: str, shapes: object) -> Checkpoint:
        """`shapes` is whatever tells one network of this name from another."""
        content = f"{self.fingerprint}\x1f{candidate}\x1f{shapes}\x1f{torch.__version__}"
        digest = hashlib.sha256(content.encode()).hexdigest()
        return Checkpoint(self.folder / f"{candidate}.pt", digest, self.resume, self.every_s)

    @property
    def are_there(self) -> bool:
        return any(self.folder.glob("*.pt"))


@dataclass(frozen=True)
class Keep:
    """Where the checkpoints of all runs are, and whether to go on from them."""

    folder: Path
    resume: bool = False

    def checkpoints(self, run: str, dataset: Dataset, config: RunConfig) -> Checkpoints:
        fingerprint = f"{dataset.sha256} {config.sha256()}"
        return Checkpoints(self.folder / run, fingerprint, self.resume)

    def search_file(self, run: str, dataset: Dataset, config: RunConfig) -> Path:
        """Where the trials of a search are kept, one file for all of its budgets; a new one where
        nothing is to be resumed.

        Raises:
            EnvironmentTrouble: the folder cannot be written.
        """
        plain = config.model_copy(update={"budget": ""})
        digest = hashlib.sha256(f"{dataset.sha256} {plain.sha256()}".encode()).hexdigest()
        path = self.folder / run / f"search-{digest[:16]}.db"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self.resume:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise EnvironmentTrouble(
                f"the folder {path.parent} cannot be written: {error.strerror}"
            ) from None
        return path

    def is_kept(self, run: str) -> bool:
        """Whether there is something that this run can go on from."""
        folder = self.folder / run
        return any(any(folder.glob(pattern)) for pattern in ("*.pt", "search-*.db"))

    def clear(self, run: str) -> None:
        """Remove what was kept of this run, and the folders that are empty then."""
        for pattern in ("*.pt", "*.new", "search-*.db"):
            for path in (self.folder / run).glob(pattern):
                path.unlink(missing_ok=True)
        _remove_empty([self.folder / run, self.folder])


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
