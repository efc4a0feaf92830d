"""Settings that are words with a form of their own: what may be said, and what is answered else.

Every function returns what was given, in the one form that is kept, and raises ValueError with the
forms that there are.
"""

import re
from typing import Final

from training.errors import hint_of

#: Nine digits are more than anyone waits for.
_BUDGET: Final = re.compile(r"[1-9][0-9]{0,8}[smh]|trials=[1-9][0-9]{0,8}")
_WAYS: Final = ("auto", "random", "stratified")
_WAYS_BY_COLUMN: Final = ("group", "time")
_VARIANTS: Final = ("auto", "none", "int8", "fp16", "int8,fp16", "fp16,int8")


def check_budget(given: str) -> str:
    """`30s`, `10m`, `2h`, `trials=50`; nothing is no search."""
    if given and not _BUDGET.fullmatch(given):
        raise ValueError(
            "a budget is a time above 0, such as 30s, 10m or 2h, or a number of trials above 0, "
            "such as trials=50"
        )
    return given


def check_split(given: str) -> str:
    """`auto`, `random`, `stratified`, `group:COLUMN`, `time:COLUMN`."""
    way, _, column = given.partition(":")
    if given in _WAYS or (way in _WAYS_BY_COLUMN and column):
        return given
    known = (*_WAYS, *_WAYS_BY_COLUMN)
    hint = "" if way in known else hint_of(way, known)
    raise ValueError(
        f"{given!r} is no way to divide rows{hint}; there are {', '.join(_WAYS)}, group:COLUMN "
        "and time:COLUMN, such as time:date"
    )


def split_column(given: str) -> str | None:
    """The column that a checked split divides by, if it does."""
    way, _, column = given.partition(":")
    return column if way in _WAYS_BY_COLUMN else None


def check_variants(given: str) -> str:
    """`auto`, `none`, `int8`, `fp16`, or both of these."""
    plain = given.replace(" ", "")
    if plain in _VARIANTS:
        return plain
    raise ValueError(
        f"{given!r} is no choice of variants{hint_of(plain, _VARIANTS)}; there are auto, none, "
        "int8, fp16 and int8,fp16"
    )
