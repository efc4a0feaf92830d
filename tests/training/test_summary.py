import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from app.bundle.quality import Interval
from training.papers import summary
from training.pipeline import Outcome

pytestmark = pytest.mark.training


def printed(outcome: Outcome, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    summary.show(outcome, console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_fit_and_no_cell_is_cut(outcome: Outcome, width: int):
    tables = printed(outcome, width).partition("Published")[0]

    assert "…" not in tables
    assert max(map(cell_len, tables.splitlines())) <= width
    words = tables.split()
    for one in outcome.selection.trained:
        assert one.candidate.name in words
        assert f"{one.validation.metrics['accuracy']:.4f}" in words
    assert words.count("chosen") == 1
    for baseline in outcome.manifest.quality.baselines:
        assert baseline.name in tables
        assert f"{baseline.change:+.4f}" in words


def test_wide_terminals_have_all_columns(outcome: Outcome):
    text = printed(outcome, 200)

    for heading in ("parameters", "epochs", "seconds", "ms, 1 row", "the model is"):
        assert heading in text


def test_doubts_are_printed(penguins: Outcome):
    manifest, quality = penguins.manifest, penguins.manifest.quality
    spread = {"test": {"accuracy": Interval(low=0.9, high=1.0)}}
    gate = manifest.gates[0].model_copy(update={"minimum": 0.95, "value": 0.96})
    doubted = manifest.model_copy(
        update={"gates": (gate,), "quality": quality.model_copy(update={"intervals": spread})}
    )
    outcome = replace(penguins, bundle=replace(penguins.bundle, manifest=doubted))

    text = " ".join(printed(outcome, 200).split())

    assert "passed, perhaps by chance: at least 0.9500" in text
    assert "doubtful: The bar of test accuracy, at least 0.9500, was passed with 0.9600" in text
