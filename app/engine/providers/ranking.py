"""In which order execution providers are tried, and why. Pure choosing, nothing is opened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.engine.providers.candidates import (
    CPU_PROVIDER,
    DEVICE_ORDER,
    KNOWN,
    UNKNOWN_RANK,
    Candidate,
)

AUTO: Final = "auto"

#: On the CPU a plug-in comes after whatever the runtime brings, unless somebody asks for it.
_PLUGIN_RANK: Final = 60

_ALIASES: Final[Mapping[str, str]] = {"directml": "dml", "trt": "tensorrt"}


@dataclass(frozen=True)
class Choice:
    """A candidate to try, and why at this place of the order."""

    candidate: Candidate
    reason: str
    #: Nobody asked for it: the built-in CPU provider behind an explicit list.
    fallback: bool = False
    #: Which of the names asked for it answers to. Among those of one name the fastest serves.
    group: int = 0


@dataclass(frozen=True)
class Rejection:
    """A provider that does not serve; `device` is empty for one that is not here at all."""

    provider: str
    device: str
    reason: str


@dataclass(frozen=True)
class Ranking:
    requested: tuple[str, ...]
    order: tuple[Choice, ...]
    rejections: tuple[Rejection, ...] = ()

    def groups(self) -> list[list[Choice]]:
        """The choices by the name that was asked for, in order."""
        found: dict[int, list[Choice]] = {}
        for choice in self.order:
            found.setdefault(choice.group, []).append(choice)
        return [found[group] for group in sorted(found)]


def rank(
    candidates: Sequence[Candidate], requested: Sequence[str] = (AUTO,), strict: bool = False
) -> Ranking:
    """Choose the order in which candidates are tried. Pure.

    Args:
        requested: provider names, with or without "ExecutionProvider", in any case, optionally
            with a device ("openvino:gpu"); a plug-in also answers to its library's name. "auto"
            stands for everything: GPUs, NPUs, the built-in CPU provider, other ones on the CPU.
        strict: only the first name counts, and the built-in CPU provider is not appended.
    """
    names = tuple(requested) or (AUTO,)
    if strict:
        names = names[:1]
    ordered = sorted(candidates, key=_auto_key)
    order: list[Choice] = []
    rejections: list[Rejection] = []
    for group, name in enumerate(names):
        if _folded(name) == AUTO:
            auto = [Choice(c, f"auto: {c.origin} on the {c.device}", group=group) for c in ordered]
            _append(order, auto)
            continue
        matching = [c for c in ordered if _answers_to(c, name)]
        _append(order, [Choice(c, f"asked for as {name!r}", group=group) for c in matching])
        if not matching:
            rejections.append(Rejection(name, "", _absence(ordered)))
    if not strict:
        last = [c for c in ordered if c.provider == CPU_PROVIDER]
        reason = "last resort behind what was asked for"
        _append(order, [Choice(c, reason, fallback=True, group=len(names)) for c in last])
    return Ranking(names, tuple(order), tuple(rejections))


def _append(order: list[Choice], choices: Sequence[Choice]) -> None:
    """Each candidate is tried once, at its first place."""
    taken = [choice.candidate for choice in order]
    order += [choice for choice in choices if choice.candidate not in taken]


def _auto_key(candidate: Candidate) -> tuple[int, int, str, int]:
    if candidate.origin == "plug-in" and candidate.device == "cpu":
        place = _PLUGIN_RANK
    else:
        ranks = [k.rank for k in KNOWN.get(candidate.provider, ()) if k.device == candidate.device]
        place = ranks[0] if ranks else UNKNOWN_RANK
    index = -1 if candidate.device_index is None else candidate.device_index
    return (DEVICE_ORDER[candidate.device], place, candidate.provider, index)


def _answers_to(candidate: Candidate, requested: str) -> bool:
    name, _, device = requested.partition(":")
    known_as = {_folded(candidate.provider), _folded(candidate.library or candidate.provider)}
    return _folded(name) in known_as and _folded(device) in ("", candidate.device)


def _folded(name: str) -> str:
    folded = name.strip().lower().removesuffix("executionprovider")
    return _ALIASES.get(folded, folded)


def _absence(candidates: Sequence[Candidate]) -> str:
    here = dict.fromkeys(f"{c.provider}:{c.device}" for c in candidates)
    return f"is not available here; available: {', '.join(here) or 'nothing'}"
