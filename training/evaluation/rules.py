"""How the rules of thresholds are written."""

import re
from typing import Final

#: The rule that leaves the choice to the higher score.
USUAL: Final = "0.5"
LEAST: Final = re.compile(r"(?P<metric>recall|precision)>=(?P<least>0?\.[0-9]+|1(\.0+)?)")


def check_rule(rule: str) -> str:
    """The rule without blanks: a number between 0 and 1, `f1`, `recall>=0.9`, `precision>=0.9`.

    Raises:
        ValueError: it is none of those.
    """
    plain = rule.replace(" ", "")
    number = number_of(plain)
    if plain != "f1" and not LEAST.fullmatch(plain) and not (number and 0 < number < 1):
        raise ValueError(f"{rule!r} is not like 0.4, f1, recall>=0.9 or precision>=0.9")
    return plain


def number_of(rule: str) -> float | None:
    try:
        return float(rule)
    except ValueError:
        return None
