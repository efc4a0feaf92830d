"""One model of the repository: what was found of it, what is loaded, and what was refused."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.bundle.store import Fingerprint, ModelFolder
from app.bundle.survey import Survey
from app.engine.model import Model
from app.engine.versions.selection import Policy, Standing, choose

logger = logging.getLogger(__name__)

REPLACED = "replaced on disk since it was loaded; a reload takes what lies there"


@dataclass
class Refusal:
    """Why a version is not loaded, and what its files looked like.

    Attributes:
        kind: name of the error's class.
        tried: the files when it was tried.
        seen: the files at the last scan.
        is_due: whether to try again.
        may_pass: it may have nothing to do with the files.
        tries: how often these files were tried.
    """

    reason: str
    kind: str
    tried: Fingerprint
    seen: Fingerprint
    is_due: bool = False
    may_pass: bool = False
    tries: int = 1

    def see(self, now: Fingerprint) -> None:
        """Worth another try are files that are others, and no longer being written."""
        is_settled, self.seen = now == self.seen, now
        if is_settled and now != self.tried:
            self.is_due = True


@dataclass
class Entry:
    """One model of the repository. Everything is changed on the event loop's thread."""

    name: str
    folder: ModelFolder
    #: Newest first; the older of two contents of a version is not here.
    loaded: dict[int, Model] = field(default_factory=dict)
    served: int | None = None
    #: What served before.
    previous: int | None = None
    refusals: dict[int, Refusal] = field(default_factory=dict)
    #: Loaded versions in whose place other bytes lie.
    replaced: set[int] = field(default_factory=set)
    #: Of `replaced`, those to be loaded anew.
    outdated: set[int] = field(default_factory=set)
    #: The version to be opened next, and the one that is being opened.
    wanted: int | None = None
    loading: int | None = None
    pin_problem: str = ""

    @classmethod
    def unseen(cls, name: str) -> "Entry":
        return cls(name, ModelFolder(name, Path(), ()))

    @property
    def versions(self) -> tuple[int, ...]:
        """All versions found at the last scan, newest first."""
        return self.folder.versions

    @property
    def pin(self) -> int | None:
        return self.folder.pin

    @property
    def refused(self) -> Mapping[int, str]:
        """Why a version is not loaded."""
        return {version: refusal.reason for version, refusal in self.refusals.items()}

    @property
    def is_at_work(self) -> bool:
        """Whether something is being loaded, or is to be."""
        return self.wanted is not None or self.loading is not None

    def is_proved(self, version: int) -> bool:
        """Whether what lies in the repository is loaded."""
        return version in self.versions and version in self.loaded.keys() - self.replaced

    @property
    def is_empty(self) -> bool:
        return not (self.versions or self.loaded or self.is_at_work)

    @property
    def why_not(self) -> str:
        """Why nothing of it is served; empty where something is."""
        if self.served is not None:
            return ""
        if self.pin_problem:
            reason = self.refused.get(self.pin or 0)
            return f"{self.pin_problem}: {reason}" if reason else self.pin_problem
        if self.is_at_work:
            return "it is being loaded"
        refused = (f"version {version}: {why}" for version, why in self.refused.items())
        return "; ".join(refused) or "it has no version"

    def see(self, survey: Survey) -> None:
        """Take note of what lies in the repository now."""
        gone = ModelFolder(self.name, self.folder.path, ())
        self.folder = survey.folders.get(self.name, gone)
        self.refusals = {v: r for v, r in self.refusals.items() if v in self.versions}
        for version, refusal in self.refusals.items():
            now = survey.fingerprints.get((self.name, version))
            if now is not None:
                refusal.see(now)
        self._see_replaced(survey)

    def _see_replaced(self, survey: Survey) -> None:
        for version, model in self.loaded.items():
            digest = survey.digests.get((self.name, version))
            if digest is None:
                continue
            if digest == model.digest:
                self.replaced.discard(version)
                self.outdated.discard(version)
            elif version not in self.replaced:
                self.replaced.add(version)
                self._log(logging.WARNING, "model version changed", version, REPLACED)

    def forget(self) -> None:
        """Try again what was refused, and load anew what was replaced."""
        for refusal in self.refusals.values():
            refusal.is_due, refusal.kind = True, ""
        self.outdated = set(self.replaced)

    def opened(self, model: Model) -> Model | None:
        """A version is loaded; gives what was loaded under its number."""
        old = self.loaded.get(model.version)
        loaded = self.loaded | {model.version: model}
        self.loaded = dict(sorted(loaded.items(), reverse=True))
        self.replaced.discard(model.version)
        self.outdated.discard(model.version)
        self.refusals.pop(model.version, None)
        return old

    def failed(self, version: int, refusal: Refusal) -> None:
        """A version could not be loaded; what is loaded under its number stays."""
        self.outdated.discard(version)
        old = self.refusals.get(version)
        self.refusals[version] = refusal
        if old is not None and old.tried == refusal.tried:
            refusal.tries = old.tries + 1
        # A version that is being copied slowly is told of once.
        if old is None or old.kind != refusal.kind:
            self._log(logging.ERROR, "model version refused", version, refusal.reason)

    def decide(self, policy: Policy) -> Sequence[Model]:
        """Let the right version serve and say which to open next; gives those to be let go."""
        refused = [version for version, refusal in self.refusals.items() if not refusal.is_due]
        standing = Standing(self.loaded.keys(), refused, self.outdated, self.served, self.previous)
        choice = choose(self.folder, standing, policy)
        self.wanted = choice.open
        self._tell_pin(choice.pin_problem)
        if choice.serve != self.served:
            self.previous, self.served = self.served, choice.serve
            if self.served is not None and self.previous is not None:
                self._log(logging.INFO, "model version serves", self.served, choice.reason)
        let_go = [model for version, model in self.loaded.items() if version not in choice.keep]
        self.loaded = {v: model for v, model in self.loaded.items() if v in choice.keep}
        self.replaced &= self.loaded.keys()
        self.outdated &= self.loaded.keys()
        return let_go

    def _tell_pin(self, problem: str) -> None:
        if problem and problem != self.pin_problem:
            logger.error("pin not obeyed", extra={"model": self.name, "reason": problem})
        self.pin_problem = problem

    def _log(self, level: int, message: str, version: int, reason: str) -> None:
        extra = {"model": self.name, "version": version, "reason": reason}
        logger.log(level, message, extra=extra)
