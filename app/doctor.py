"""`python -m app doctor`: what the service would find and use on this machine."""

import platform
from collections.abc import Iterator
from importlib.metadata import version

from app.bundle.store import ModelFolder, open_bundle, scan, verify
from app.engine.cores import available_cores
from app.engine.providers import discover
from app.engine.ranking import rank
from app.errors import ModelportError
from app.settings import Settings

_PACKAGES = ("onnxruntime", "fastapi", "uvicorn", "pydantic", "numpy")


def report(settings: Settings) -> Iterator[str]:
    """Lines for a person, in sections."""
    yield f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "  " + ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    cores = available_cores()
    yield f"Cores: {settings.threads or cores.count} ({cores.reason})"
    yield from _providers(settings)
    yield from _models(settings)


def _providers(settings: Settings) -> Iterator[str]:
    found = discover()
    ranking = rank(found.candidates, settings.provider, strict=settings.provider_strict)
    yield f"Execution providers, in the order they are tried ({', '.join(settings.provider)}):"
    for choice in ranking.order:
        candidate = choice.candidate
        device = " ".join(part for part in (candidate.device, candidate.device_name) if part)
        yield f"  {candidate.provider} ({candidate.origin}, {device}): {choice.reason}"
    for rejection in ranking.rejections:
        yield f"  not {rejection.provider}: {rejection.reason}"
    for problem in found.problems:
        yield f"  problem: {problem.reason}"


def _models(settings: Settings) -> Iterator[str]:
    yield f"Model repository {settings.models}:"
    try:
        folders = scan(settings.models)
    except ModelportError as error:
        yield f"  {error}"
        return
    if not folders:
        yield "  empty: publish a model with `python -m training run digits`"
    for folder in folders:
        yield f"  {folder.name}" + (f" (pinned to {folder.pin})" if folder.pin else "")
        for problem in folder.problems:
            yield f"    problem: {problem}"
        for number in folder.versions:
            yield f"    version {number}: {_state(folder, number)}"


def _state(folder: ModelFolder, number: int) -> str:
    try:
        bundle = open_bundle(folder.path, number)
        verify(bundle)
    except ModelportError as error:
        return str(error)
    return f"complete, {bundle.manifest.task}, digest {bundle.digest[:12]}"
