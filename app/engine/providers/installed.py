"""Which execution providers (EPs) this machine offers: built in, and plug-ins found by convention.

Nothing here says that a provider works: `app.engine.proof.prover` does.
"""

import importlib
import importlib.metadata
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import onnxruntime

from app.engine.providers.candidates import (
    DEVICE_ORDER,
    KNOWN,
    UNKNOWN_RANK,
    Candidate,
    DeviceKind,
    KnownDevice,
)

#: Calls a service elsewhere; it runs nothing here.
_NEVER: Final = frozenset({"AzureExecutionProvider"})
_NOT_PLUGINS: Final = ("onnxruntime-extensions", "onnxruntime-genai", "onnxruntime-training")
_LIBRARY_SUFFIXES: Final = frozenset({".so", ".dylib", ".dll"})
_PATH_GETTERS: Final = ("get_library_path", "library_path")
_NAMES: Final = ("get_ep_name", "EP_NAME", "REGISTRATION_NAME")


@dataclass(frozen=True)
class Problem:
    """Something installed that cannot be used, and why. For operators: it may name a file."""

    source: str
    reason: str


@dataclass(frozen=True)
class Discovery:
    candidates: tuple[Candidate, ...]
    problems: tuple[Problem, ...] = ()


class Runtime(Protocol):
    """The part of the `onnxruntime` module that discovery uses."""

    def get_available_providers(self) -> list[str]: ...
    def get_ep_devices(self) -> Sequence[Any]: ...
    def register_execution_provider_library(self, name: str, path: str, /) -> None: ...


@dataclass(frozen=True)
class _Library:
    """A plug-in library that is registered in this process."""

    name: str
    path: str
    package: str
    version: str


def discover(
    runtime: Runtime = onnxruntime,
    distributions: Iterable[importlib.metadata.Distribution] | None = None,
    import_module: Callable[[str], Any] = importlib.import_module,
) -> Discovery:
    """Register the installed plug-in libraries and list what can be tried, in no order.

    May be called again; a library stays registered for the life of the process, because sessions
    may use it. Raises nothing: what cannot be used becomes a `Problem`.
    """
    problems: list[Problem] = []
    packages = installed() if distributions is None else _once(distributions)
    problems += _clashing_wheels(packages)
    libraries: list[_Library] = []
    for package in packages:
        try:
            if is_plugin(package):
                libraries.append(_register(package, runtime, import_module))
        except Exception as error:  # Foreign code: an import may raise anything at all.
            name = normal_name(package)
            problems.append(Problem(name, f"cannot be loaded: {_first_line(error)}"))
    devices = list(runtime.get_ep_devices())
    plugged = _plugged_in(devices, libraries)
    for library in libraries:
        if all(candidate.library != library.name for candidate in plugged):
            problems.append(Problem(library.package, "lists no device on this machine"))
    taken = {candidate.provider for candidate in plugged}
    built_in = [
        candidate
        for provider in runtime.get_available_providers()
        if provider not in taken | _NEVER
        for candidate in _built_in(provider, devices)
    ]
    return Discovery((*built_in, *plugged), tuple(problems))


def runtime_version() -> str:
    """Version and build of ONNX Runtime. Its packages are several: for GPUs, of nightly builds."""
    return f"{onnxruntime.__version__} {onnxruntime.get_build_info()}"


def installed() -> list[importlib.metadata.Distribution]:
    """The installed packages, each once."""
    return _once(importlib.metadata.distributions())


def _once(
    packages: Iterable[importlib.metadata.Distribution],
) -> list[importlib.metadata.Distribution]:
    """A folder that is on the path twice lists its packages twice."""
    return list({normal_name(package): package for package in reversed(list(packages))}.values())


def _built_in(provider: str, devices: Sequence[Any]) -> Iterator[Candidate]:
    for known in KNOWN.get(provider, (KnownDevice("cpu", UNKNOWN_RANK),)):
        names = [
            _device_name(device)
            for device in devices
            if (device.ep_name, _device_kind(device)) == (provider, known.device)
        ]
        yield Candidate(
            provider, known.device, names[0] if names else "", "built-in", known.options
        )


def _plugged_in(devices: Sequence[Any], libraries: Sequence[_Library]) -> list[Candidate]:
    """The listed devices that come from a library; the runtime's own wheel may bring some too."""
    by_path = {Path(library.path).resolve(): library for library in libraries}
    by_name = {library.name: library for library in libraries}
    seen: Counter[tuple[str, str | None]] = Counter()
    candidates = []
    for device in devices:
        path = device.ep_metadata.get("library_path")
        library = by_name.get(device.ep_name)
        if path is not None:
            library = by_path.get(Path(path).resolve(), library)
        if path is None and library is None:
            continue
        source = (device.ep_name, library.name if library else None)
        candidates.append(
            Candidate(
                device.ep_name,
                _device_kind(device),
                _device_name(device),
                "built-in" if library is None else "plug-in",
                device_index=seen[source],
                library=library.name if library else None,
                library_path=library.path if library else None,
                library_version=library.version if library else "",
            )
        )
        seen[source] += 1
    return candidates


