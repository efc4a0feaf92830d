"""How good a model is and how sure that is: the part of the manifest that people read."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from app.bundle.signature import Record


class Interval(Record):
    """Where a figure would lie with other rows of the same kind, by bootstrap."""

    low: float
    high: float


class Calibration(Record):
    """What dividing the model's numbers by a temperature changed.

    Of the validation rows, on which it was fitted, and of the test rows, which only measure.
    """

    temperature: float = Field(gt=0)
    #: Whether the graph divides by it; it does not where that would not lower the log loss.
    kept: bool
    #: For each split the log loss and the expected calibration error.
    before: Mapping[str, Mapping[str, float]]
    after: Mapping[str, Mapping[str, float]]


class Slice(Record):
    """The chief metric on the test rows that have something in common."""

    field: str
    #: Which values of the field, in words.
    values: str
    rows: int = Field(ge=1)
    metric: str
    value: float
    interval: Interval
    #: So few rows that the value says little.
    few: bool


class Predecessor(Record):
    """The version that was published before, on the same test rows.

    `change` is the new one's metric minus the old one's, and relative to the old one's where
    `relative`; its interval is that of a paired bootstrap.
    """

    version: int
    digest: str
    metric: str
    metrics: Mapping[str, float]
    change: float
    relative: bool
    interval: Interval
    #: The largest step to the worse that is let pass where it is no chance.
    limit: float
    verdict: Literal["better", "equal within chance", "worse within the limit", "worse"]
    #: Whether neither can have been trained on these rows: same data, same division.
    same_division: bool


class Baseline(Record):
    """What a model that needs no thought reaches, fitted on the same rows."""

    name: str
    description: str
    #: On the test rows.
    metrics: Mapping[str, float]
    #: The published model's chief metric minus this one's, by a paired bootstrap.
    metric: str
    change: float
    interval: Interval


class Quality(Record):
    """Beside `metrics` and `gates`."""

    #: By split, by metric.
    intervals: Mapping[str, Mapping[str, Interval]] = Field(default_factory=dict)
    calibration: Calibration | None = None
    #: Worst first, those of few rows last.
    slices: tuple[Slice, ...] = ()
    predecessor: Predecessor | None = None
    baselines: tuple[Baseline, ...] = ()
    #: Variants that were made and left out, and why.
    left_out: Mapping[str, str] = Field(default_factory=dict)
