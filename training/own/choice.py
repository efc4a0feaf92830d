"""Which sort of run a user's own table makes: as its owner says by kinds, or as it looks."""

from collections.abc import Mapping
from typing import Final

from training.config import RunConfig
from training.data.files import read_table
from training.data.kinds import Kind
from training.data.picture_cells import hold_pictures
from training.data.records import Table
from training.data.series import Layout
from training.data.split import split_rule
from training.data.table import TableSource
from training.errors import UsageError
from training.own.images import column_run
from training.own.sequences import series_run, text_run
from training.own.tables import OwnRun, own_run

#: What a file says of a column that may hold pictures, or their names.
_MAY_BE_PICTURES: Final = (None, "text", "bytes")


def any_own_run(source: TableSource, name: str | None, settings: Mapping[str, object]) -> OwnRun:
    """A run of texts where a column is given as text, of series where one tells them apart, of
    pictures where one is given as such or holds such, else of a table.

    Arguments and errors as for `own_run`.
    """
    texts, series, images = (_of_kind(source, kind) for kind in ("text", "series", "image"))
    steps = _of_kind(source, "step")
    if steps and not series:
        raise UsageError(f"{steps} is a step, but of no column is it said that it tells series")
    several = {"is text": texts, "tells series": series, "holds pictures": images}
    said = [f"{column} {what}" for what, column in several.items() if column]
    if len(said) > 1:
        raise UsageError(f"{' and '.join(said)}; a run is of one of them")
    if texts:
        return text_run(source, texts, name, settings)
    if series:
        return series_run(source, Layout(series, steps), name, settings)
    if images:
        return column_run(source, images, name, settings)
    table = read_table(source.path)
    images = _holding_pictures(table, source, RunConfig().with_overrides(settings).split)
    if images:
        return column_run(source, images, name, settings, table)
    return own_run(source, name, settings, table)


def _of_kind(source: TableSource, kind: Kind) -> str | None:
    """The column of a kind.

    Raises:
        UsageError: there are two.
    """
    names = [name for name, given in source.fields.items() if given == kind]
    if len(names) > 1:
        raise UsageError(f"one column at most is of kind {kind}, not {', '.join(names)}")
    return names[0] if names else None


def _holding_pictures(table: Table, source: TableSource, split: str) -> str | None:
    """The column that holds pictures by all signs, of those of which nothing is said.

    Raises:
        UsageError: there are two.
    """
    said = {*source.fields, *source.target, split_rule(split).column}
    names = [
        series.name
        for series in table.frame
        if series.name not in said
        and table.native.get(series.name) in _MAY_BE_PICTURES
        and hold_pictures(table, series.drop_nulls())
    ]
    if len(names) > 1:
        raise UsageError(
            f"columns {', '.join(names)} hold pictures; a run learns from one alone: say which by "
            f"{names[0]}=image as a field, or =drop of the others"
        )
    return names[0] if names else None
