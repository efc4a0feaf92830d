import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from app.bundle.manifest import Manifest
from app.bundle.quality import Interval
from app.bundle.signature import NumberField
from training.data.table import TableSource
from training.evaluation.validate import evaluate
from training.own.tables import own_run
from training.papers.card import model_card
from training.papers.markdown import ROWS_SHOWN
from training.papers.report import CLASSES_DRAWN, VALUES_SHOWN, Findings, report_html
from training.pipeline import Outcome
from training.tasks import Classification

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
    assert provenance.split_sha256 == outcome.split.sha256
    hashes = (provenance.data_sha256, provenance.weights_sha256, provenance.split_sha256)
    for digest in hashes:
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


def findings_of(outcome: Outcome, **changed) -> Findings:
    found = Findings(
        outcome.config,
        outcome.dataset,
        outcome.split,
        outcome.selection,
        outcome.evaluations["test"],
        outcome.proof,
    )
    return replace(found, **changed)


#: A name that means something in HTML, in Markdown and in a formula.
NASTY = "<b>x</b> | `y` *z* $\\frac{$\n# 日本"


def with_field(manifest: Manifest, **changed) -> Manifest:
    first, *rest = manifest.signature.fields
    fields = (first.model_copy(update=changed), *rest)
    signature = manifest.signature.model_copy(update={"fields": fields})
    return manifest.model_copy(update={"signature": signature})


def test_names_of_strangers_mean_nothing_on_the_card(penguins: Outcome):
    task = Classification((NASTY, "b", "c"))
    dataset = replace(penguins.dataset, task=task, source=NASTY, notes=(f"warning: {NASTY}",))
    manifest = with_field(penguins.manifest, name=NASTY, unit=NASTY)
    worst = manifest.quality.slices[0].model_copy(update={"field": NASTY, "few": False})
    quality = manifest.quality.model_copy(update={"slices": (worst,)})
    manifest = manifest.model_copy(update={"description": NASTY, "quality": quality})

    tokens = MarkdownIt("commonmark").enable("table").parse(model_card(manifest, dataset))

    inline = [child for token in tokens for child in token.children or ()]
    assert {child.type for child in inline} <= {
        "text",
        "softbreak",
        "strong_open",
        "strong_close",
        "code_inline",
    }
    assert not any(token.type == "html_block" for token in tokens)
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1"] + ["h2"] * 4
    shown = NASTY.replace("\n", " ")
    # Description, field, unit, class, slice, source, note.
    assert sum(child.content.count(shown) for child in inline) == 7


def test_names_of_strangers_mean_nothing_in_the_report(penguins: Outcome):
    manifest = with_field(penguins.manifest, name=NASTY)
    worst = manifest.quality.slices[0].model_copy(update={"field": NASTY})
    quality = manifest.quality.model_copy(update={"slices": (worst,)})
    manifest = manifest.model_copy(update={"quality": quality, "description": NASTY})
    dataset = replace(penguins.dataset, notes=(NASTY,))

    text = report_html(manifest, findings_of(penguins, dataset=dataset))

    assert "<b>x</b>" not in text
    assert text.count("&lt;b&gt;x&lt;/b&gt;") >= 4


def test_what_was_noticed_in_the_data_is_in_both_papers(penguins: Outcome):
    notes = ("a decision", "warning: 7 rows are copies", "column 'id' is left out: unique")
    dataset = replace(penguins.dataset, notes=notes)

    text = report_html(penguins.manifest, findings_of(penguins, dataset=dataset))
    card = model_card(penguins.manifest, dataset)

    assert "<li>a decision</li>" in text
    assert '<li class="doubtful">warning: 7 rows are copies</li>' in text
    assert "column &#39;id&#39; is left out: unique" in text
    assert all(f"- {note}\n" in card for note in notes)
    assert "Noticed in the data" not in page(penguins)


