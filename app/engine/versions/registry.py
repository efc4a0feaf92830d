"""The served models: which version of each answers, and why others do not."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from weakref import WeakSet

from app.bundle.survey import Survey
from app.engine.model import Model
from app.engine.versions.entry import Entry
from app.errors import ModelNotFound, ModelRequired, NothingToServe


class Registry:
    """(name, version) to Model. It closes the models at the end.

    Everything happens on the event loop's thread, so that a request sees one state of it.
    """

    def __init__(self, default: str | None = None) -> None:
        self._entries: dict[str, Entry] = {}
        self._default = default
        #: Out of service, but perhaps still answering requests that they had admitted.
        self._let_go: WeakSet[Model] = WeakSet()

    def see(self, survey: Survey, forget: Collection[str] = ()) -> None:
        """Take note of what lies in the repository now.

        Args:
            forget: models whose refused and replaced versions are to be tried again.
        """
        for folder in survey.folders.values():
            if folder.versions and folder.name not in self._entries:
                self._entries[folder.name] = Entry.unseen(folder.name)
        for name, entry in list(self._entries.items()):
            entry.see(survey)
            if name in forget:
                entry.forget()
            if entry.is_empty:
                del self._entries[name]

    def let_go(self, model: Model) -> None:
        """A model that no new request gets; it is closed at the end if it is still there."""
        self._let_go.add(model)

    def check(self, root: Path, required: Sequence[str]) -> None:
        """What was asked for must be served.

        Raises:
            NothingToServe: nothing is, or a required or the default model is not.
        """
        wanted = [("MODELPORT_REQUIRE", name) for name in required]
        if self._default is not None:
            wanted.append(("MODELPORT_DEFAULT_MODEL", self._default))
        for setting, name in wanted:
            if name not in self.served:
                raise NothingToServe(f"{setting} names {name!r}: {self._remedied(name)}")
        if not self.served:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.unserved.items())
            raise NothingToServe(
                f"no model can be served from {root}: {reasons or 'it holds no published model'}"
            )

    def _why_not(self, name: str) -> str:
        entry = self._entries.get(name)
        if entry is None:
            return "it is not in the model repository"
        return entry.why_not

    def _remedied(self, name: str) -> str:
        """Why nothing of a model is served, for whoever can change that."""
        entry = self._entries.get(name)
        if entry is None or not entry.pin_problem:
            return self._why_not(name)
        return f"{entry.why_not}; `python -m app unpin {name}` removes the pin"

    @property
    def unserved(self) -> Mapping[str, str]:
        """Models of the repository of which nothing is served, and why; for operators."""
        return {n: self._remedied(n) for n, entry in self._entries.items() if entry.served is None}

    @property
    def serving(self) -> Sequence[tuple[str, int]]:
        """Name and version of what answers where no version is named."""
        return [(name, e.served) for name, e in self._entries.items() if e.served is not None]

    @property
    def served(self) -> Mapping[str, Model]:
        """The model that answers under each name."""
        return {
            name: entry.loaded[entry.served]
            for name, entry in sorted(self._entries.items())
            if entry.served is not None
        }

    @property
    def refused(self) -> Sequence[tuple[str, int]]:
        """Name and version of everything that could not be loaded."""
        return [(name, version) for name, e in self._entries.items() for version in e.refused]

    @property
    def pin_problems(self) -> Sequence[str]:
        """Models whose pin is not obeyed."""
        return [name for name, entry in self._entries.items() if entry.pin_problem]

    @property
    def entries(self) -> Mapping[str, Entry]:
        return self._entries

    def entry(self, name: str) -> Entry:
        """What is known of a model, served or not.

        Raises:
            ModelNotFound: it is not in the repository.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise ModelNotFound(f"no model {name[:64]!r} is in the repository")
        return entry

    @property
    def default_name(self) -> str | None:
        """The model that `POST /predict` means, where that is clear."""
        if self._default is not None:
            return self._default
        served = [name for name, entry in self._entries.items() if entry.served is not None]
        return served[0] if len(served) == 1 else None

    def get(self, name: str | None = None, version: str | None = None) -> Model:
        """The model that answers; names and versions are only keys here.

        Raises:
            ModelRequired: no name was given and several models are served.
            ModelNotFound: nothing is served under that name or version.
        """
        entry = self._entries.get(name) if name is not None else None
        if entry is not None and version is None and entry.served is not None:
            return entry.loaded[entry.served]
        if name is None:
            name = self.default_name
            if name is None:
                known = ", ".join(self.served)
                raise ModelRequired(
                    f"name a model: POST /models/{{name}}/predict with one of {known}"
                )
        entry = self._entries.get(name)
        if entry is None:
            raise ModelNotFound(f"no model {name[:64]!r} is served; served: {_listed(self.served)}")
        if entry.served is None:
            raise ModelNotFound(f"no version of {name!r} can be served: {self._why_not(name)}")
        if version is None:
            return entry.loaded[entry.served]
        for number, model in entry.loaded.items():
            if str(number) == version:
                return model
        for number, reason in entry.refused.items():
            if str(number) == version:
                raise ModelNotFound(
                    f"version {version!r} of {name!r} was refused: {reason}; "
                    f"loaded: {_listed(entry.loaded)}"
                )
        raise ModelNotFound(
            f"version {version[:16]!r} of {name!r} is not loaded; loaded: {_listed(entry.loaded)}"
        )

    async def close(self, timeout_s: float) -> None:
        """Close every model, all within `timeout_s`."""
        loaded = [model for entry in self._entries.values() for model in entry.loaded.values()]
        await asyncio.gather(*(model.close(timeout_s) for model in (*loaded, *self._let_go)))


def _listed(names: Mapping[str, object] | Mapping[int, object]) -> str:
    return ", ".join(str(name) for name in names) or "none"
