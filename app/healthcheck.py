"""`python -m app.healthcheck`: exit status 0 where the service here is ready, else 1.

For a container's health check: the address is the service's own, from its settings.
"""

import http.client
import ipaddress
import sys
from typing import Final

from app.errors import SettingsError
from app.settings import Settings, load_settings

TIMEOUT_S: Final = 2.0


def main() -> int:
    try:
        problem = find_problem(load_settings())
    except SettingsError as error:
        problem = str(error)
    if problem is None:
        return 0
    sys.stderr.write(f"not ready: {problem}\n")
    return 1


def find_problem(settings: Settings, timeout_s: float = TIMEOUT_S) -> str | None:
    """Ask `/health/ready`; None where the answer is 200."""
    connection = http.client.HTTPConnection(_reachable(settings.host), settings.port, timeout_s)
    try:
        connection.request("GET", "/health/ready")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no answer on port {settings.port} ({type(error).__name__})"
    finally:
        connection.close()
    return None if status == http.client.OK else f"status {status}"


def _reachable(host: str) -> str:
    """Where a service that listens on `host` is reached: "every address" is none to connect to."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


if __name__ == "__main__":
    sys.exit(main())