def test_doubts_are_told_before_all_else(penguins: Outcome):
    spread = {"test": {"accuracy": Interval(low=0.9, high=1.0)}}
    gate = penguins.manifest.gates[0].model_copy(update={"minimum": 0.95, "value": 0.96})
    quality = penguins.manifest.quality.model_copy(update={"intervals": spread})
    manifest = penguins.manifest.model_copy(update={"gates": (gate,), "quality": quality})

    text = report_html(manifest, findings_of(penguins))
    card = model_card(manifest, penguins.dataset)

    assert "1 of 1 gates passed, but not beyond doubt; export proved" in text
    assert "passed, perhaps by chance" in text
    assert "**Doubtful.** The bar of test accuracy, at least 0.9500, was passed with" in card
    assert card.index("Doubtful") < card.index("## Interface")


def test_of_many_fields_the_first_are_shown(penguins: Outcome):
    numbers = np.zeros((len(penguins.test), 2_000), dtype=np.float32)
    fields = tuple(
        NumberField(name=f"column{place}", tensor="numbers", column=place, example=1.0)
        for place in range(2_000)
    )
    signature = penguins.manifest.signature.model_copy(update={"fields": fields})
    manifest = penguins.manifest.model_copy(update={"signature": signature})
    inputs = {**penguins.test.inputs, "numbers": numbers}
    few = replace(penguins.test, inputs=inputs, fields=fields)
    split = replace(penguins.split, train=few, test=few)

    text = report_html(manifest, findings_of(penguins, split=split))
    card = model_card(manifest, penguins.dataset)

    assert text.count(f"<summary>{2_000 - ROWS_SHOWN:,} more</summary>") == 2
    before, _, after = text.partition("<details>")
    assert "<td>column49</td>" in before
    assert "<td>column50</td>" in after
    assert f"The first {VALUES_SHOWN} of 2,000 fields." in text
    assert "| column49 |" in card
    assert "| column50 |" not in card
    assert f"And {2_000 - ROWS_SHOWN:,} more." in card


def test_of_many_classes_no_matrix_is_drawn(penguins: Outcome):
    classes = CLASSES_DRAWN + 40
    task = Classification(tuple(f"class{place}" for place in range(classes)))
    targets = np.arange(len(penguins.test)) % classes
    scores = np.full((len(targets), classes), 0.1, dtype=np.float32)
    scores[:, 0] = 0.9
    rows = replace(penguins.test, task=task, targets=targets)
    split = replace(penguins.split, train=rows, validation=penguins.split.validation, test=rows)
    split = replace(split, validation=replace(split.validation, task=task))
    found = findings_of(
        penguins,
        dataset=replace(penguins.dataset, task=task),
        split=split,
        test=evaluate(scores, rows),
    )

    text = report_html(penguins.manifest, found)

    assert 'class="confusion"' not in text
    assert "Classes most often taken for others" in text
    assert "<tr><td>class1</td><td>class0</td>" in text


def test_why_a_quicker_candidate_was_not_taken_is_told(penguins: Outcome):
    config = penguins.config.with_overrides({"faster_by": 1_000})
    chosen = penguins.selection.chosen
    fast = replace(chosen.latency, one_row_ms=1e-6, batch_ms=1e-6)
    best = dict.fromkeys(chosen.validation.metrics, 0.0)
    other = replace(
        chosen,
        candidate=replace(chosen.candidate, name="quick"),
        validation=replace(chosen.validation, metrics={**best, "log_loss": 9.0}),
        latency=fast,
    )
    selection = replace(penguins.selection, trained=(chosen, other))

    text = report_html(penguins.manifest, findings_of(penguins, config=config, selection=selection))

    assert "Served faster, but not taken: quick (" in text


def test_all_that_is_noticed_in_a_table_goes_with_its_rows(tmp_path: Path):
    file = tmp_path / "birds.csv"
    lines = [f"{place % 7},k,{'ab'[place % 2]}" for place in range(60)]
    file.write_text("\n".join(["size,same,kind", *lines]) + "\n")

    mine = own_run(TableSource(file, ("kind",)), None, {})
    notes = mine.run.collect().notes

    assert notes[: len(mine.collected.notes)] == mine.collected.notes
    assert any(note.startswith("warning: 46 rows are exact copies") for note in notes)
    assert "column 'same' is left out: all values are 'k'" in notes
