"""This program's own modules as child processes."""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parent.parent


@cache
def python_module(module: str) -> Sequence[str]:
    """The command that runs a module of ours, also where another `app` lies in the working folder.

    Python looks there first; this package was found there, or it is found without.
    """
    safe = () if Path.cwd() == _ROOT else ("-P",)
    return (sys.executable, *safe, "-m", module)
