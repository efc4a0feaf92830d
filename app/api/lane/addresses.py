"""Which request targets are inference, and of what."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from app.api.handler import InferenceRoute

#: What needs no decoding; the ordinary way takes care of the rest.
_PLAIN: Final = rb"([A-Za-z0-9._~-]+)"
_PLACEHOLDER: Final = re.compile(r"\{\w+\}")
_MOST_REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True)
class Place:
    """A wire format's route, and the model and version that are addressed."""

    route: InferenceRoute
    model: str | None
    version: str | None


class Addresses:
    """Looks up the raw target of a request line.

    Args:
        routes: path templates such as `/models/{name}/predict`, with the route of each. The first
            placeholder is the model's name, the second its version.
    """

    def __init__(self, routes: Iterable[tuple[str, InferenceRoute]]) -> None:
        self._patterns = [(_pattern(template), route) for template, route in routes]
        self._remembered: dict[bytes, Place] = {}

    def find(self, target: bytes) -> Place | None:
        """The place that is meant; None for what is not inference, or not plainly written."""
        return self._remembered.get(target) or self._look(target)

    def _look(self, target: bytes) -> Place | None:
        for pattern, route in self._patterns:
            match = pattern.fullmatch(target)
            if match is None:
                continue
            name, version, *_ = (*(part.decode() for part in match.groups()), None, None)
            place = Place(route, name, version)
            # Callers choose the names, so that there may be any number of them.
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[target] = place
            return place
        return None


def _pattern(template: str) -> re.Pattern[bytes]:
    fixed = (re.escape(part).encode() for part in _PLACEHOLDER.split(template))
    return re.compile(_PLAIN.join(fixed))
