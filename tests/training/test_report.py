import re
from html.parser import HTMLParser

import pytest

from training.papers.card import model_card
from training.pipeline import Outcome

pytestmark = pytest.mark.training


class _Links(HTMLParser):
    """Everything in a page that a browser would fetch, and every element that is open."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [v for k, v in attrs if k in {"src", "srcset", "data", "action"} and v]
        self.fetched += [v for k, v in attrs if k in {"href", "xlink:href"} and v]


def page(outcome: Outcome) -> str:
    return outcome.bundle.read("report.html").decode()


def test_report_needs_nothing_else(outcome: Outcome):
    links = _Links()
    links.feed(page(outcome))

    assert all(link.startswith(("data:image/png", "#")) for link in links.fetched)
    assert not {"script", "link", "iframe", "object"} & set(links.tags)
    assert not re.search(r"https?://|@import|url\((?!#)", page(outcome))


def test_report_tells_what_was_found(outcome: Outcome):
    text = page(outcome)

    for one in outcome.selection.trained:
        assert one.candidate.name in text
    for value in outcome.evaluations["test"].metrics.values():
        assert f"{value:.4f}" in text
    for label in outcome.dataset.task.labels:
        assert label in text
    provenance = outcome.manifest.provenance
    assert provenance is not None
    for digest in (provenance.data_sha256, provenance.weights_sha256):
        assert digest in text
    for title in ("How sure these figures are", "Calibration", "Variants"):
        assert f"<h2>{title}</h2>" in text
    for one in outcome.manifest.quality.intervals["test"].values():
        assert f"{one.low:.4f}" in text
        assert f"{one.high:.4f}" in text
    assert ("Where it is weakest" in text) == bool(outcome.manifest.quality.slices)
    assert text.count("<svg") >= 3 + bool(outcome.manifest.quality.slices)
    assert "passed" in text


def test_worst_digits_are_shown_as_pictures(digits: Outcome):
    assert page(digits).count("test row ") >= 12


def test_card_is_that_of_the_version(outcome: Outcome):
    card = outcome.bundle.read("card.md").decode()

    assert card == model_card(outcome.manifest, outcome.dataset)
    assert card.startswith(f"# {outcome.run.name}, version 1\n")
    assert f"Gate: test accuracy at least {outcome.config.gates[0].minimum:g}" in card
