"""Why a candidate that is served faster was not taken."""

from training.selection.select import Doubt, Selection, Trained
from training.tasks import Metric, Task

#: Differences below this are those of two measurements of one graph.
NOTEWORTHY = 1.2


def why_not_quicker(selection: Selection, task: Task, faster_by: float, doubt: Doubt) -> str:
    """A sentence; nothing where no other is clearly faster, or where a faster one was taken.

    Args:
        faster_by: how many times as fast a candidate had to be; 0 for never.
        doubt: as `choose` had it.
    """
    chosen = selection.chosen
    sound = [one for one in selection.trained if not one.fault]
    if any(_is_better(one, chosen, task) for one in sound):
        return ""
    faster = sorted(
        ((_times_as_fast(one, chosen), one) for one in sound if one is not chosen),
        key=lambda pair: -pair[0],
    )
    told = [
        f"{one.candidate.name} ({times:.1f} times as fast; "
        f"{_obstacle(one, chosen, task, doubt, times=times, faster_by=faster_by)})"
        for times, one in faster
        if times >= NOTEWORTHY
    ]
    return f"Served faster, but not taken: {', '.join(told)}." if told else ""


def _is_better(one: Trained, chosen: Trained, task: Task) -> bool:
    ranks = (
        tuple(metric.rank(_value(each, metric)) for metric in (task.chief, task.second))
        for each in (one, chosen)
    )
    return next(ranks) < next(ranks)


def _times_as_fast(one: Trained, chosen: Trained) -> float:
    if one.latency is None or chosen.latency is None:
        return 0.0
    return one.latency.times_as_fast_as(chosen.latency)


def _obstacle(
    one: Trained, chosen: Trained, task: Task, doubt: Doubt, *, times: float, faster_by: float
) -> str:
    if not faster_by:
        return "speed does not count with faster_by=0"
    if times < faster_by:
        return f"faster_by asks for {faster_by:g}"
    for metric in (task.chief, task.second):
        behind = metric.rank(_value(one, metric)) - metric.rank(_value(chosen, metric))
        chance = doubt(one, chosen, metric)
        if behind > chance:
            name = metric.name.replace("_", " ")
            return (
                f"validation {name} {_value(one, metric):.4f} against "
                f"{_value(chosen, metric):.4f}, more than the standard error of {chance:.4f}"
            )
    return "another as good was ranked before it"


def _value(one: Trained, metric: Metric) -> float:
    return one.validation.metrics[metric.name]