def register_library(candidate: Candidate, runtime: Runtime = onnxruntime) -> None:
    """Make this process know the candidate's plug-in; it stays known, as sessions may use it."""
    if candidate.library is not None and candidate.library_path is not None:
        _register_once(runtime, candidate.library, candidate.library_path)


def listed_devices(runtime: Runtime, candidate: Candidate) -> list[Any]:
    """The devices among which the candidate's index counts."""
    return [
        device
        for device in runtime.get_ep_devices()
        if device.ep_name == candidate.provider and _comes_from(device, candidate.library_path)
    ]


def _comes_from(device: Any, library_path: str | None) -> bool:
    path = device.ep_metadata.get("library_path")
    if path is None or library_path is None:
        return True
    return Path(path).resolve() == Path(library_path).resolve()


def _register_once(runtime: Runtime, name: str, path: str) -> None:
    try:
        runtime.register_execution_provider_library(name, path)
    except Exception as error:  # Its classes share no base.
        # By an earlier call, or by the package itself when it was imported.
        if "already registered" not in str(error):
            raise


def _device_kind(device: Any) -> DeviceKind:
    kind = device.device.type.name.lower()
    return kind if kind in DEVICE_ORDER else "cpu"


def _device_name(device: Any) -> str:
    parts = (device.device.vendor, device.device.metadata.get("Description", ""))
    return " ".join(part for part in parts if part)


def _clashing_wheels(installed: Sequence[importlib.metadata.Distribution]) -> list[Problem]:
    """Two builds of ONNX Runtime overwrite each other's files; which one loads is chance."""
    wheels = sorted({normal_name(package) for package in installed if _is_runtime_wheel(package)})
    if len(wheels) < 2:
        return []
    reason = f"{' and '.join(wheels)} are installed in one place: uninstall all, then install one"
    return [Problem("onnxruntime", reason)]


def _is_runtime_wheel(package: importlib.metadata.Distribution) -> bool:
    name = normal_name(package)
    if not name.startswith(("onnxruntime", "ort-")):
        return False
    return any(str(file) == "onnxruntime/__init__.py" for file in package.files or ())


def is_plugin(package: importlib.metadata.Distribution) -> bool:
    """By convention: a name such as onnxruntime-ep-x or y-ep-cpu, and a shared library inside.

    A package that does not look like this is never imported.
    """
    name = normal_name(package)
    if name.startswith("onnxruntime-"):
        by_name = not name.startswith(_NOT_PLUGINS)
    else:
        by_name = "ep" in name.split("-") and _mentions_runtime(package)
    return (
        by_name
        and not _is_runtime_wheel(package)
        and any(file.suffix in _LIBRARY_SUFFIXES for file in package.files or ())
    )


def _mentions_runtime(package: importlib.metadata.Distribution) -> bool:
    said = [*(package.metadata.get_all("Summary") or ()), *(package.requires or ())]
    return any("onnxruntime" in text.lower().replace(" ", "") for text in said)


def normal_name(package: importlib.metadata.Distribution) -> str:
    """The normalised distribution name; empty where its metadata is broken."""
    try:
        return re.sub(r"[-_.]+", "-", package.metadata["Name"] or "").lower()
    except Exception:  # Which one depends on the Python version and on what is broken.
        return ""


def _register(
    package: importlib.metadata.Distribution,
    runtime: Runtime,
    import_module: Callable[[str], Any],
) -> _Library:
    """Import a plug-in package and register its library under the plug-in's own name.

    The name matters: some libraries take it as their provider's name, and a second name would
    list the device twice.
    """
    module = import_module(_module_name(package))
    getter = next(
        (g for g in (getattr(module, n, None) for n in _PATH_GETTERS) if callable(g)), None
    )
    if getter is None:
        raise LookupError(f"it has neither {' nor '.join(_PATH_GETTERS)}")
    named = next((n for n in (getattr(module, key, None) for key in _NAMES) if n is not None), None)
    name = str(named() if callable(named) else named or normal_name(package))
    path = str(getter())
    _register_once(runtime, name, path)
    return _Library(name, path, normal_name(package), package.version)


def _module_name(package: importlib.metadata.Distribution) -> str:
    for file in package.files or ():
        if len(file.parts) == 2 and file.name == "__init__.py":
            return file.parts[0]
    return normal_name(package).replace("-", "_")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
