"""Which execution providers (EPs) this machine offers, and in which order to try them.

`discover` looks and registers; `rank` only chooses. Neither says that a provider works:
`app.engine.proof` does.
"""

import importlib
import importlib.metadata
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import onnxruntime

DeviceKind = Literal["cpu", "gpu", "npu"]
Origin = Literal["built-in", "plug-in"]

CPU_PROVIDER: Final = "CPUExecutionProvider"
AUTO: Final = "auto"


@dataclass(frozen=True)
class Candidate:
    """An execution provider on one device. Plain data: it means the same in a child process."""

    provider: str
    device: DeviceKind
    #: Vendor and description, as far as the provider tells.
    device_name: str = ""
    origin: Origin = "built-in"
    options: Mapping[str, str] = field(default_factory=dict)
    #: Position among the devices that ONNX Runtime lists for this provider; None for one that is
    #: opened by name.
    device_index: int | None = None
    #: The plug-in library's registered name; None for what the runtime brings.
    library: str | None = None


@dataclass(frozen=True)
class Problem:
    """Something installed that cannot be used, and why. For operators: it may name a file."""

    source: str
    reason: str


@dataclass(frozen=True)
class Discovery:
    candidates: tuple[Candidate, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A candidate to try, and why at this place of the order."""

    candidate: Candidate
    reason: str
    #: Nobody asked for it: the built-in CPU provider behind an explicit list.
    fallback: bool = False


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


@dataclass(frozen=True)
class _Known:
    """A device that a built-in provider serves; `rank` orders those of one device kind."""

    device: DeviceKind
    rank: int
    options: Mapping[str, str] = field(default_factory=dict)


_DEVICE_ORDER: Final[Mapping[DeviceKind, int]] = {"gpu": 0, "npu": 1, "cpu": 2}
_UNKNOWN_RANK: Final = 50
#: On the CPU a plug-in comes after whatever the runtime brings, unless somebody asks for it.
_PLUGIN_RANK: Final = 60

#: TensorRT is behind CUDA: it builds its engines for minutes before the first answer.
_KNOWN: Final[Mapping[str, tuple[_Known, ...]]] = {
    CPU_PROVIDER: (_Known("cpu", 0),),
    # The default searches convolutions exhaustively again for every new batch size.
    "CUDAExecutionProvider": (_Known("gpu", 0, {"cudnn_conv_algo_search": "HEURISTIC"}),),
    "NvTensorRTRTXExecutionProvider": (_Known("gpu", 10),),
    "TensorrtExecutionProvider": (_Known("gpu", 11),),
    "MIGraphXExecutionProvider": (_Known("gpu", 20),),
    "ROCMExecutionProvider": (_Known("gpu", 21),),
    "DmlExecutionProvider": (_Known("gpu", 30),),
    "OpenVINOExecutionProvider": (
        _Known("gpu", 31, {"device_type": "GPU"}),
        _Known("npu", 10, {"device_type": "NPU"}),
        _Known("cpu", 10, {"device_type": "CPU"}),
    ),
    "WebGpuExecutionProvider": (_Known("gpu", 40),),
    "QNNExecutionProvider": (_Known("npu", 0, {"backend_type": "htp"}),),
    "CoreMLExecutionProvider": (
        _Known("npu", 1, {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"}),
    ),
    "VitisAIExecutionProvider": (_Known("npu", 2),),
    "CANNExecutionProvider": (_Known("npu", 3),),
    "NnapiExecutionProvider": (_Known("npu", 4),),
    "VSINPUExecutionProvider": (_Known("npu", 5),),
    "RknpuExecutionProvider": (_Known("npu", 6),),
    "DnnlExecutionProvider": (_Known("cpu", 20),),
    "XnnpackExecutionProvider": (_Known("cpu", 21),),
    "ACLExecutionProvider": (_Known("cpu", 22),),
}
#: Calls a service elsewhere; it runs nothing here.
_NEVER: Final = frozenset({"AzureExecutionProvider"})
_ALIASES: Final[Mapping[str, str]] = {"directml": "dml", "trt": "tensorrt"}

_NOT_PLUGINS: Final = ("onnxruntime-extensions", "onnxruntime-genai", "onnxruntime-training")
_LIBRARY_SUFFIXES: Final = frozenset({".so", ".dylib", ".dll"})
_PATH_GETTERS: Final = ("get_library_path", "library_path")
_NAMES: Final = ("get_ep_name", "EP_NAME", "REGISTRATION_NAME")


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
    found = importlib.metadata.distributions() if distributions is None else distributions
    # A folder that is on the path twice lists its packages twice.
    installed = list({_normal_name(package): package for package in reversed(list(found))}.values())
    problems += _clashing_wheels(installed)
    libraries: list[_Library] = []
    for package in installed:
        try:
            if _is_plugin(package):
                libraries.append(_register(package, runtime, import_module))
        except Exception as error:  # Foreign code: an import may raise anything at all.
            name = _normal_name(package)
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


def _built_in(provider: str, devices: Sequence[Any]) -> Iterator[Candidate]:
    for known in _KNOWN.get(provider, (_Known("cpu", _UNKNOWN_RANK),)):
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
    seen: dict[str, int] = {}
    candidates = []
    for device in devices:
        index = seen.get(device.ep_name, 0)
        seen[device.ep_name] = index + 1
        path = device.ep_metadata.get("library_path")
        library = by_name.get(device.ep_name)
        if path is not None:
            library = by_path.get(Path(path).resolve(), library)
        if path is None and library is None:
            continue
        candidates.append(
            Candidate(
                device.ep_name,
                _device_kind(device),
                _device_name(device),
                "built-in" if library is None else "plug-in",
                device_index=index,
                library=None if library is None else library.name,
            )
        )
    return candidates


def _device_kind(device: Any) -> DeviceKind:
    kind = device.device.type.name.lower()
    return kind if kind in _DEVICE_ORDER else "cpu"


def _device_name(device: Any) -> str:
    parts = (device.device.vendor, device.device.metadata.get("Description", ""))
    return " ".join(part for part in parts if part)


def _clashing_wheels(installed: Sequence[importlib.metadata.Distribution]) -> list[Problem]:
    """Two builds of ONNX Runtime overwrite each other's files; which one loads is chance."""
    wheels = sorted({_normal_name(package) for package in installed if _is_runtime_wheel(package)})
    if len(wheels) < 2:
        return []
    reason = f"{' and '.join(wheels)} are installed in one place: uninstall all, then install one"
    return [Problem("onnxruntime", reason)]


def _is_runtime_wheel(package: importlib.metadata.Distribution) -> bool:
    name = _normal_name(package)
    if not name.startswith(("onnxruntime", "ort-")):
        return False
    return any(str(file) == "onnxruntime/__init__.py" for file in package.files or ())


def _is_plugin(package: importlib.metadata.Distribution) -> bool:
    """By convention: a name such as onnxruntime-ep-x or y-ep-cpu, and a shared library inside.

    A package that does not look like this is never imported.
    """
    name = _normal_name(package)
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


def _normal_name(package: importlib.metadata.Distribution) -> str:
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
    name = str(named() if callable(named) else named or _normal_name(package))
    path = str(getter())
    try:
        runtime.register_execution_provider_library(name, path)
    except Exception as error:  # Its classes share no base.
        # By an earlier call, or by the package itself when it was imported.
        if "already registered" not in str(error):
            raise
    return _Library(name, path, _normal_name(package))


def _module_name(package: importlib.metadata.Distribution) -> str:
    for file in package.files or ():
        if len(file.parts) == 2 and file.name == "__init__.py":
            return file.parts[0]
    return _normal_name(package).replace("-", "_")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def rank(
    candidates: Sequence[Candidate], requested: Sequence[str] = (AUTO,), strict: bool = False
) -> Ranking:
    """Choose the order in which candidates are tried. Pure.

    Args:
        requested: provider names, with or without "ExecutionProvider", in any case, optionally
            with a device ("openvino:gpu"); a plug-in also answers to its library's name. "auto"
            stands for everything: GPUs, NPUs, the built-in CPU provider, other ones on the CPU.
        strict: do not append the built-in CPU provider behind an explicit list.
    """
    names = tuple(requested) or (AUTO,)
    ordered = sorted(candidates, key=_auto_key)
    order: list[Choice] = []
    rejections: list[Rejection] = []
    for name in names:
        if _folded(name) == AUTO:
            _append(order, [Choice(c, f"auto: {c.origin} on the {c.device}") for c in ordered])
            continue
        matching = [c for c in ordered if _answers_to(c, name)]
        _append(order, [Choice(c, f"asked for as {name!r}") for c in matching])
        if not matching:
            rejections.append(Rejection(name, "", _absence(ordered)))
    if not strict:
        last = [c for c in ordered if c.provider == CPU_PROVIDER]
        reason = "last resort behind what was asked for"
        _append(order, [Choice(c, reason, fallback=True) for c in last])
    return Ranking(names, tuple(order), tuple(rejections))


def _append(order: list[Choice], choices: Sequence[Choice]) -> None:
    """Each candidate is tried once, at its first place."""
    taken = [choice.candidate for choice in order]
    order += [choice for choice in choices if choice.candidate not in taken]


def _auto_key(candidate: Candidate) -> tuple[int, int, str, int]:
    if candidate.origin == "plug-in" and candidate.device == "cpu":
        place = _PLUGIN_RANK
    else:
        ranks = [k.rank for k in _KNOWN.get(candidate.provider, ()) if k.device == candidate.device]
        place = ranks[0] if ranks else _UNKNOWN_RANK
    index = -1 if candidate.device_index is None else candidate.device_index
    return (_DEVICE_ORDER[candidate.device], place, candidate.provider, index)


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
