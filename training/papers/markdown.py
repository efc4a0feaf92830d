"""Text of strangers in Markdown: names and values stay what they are, and mean nothing."""

import re
from collections.abc import Iterator, Sequence

#: Of a table; more rows nobody reads on a card.
ROWS_SHOWN = 50

_BREAKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")
#: An underscore within a word emphasises nothing, and most names of columns have some.
_MARKS = re.compile(r"[\\`*\[\]~$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.")
#: What would begin a heading or a list, or be a rule.
_BEGINNING = re.compile(r"^(?:(#{1,6}|[+-])(?=\s|$)|([=-]+)$|(\d{1,9})(?=[.)](?:\s|$)))")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}


def plain(text: str) -> str:
    """In one line, and shown by a renderer of Markdown letter by letter: no HTML, links, emphasis,
    code, formulas or cells of a table."""
    line = _BREAKS.sub(" ", text).strip()
    marked = _MARKS.sub(lambda found: "\\" + found[0], line)
    whole = re.sub("[&<>|]", lambda found: _ENTITIES[found[0]], marked)
    return _BEGINNING.sub(_literal, whole)


def _literal(found: re.Match[str]) -> str:
    return f"{found[0]}\\" if found[3] else f"\\{found[0]}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Cells as text, not as Markdown; the rows after `ROWS_SHOWN` are counted."""
    yield f"| {' | '.join(map(plain, head))} |"
    yield "|" + "---|" * len(head)
    for row in rows[:ROWS_SHOWN]:
        yield f"| {' | '.join(map(plain, row))} |"
    if len(rows) > ROWS_SHOWN:
        yield ""
        yield f"And {len(rows) - ROWS_SHOWN:,} more."
