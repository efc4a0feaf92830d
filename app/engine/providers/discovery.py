"""Which candidates this machine offers, found without trusting a plug-in's library.

What ONNX Runtime brings is listed here; each plug-in package is loaded in a child process of its
own, so that one that crashes or hangs is a problem that is reported.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from app.engine.proof.child import run_job
from app.engine.proof.in_child import DiscoveryJob
from app.engine.providers import installed as providers
from app.engine.providers.installed import Discovery, Problem
from app.errors import EngineError

logger = logging.getLogger(__name__)

_PACKAGE_TIMEOUT_S: Final = 60.0
_DISCOVERY: Final = TypeAdapter(Discovery)

RunJob = Callable[[Mapping[str, Any], float], Mapping[str, Any]]


def discover_apart(run: RunJob = run_job, timeout_s: float = _PACKAGE_TIMEOUT_S) -> Discovery:
    """List what can be tried, in no order. Blocks; raises nothing.

    Args:
        timeout_s: for each plug-in package.
    """
    packages = providers.installed()
    plugins = [package for package in packages if providers.is_plugin(package)]
    here = providers.discover(distributions=[p for p in packages if p not in plugins])
    candidates, problems = list(here.candidates), list(here.problems)
    for package in plugins:
        name = providers.normal_name(package)
        try:
            told = run(DiscoveryJob(package=name).model_dump(), timeout_s)
            found = _DISCOVERY.validate_python(told)
        except EngineError as error:
            problems.append(Problem(name, f"cannot be loaded: {error}"))
            continue
        except ValidationError:
            problems.append(Problem(name, "cannot be loaded: told nonsense"))
            continue
        candidates += found.candidates
        problems += found.problems
    plugged = {candidate.provider for candidate in candidates if candidate.library is not None}
    kept = [c for c in candidates if c.library is not None or c.provider not in plugged]
    return Discovery(tuple(kept), tuple(problems))
