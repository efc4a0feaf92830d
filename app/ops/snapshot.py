"""The figures of a process at one moment; those of several become one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import orjson
from pydantic import BaseModel, ValidationError

from app.ops.families import FAMILIES, MODEL_INFO, Family

Labels = tuple[str, ...]
#: One number, or of a histogram its sum and the count of each bucket.
Values = tuple[float, ...]
Series = Mapping[Labels, Values]

#: Versions whose figures are kept of processes that have ended.
_KEPT_VERSIONS: Final = 1024


@dataclass(frozen=True)
class Snapshot:
    """Values by family and labels; copies, so that another thread may have it.

    Attributes:
        sequence: later ones of the same process have a higher one.
    """

    series: Mapping[str, Series] = field(default_factory=dict)
    sequence: int = 0

    def of(self, family: Family) -> Series:
        return self.series.get(family.name, {})

    def select(self, keep: Callable[[Family, Labels], bool]) -> "Snapshot":
        """Only the series that `keep` wants."""
        chosen = {
            family.name: {
                labels: values for labels, values in self.of(family).items() if keep(family, labels)
            }
            for family in FAMILIES
        }
        return Snapshot(chosen, self.sequence)


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """What all of them say together."""
    every = tuple(snapshots)
    return Snapshot({family.name: _joined(family, every) for family in FAMILIES})


def _joined(family: Family, snapshots: Iterable[Snapshot]) -> Series:
    joined: dict[Labels, Values] = {}
    for snapshot in snapshots:
        for labels, values in snapshot.of(family).items():
            # Taken out first, so that what came last stands last.
            before = joined.pop(labels, None)
            joined[labels] = values if before is None else _join(family, before, values)
    return joined


def _join(family: Family, one: Values, other: Values) -> Values:
    return tuple(map(family.join, one, other))


def retire(retired: Snapshot, ended: Snapshot) -> Snapshot:
    """Add what a process that has ended did to what others did before it.

    Gauges are left out: they say what is. Versions that nobody has served for long are, too.
    """
    both = merge((retired, ended))
    newest = _newest_versions(both)
    return both.select(
        lambda family, labels: (
            family.outlives and (not family.is_of_versions or labels[:2] in newest)
        )
    )


def _newest_versions(snapshot: Snapshot) -> frozenset[Labels]:
    versions = [
        labels[:2] for family in FAMILIES if family.is_of_versions for labels in snapshot.of(family)
    ]
    return frozenset(list(dict.fromkeys(reversed(versions)))[:_KEPT_VERSIONS])


def shown(snapshot: Snapshot) -> Snapshot:
    """Without the figures of versions that no process has loaded any more.

    A process keeps them: if they went with the first process that lets a version go, the sum over
    all would fall, and Prometheus would take the rest of it for new.
    """
    loaded = {labels[:2] for labels in snapshot.of(MODEL_INFO)}
    return snapshot.select(lambda family, labels: not family.is_of_versions or labels[:2] in loaded)


class Document(BaseModel):
    """A snapshot as JSON."""

    format: Literal[1] = 1
    #: Family, then labels and values of each series.
    series: dict[str, list[tuple[Labels, Values]]] = {}
    #: Numbers of the processes whose figures are in this one.
    retired: list[int] = []


def write_document(snapshot: Snapshot, retired: Iterable[int] = ()) -> bytes:
    series = {name: list(series.items()) for name, series in snapshot.series.items()}
    return orjson.dumps({"format": 1, "series": series, "retired": list(retired)})


def read_document(data: bytes) -> tuple[Snapshot, list[int]]:
    """A snapshot, and the numbers of the processes that it holds beside its own.

    Raises:
        ValueError: it is broken or of another format.
    """
    try:
        document = Document.model_validate_json(data)
    except ValidationError:
        raise ValueError("not a snapshot of this format") from None
    for family in FAMILIES:
        for labels, values in document.series.get(family.name, ()):
            _check(family, labels, values)
    return Snapshot({n: dict(series) for n, series in document.series.items()}), document.retired


def _check(family: Family, labels: Labels, values: Values) -> None:
    wanted = len(family.bounds) + 2 if family.kind == "histogram" else 1
    if len(labels) != len(family.labels) or len(values) != wanted:
        raise ValueError(f"a series of {family.name} has another form")
