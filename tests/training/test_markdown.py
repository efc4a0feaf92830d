import pytest
from markdown_it import MarkdownIt

from training.papers.markdown import ROWS_SHOWN, plain, table

pytestmark = pytest.mark.training

NASTY = [
    "<script>alert(1)</script>",
    "<!-- -->",
    "a | b",
    "`code` and ``more``",
    "*bold* _soft_ __x__ a*b*c",
    "![p](javascript:x) [l](http://e.org)",
    "<http://e.org>",
    "&lt;b&gt; &amp; &#60; AT&T",
    "back\\slash \\* \\",
    "# heading",
    "- list",
    "1. list",
    "12) list",
    "---",
    "===",
    "> said",
    "~~gone~~ $x^2$",
    "bill_length_mm",
    "0.25",
    "-0.25",
    "Länge (cm), 日本",
]


def rendered(text: str) -> MarkdownIt:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def shown(tokens) -> str:
    """All that a reader sees, and an exception where it is more than text."""
    parts = []
    for token in tokens:
        for child in token.children or ():
            assert child.type == "text", child
            parts.append(child.content)
    return "".join(parts)


@pytest.mark.parametrize("text", NASTY)
def test_text_is_shown_letter_by_letter(text: str):
    alone, within, cell = rendered(plain(text)), rendered(f"Is: {plain(text)}."), plain(text)
    tokens = rendered("\n".join(table(("name", "two"), [(text, "x")])))

    assert [token.type for token in alone] == ["paragraph_open", "inline", "paragraph_close"]
    assert shown(alone) == text
    assert shown(within) == f"Is: {text}."
    assert "<" not in cell
    assert shown(tokens) == f"nametwo{text}x"
    assert sum(token.type == "td_open" for token in tokens) == 2


def test_breaks_and_control_characters_are_blanks():
    assert plain("one\n\n# two\r\n```\x00\x1b[2J\u2028x ") == "one # two \\`\\`\\` \\[2J x"


def test_names_and_numbers_stay_readable():
    for text in ("bill_length_mm", "0.25", "-0.25", "a-b (c)", "1,234 of 5"):
        assert plain(text) == text


def test_links_are_not_made_of_addresses():
    assert plain("http://e.org www.e.org") == "http\\://e.org www\\.e.org"


def test_long_tables_end():
    lines = list(table(("a",), [(str(number),) for number in range(2_000)]))

    assert len(lines) == 2 + ROWS_SHOWN + 2
    assert lines[-1] == f"And {2_000 - ROWS_SHOWN:,} more."
