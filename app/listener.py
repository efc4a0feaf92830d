"""The socket that the service listens on."""

import socket

from app.errors import SettingsError
from app.settings import Settings


def bind(settings: Settings) -> socket.socket:
    """Bound but not yet listening: a client is refused until the models are proved.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except (OSError, UnicodeError, TypeError) as error:  # the last two for what is no host name
        listener.close()
        raise cannot_listen(settings, error) from None
    return listener


def cannot_listen(settings: Settings, error: Exception) -> SettingsError:
    reason = getattr(error, "strerror", None) or str(error)
    return SettingsError(
        f"cannot listen on {settings.host} port {settings.port}: {reason.lower()}; "
        "choose another with MODELPORT_HOST and MODELPORT_PORT"
    )
