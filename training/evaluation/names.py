"""The metrics of each task by name, and which end of each is the better one.

Apart from what computes them, so that a mistyped gate is found before anything is read.
"""

from typing import Final

#: Of one class a row; that of `BINARY` needs two classes.
CLASSES: Final = ("accuracy", "macro_f1", "log_loss", "expected_calibration_error")
BINARY: Final = "roc_auc"
LABELS: Final = ("macro_f1", "micro_f1", "exact_match", "log_loss", "expected_calibration_error")
NUMBERS: Final = ("rmse", "mae", "median_absolute_error", "r2")
#: The more the better, 1 at most.
RISING: Final = frozenset({"accuracy", "macro_f1", "micro_f1", "exact_match", "roc_auc", "r2"})
#: The less the better, 0 at least: all others.
#: Bounds that look like per cent.
PERCENT: Final = (2, 100)
KNOWN: Final = tuple(dict.fromkeys((*CLASSES, BINARY, *LABELS, *NUMBERS)))


def bar_problem(metric: str, sign: str, bound: float) -> str | None:
    """Why no model can be asked for this, in words; None where it can.

    Args:
        sign: `>=` or `<=`.
    """
    rising = metric in RISING
    if rising != (sign == ">="):
        more, right = ("more", ">=") if rising else ("less", "<=")
        return f"{more} {metric} is better, as in {metric}{right}{bound:g}"
    if rising and bound > 1:
        share = f", as in {metric}>={bound / 100:g}" if PERCENT[0] <= bound <= PERCENT[1] else ""
        return f"{metric} is 1 at most{share}"
    if not rising and bound < 0:
        return f"{metric} is never below 0"
    return None
