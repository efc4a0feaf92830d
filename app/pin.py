"""`python -m app pin NAME VERSION` and `unpin NAME`: which version of a model must serve."""

from app.bundle.pins import remove_pin, write_pin
from app.bundle.store import ModelFolder, check_pinnable, scan
from app.errors import ModelportError, PinFailed
from app.settings import Settings


def pin(settings: Settings, name: str, version: int) -> str:
    """Pin a version that is published and whole; the line for a person to read.

    Services that poll the repository obey it by themselves.

    Raises:
        PinFailed: why it is not pinned.
    """
    try:
        folder = _folder(settings, name)
        check_pinnable(folder, version)
        write_pin(folder.path, version)
    except ModelportError as error:
        raise PinFailed(str(error)) from None
    return f"{name} is pinned to version {version}"


def unpin(settings: Settings, name: str) -> str:
    """Remove a model's pin; the line for a person to read.

    Raises:
        PinFailed: why it is not removed.
    """
    try:
        folder = _folder(settings, name)
        remove_pin(folder.path)
    except ModelportError as error:
        raise PinFailed(str(error)) from None
    if folder.pin is None and not folder.pin_problem:
        return f"{name} was not pinned"
    return f"{name} is not pinned any more: its newest version that proves will serve"


def _folder(settings: Settings, name: str) -> ModelFolder:
    folders = {folder.name: folder for folder in scan(settings.models)}
    if name not in folders:
        known = ", ".join(folders) or "none"
        raise PinFailed(f"no model {name!r} is in the repository; there are: {known}")
    return folders[name]
