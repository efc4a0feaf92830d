"""Which version of a model should serve, which stay loaded besides, and why. Choosing only.

A pin is obeyed or nothing changes: where a version serves already it goes on, where none does yet
none will, because a pin is written when some other version is bad. Without a pin the newest version
that proves serves. The answer is for now: whoever opens `Choice.open` asks again afterwards.
"""

from collections.abc import Collection, Set
from dataclasses import dataclass

from app.bundle.store import ModelFolder


@dataclass(frozen=True)
class Policy:
    """How much stays loaded.

    Attributes:
        loaded_versions: the served version and so many less one that are older.
        keep_previous: the version that served before as well.
    """

    loaded_versions: int = 1
    keep_previous: bool = True


@dataclass(frozen=True)
class Standing:
    """How the versions of a model stand.

    Attributes:
        refused: tried and found bad.
        outdated: of `loaded`, those to be opened anew, since other bytes lie in their place.
        previous: what served before `served`.
    """

    loaded: Set[int] = frozenset()
    refused: Collection[int] = ()
    outdated: Set[int] = frozenset()
    served: int | None = None
    previous: int | None = None

    @property
    def current(self) -> Set[int]:
        """Loaded, and as it should be."""
        return self.loaded - self.outdated

    def may_serve(self, version: int) -> bool:
        return version in self.loaded or version not in self.refused


@dataclass(frozen=True)
class Choice:
    """What to do now.

    Attributes:
        serve: one of the loaded versions, or None where none may serve.
        reason: why that one, or why none or no other.
        open: the version to open next; None where all that should be loaded is.
        keep: loaded versions that stay; the others are let go.
        pin_problem: why the pin cannot be obeyed; empty where it is, or where there is none.
    """

    serve: int | None
    reason: str
    open: int | None
    keep: Set[int]
    pin_problem: str = ""


def choose(folder: ModelFolder, now: Standing, policy: Policy) -> Choice:
    """Choose for one model; `folder` is what its last scan found."""
    problem = pin_problem(folder, now)
    if problem:
        return Choice(now.served, problem, None, now.loaded, problem)
    if not folder.versions:
        return Choice(now.served, "no version is in the repository", None, now.loaded)
    target, reason = _target(folder, now)
    if target is None:
        return Choice(None, reason, None, now.loaded)
    serve = target if target in now.current else _meanwhile(folder, now)
    if serve is None:
        return Choice(None, reason, target, now.loaded)
    besides = _besides(folder, serve, now, policy)
    missing = next((v for v in (target, *besides) if v not in now.current), None)
    keep = {serve, *besides} | _previous(folder, serve, now, policy)
    return Choice(serve, reason, missing, keep & now.loaded)


def pin_problem(folder: ModelFolder, now: Standing) -> str:
    """Why the pin cannot be obeyed; empty where it can, or where there is none."""
    if folder.pin_problem:
        return folder.pin_problem
    if folder.pin is None:
        return ""
    if folder.pin not in folder.versions:
        return f"pinned version {folder.pin} is absent"
    if not now.may_serve(folder.pin):
        return f"pinned version {folder.pin} is broken"
    return ""


def _target(folder: ModelFolder, now: Standing) -> tuple[int | None, str]:
    """The version that should serve, loaded or not; the pin, where there is one, can be obeyed."""
    if folder.pin is not None:
        return folder.pin, "pinned"
    # What serves and was deleted goes on until something newer proves.
    known = {*folder.versions, *(() if now.served is None else (now.served,))}
    for version in sorted(known, reverse=True):
        if now.may_serve(version):
            return version, "the newest that proves"
    return None, "no version proves"


def _meanwhile(folder: ModelFolder, now: Standing) -> int | None:
    """What serves until the right version is loaded: without a pin, the newest that is."""
    if folder.pin is not None:
        return now.served
    return max((v for v in now.loaded if v in folder.versions or v == now.served), default=None)


def _besides(folder: ModelFolder, serve: int, now: Standing, policy: Policy) -> list[int]:
    older = [v for v in folder.versions if v < serve and now.may_serve(v)]
    return older[: policy.loaded_versions - 1]


def _previous(folder: ModelFolder, serve: int, now: Standing, policy: Policy) -> set[int]:
    """What served before `serve` does."""
    before = now.previous if serve == now.served else now.served
    return {before} if policy.keep_previous and before in folder.versions else set()
