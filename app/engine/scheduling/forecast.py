"""When a run can begin, from when others end and the work that is before it. Pure arithmetic."""

from collections.abc import Sequence


def start_s(ends_s: Sequence[float], lanes: int, width: int, work_s: float) -> float:
    """Seconds until `width` of `lanes` are there, after `work_s` has been done on all of them.

    Work is poured into the lanes as they come free, like water into steps of a stair: its level is
    the answer.

    Args:
        ends_s: when busy lanes come free, in order; at most `lanes`. Past ends count as now.
        work_s: lane-seconds of work that is before it.
    """
    free = lanes - len(ends_s)
    own_s = max(0.0, ends_s[width - free - 1]) if width > free else 0.0
    total_s = work_s
    level_s = work_s / free if free else 0.0
    for count, end_s in enumerate(ends_s, free + 1):
        if count > 1 and level_s <= end_s:
            break
        total_s += max(0.0, end_s)
        level_s = total_s / count
    return max(own_s, level_s)
