"""The served models: which version of each answers, and why others do not."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.bundle.store import Bundle, ModelFolder, open_bundle, scan
from app.engine.model import Model
from app.errors import (
    BundleIncomplete,
    ModelNotFound,
    ModelportError,
    ModelRequired,
    NothingToServe,
)

logger = logging.getLogger(__name__)

#: Opens a bundle as a model; blocks.
OpenModel = Callable[[Bundle], Model]


@dataclass
class Entry:
    """One model of the repository."""

    name: str
    #: All versions found at the last scan, newest first.
    versions: tuple[int, ...] = ()
    loaded: dict[int, Model] = field(default_factory=dict)
    #: Why a version is not served.
    refused: dict[int, str] = field(default_factory=dict)
    pin: int | None = None
    pin_problem: str = ""
    served: int | None = None

    def load(self, folder: ModelFolder, open_model: OpenModel, keep: int) -> None:
        """Load the pinned version, or the newest that proves; then older ones up to `keep`.

        A pin is obeyed or the model is not served: it is there because some other version is bad.
        """
        self.versions, self.pin, self.pin_problem = folder.versions, folder.pin, folder.pin_problem
        if self.pin_problem:
            logger.error("model not served", extra={"model": self.name, "reason": self.pin_problem})
            return
        for version in _order(folder):
            if len(self.loaded) >= keep:
                return
            model = self._open(folder, version, open_model)
            if model is not None:
                self.loaded[version] = model
                self.served = self.served or version
            elif version == self.pin:
                return

    def _open(self, folder: ModelFolder, version: int, open_model: OpenModel) -> Model | None:
        try:
            if version not in folder.versions:
                raise BundleIncomplete("it is pinned, but not in the repository")
            return open_model(open_bundle(folder.path, version))
        except Exception as error:  # Whatever is wrong with it, others can still serve.
            known = isinstance(error, ModelportError)
            reason = str(error) if known else f"cannot be loaded ({type(error).__name__})"
            self.refused[version] = reason
            logger.error(
                "model version refused",
                extra={"model": self.name, "version": version, "reason": reason},
                exc_info=None if known else error,
            )
            return None

    @property
    def why_not(self) -> str:
        """Why nothing of it is served; empty where something is."""
        if self.served is not None:
            return ""
        refused = [f"version {version}: {why}" for version, why in self.refused.items()]
        return self.pin_problem or "; ".join(refused)


def _order(folder: ModelFolder) -> Sequence[int]:
    """The order in which versions are tried: the pin and what is older, or from new to old."""
    if folder.pin is None:
        return folder.versions
    return (folder.pin, *(version for version in folder.versions if version < folder.pin))


class Registry:
    """(name, version) to Model. It owns the models and closes them."""

    def __init__(self, default: str | None = None) -> None:
        self._entries: dict[str, Entry] = {}
        self._default = default

    def load(self, root: Path, open_model: OpenModel, keep: int = 1) -> None:
        """Load the repository. Blocks; call it before serving.

        Raises:
            NothingToServe: the repository cannot be read.
        """
        try:
            folders = scan(root)
        except ModelportError as error:
            raise NothingToServe(f"cannot serve {root}: {error}") from None
        for folder in folders:
            for problem in folder.problems:
                logger.warning("model folder", extra={"model": folder.name, "problem": problem})
            if not folder.versions:
                continue
            entry = self._entries.setdefault(folder.name, Entry(folder.name))
            entry.load(folder, open_model, keep)

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
                raise NothingToServe(f"{setting} names {name!r}: {self._why_not(name)}")
        if not self.served:
            reasons = "; ".join(f"{name}: {self._why_not(name)}" for name in self._entries)
            raise NothingToServe(
                f"no model can be served from {root}: {reasons or 'it holds no published model'}"
            )

    def _why_not(self, name: str) -> str:
        entry = self._entries.get(name)
        if entry is None:
            return "it is not in the model repository"
        return entry.why_not

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
        """Name and version of everything that could not be served."""
        return [(name, version) for name, e in self._entries.items() for version in e.refused]

    @property
    def entries(self) -> Mapping[str, Entry]:
        return self._entries

    @property
    def default_name(self) -> str | None:
        """The model that `POST /predict` means, where that is clear."""
        if self._default is not None:
            return self._default
        served = self.served
        return next(iter(served)) if len(served) == 1 else None

    def get(self, name: str | None = None, version: str | None = None) -> Model:
        """The model that answers; names and versions are only keys here.

        Raises:
            ModelRequired: no name was given and several models are served.
            ModelNotFound: nothing is served under that name or version.
        """
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
        raise ModelNotFound(
            f"version {version[:16]!r} of {name!r} is not loaded; loaded: {_listed(entry.loaded)}"
        )

    async def close(self, timeout_s: float) -> None:
        """Close every model, all within `timeout_s`."""
        models = [model for entry in self._entries.values() for model in entry.loaded.values()]
        await asyncio.gather(*(model.close(timeout_s) for model in models))


def _listed(names: Mapping[str, object] | Mapping[int, object]) -> str:
    return ", ".join(str(name) for name in names) or "none"
