"""Keeps verdicts in a folder, so that a start proves again only what has changed.

A kept verdict saves the trial, never the proof: the session that serves replays the golden rows
all the same. Several processes may share the folder; one tries while the others wait for it.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from app.bundle.files import read_plain_file
from app.engine.proof.machine import fingerprint
from app.engine.proof.trialjob import TrialJob
from app.engine.proof.verdict import Verdict
from app.engine.providers.candidates import CPU_PROVIDER
from app.errors import BundleError

logger = logging.getLogger(__name__)

_LAYOUT: Final = 1
_DAY_S: Final = 24 * 3600.0
_PASSING_S: Final = _DAY_S
#: A driver may be replaced, and nothing tells.
_REJECTED_S: Final = 7 * _DAY_S
#: Drafts and locks that nobody holds any longer.
_LEFTOVER_S: Final = _DAY_S
_MOST_ENTRIES: Final = 1000
_LOCK_POLL_S: Final = 0.05
_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Verdicts:
    """A folder of verdicts. Where it cannot be used, nothing is kept, and that is said once."""

    def __init__(self, folder: Path, wall_clock: Callable[[], float] = time.time) -> None:
        self._folder = folder / "verdicts"
        # Ages must outlive the process, so they are on the wall clock; a jump costs one trial.
        self._wall_clock = wall_clock
        self._complained = False

    def find(self, job: TrialJob) -> Verdict | None:
        """The kept verdict on a job, where there is one that still holds."""
        path = self._path(job)
        try:
            raw = read_plain_file(path, None)
            age_s = self._wall_clock() - path.stat().st_mtime
        except (OSError, BundleError):
            return None
        try:
            verdict = Verdict.model_validate_json(raw)
        except ValidationError:
            logger.warning("a kept verdict is not readable and is made anew")
            return None
        if not verdict.answers(job):
            logger.warning("a kept verdict is on something else and is made anew")
            return None
        lasts_s = _lasts_s(verdict)
        too_old = lasts_s is not None and not 0 <= age_s <= lasts_s
        too_rough = verdict.background and not job.background
        return None if too_old or too_rough else verdict

    def keep(self, job: TrialJob, verdict: Verdict) -> None:
        """Keep a verdict, if it says something of the candidate and not of a busy machine."""
        if not verdict.tried or (verdict.passing and job.background):
            return
        path = self._path(job)
        draft = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft.write_text(verdict.model_dump_json(indent=1))
            draft.replace(path)
            self._forget_oldest()
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            self._complain(error)

    @contextmanager
    def turn(
        self, job: TrialJob, timeout_s: float, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """While this lasts no other process tries the same; after `timeout_s`, or where it is not
        wanted any longer, it goes on anyway."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._path(job).with_suffix(".lock"), _LOCK_FLAGS, 0o600)
        except OSError as error:
            self._complain(error)
            yield
            return
        try:
            ends_s = time.monotonic() + timeout_s
            while not _locked(descriptor) and time.monotonic() < ends_s and not cancelled():
                time.sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(descriptor)

    def _path(self, job: TrialJob) -> Path:
        said = {
            "layout": _LAYOUT,
            "machine": fingerprint(),
            "digest": job.digest,
            "precision": job.precision,
            "candidate": asdict(job.candidate) | {"options": dict(job.candidate.options)},
            "cores": job.cores,
            "measured": job.budget_ms > 0,
        }
        key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        return self._folder / f"{key[:40]}.json"

    def _forget_oldest(self) -> None:
        entries = sorted(self._folder.glob("*.json"), key=_written)
        for path in entries[: max(0, len(entries) - _MOST_ENTRIES)]:
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
        now_s = self._wall_clock()
        for pattern in ("*.tmp", "*.lock"):
            for path in self._folder.glob(pattern):
                if now_s - _written(path) > _LEFTOVER_S:
                    path.unlink(missing_ok=True)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            logger.warning(
                "verdicts are not kept: MODELPORT_CACHE cannot be written",
                extra={"reason": error.strerror},
            )


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # A file system without locks: better tried twice than waited for.
    return True


def _lasts_s(verdict: Verdict) -> float | None:
    """None for as long as it is not one of too many."""
    if verdict.passing:
        return _PASSING_S
    if verdict.accepted or verdict.candidate.provider == CPU_PROVIDER:
        return None
    return _REJECTED_S


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
