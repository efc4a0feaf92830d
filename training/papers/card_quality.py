"""The card's lines on how sure the figures are, and on what the model was compared with."""

from collections.abc import Iterator

from app.bundle.manifest import Manifest
from app.bundle.quality import Calibration, Predecessor, Quality
from training.papers.markdown import plain

#: Of the slices, the worst.
SLICES_TOLD = 3


def quality_lines(manifest: Manifest, quality: Quality) -> Iterator[str]:
    """Markdown, a blank line behind each part."""
    chief = quality.slices[0].metric if quality.slices else None
    spreads = quality.intervals.get("test", {})
    if spreads:
        told = [f"{_words(name)} {one.low:.4f} to {one.high:.4f}" for name, one in spreads.items()]
        yield f"On other rows of the same kind, 19 times of 20: {'; '.join(told)}."
        yield ""
    if quality.calibration is not None:
        yield _calibrated(quality.calibration)
        yield ""
    if chief is not None:
        worst = [one for one in quality.slices if not one.few][:SLICES_TOLD]
        told = [f"{one.field} {one.values}: {one.value:.4f} ({one.rows} rows)" for one in worst]
        if told:
            weakest = plain("; ".join(told))
            yield f"Weakest by {_words(chief)} of the test rows: {weakest}."
            yield ""
    if quality.predecessor is not None:
        yield _compared(quality.predecessor)
        yield ""
    for variant, made in manifest.variants.items():
        speed = ", ".join(f"{ratio:.2f} × at {rows}" for rows, ratio in made.speedup.items())
        yield f"Variant {variant} in `{made.file}`: {speed} rows, measured where it was made."
    for name, reason in quality.left_out.items():
        yield f"Variant {name} is left out: {plain(reason)}."
    if manifest.variants or quality.left_out:
        yield ""


def _calibrated(found: Calibration) -> str:
    before, after = (
        part["test"]["expected_calibration_error"] for part in (found.before, found.after)
    )
    if not found.kept:
        return "A temperature did not make the scores more honest."
    return (
        f"Scores are calibrated by the temperature {found.temperature:.3f}: expected calibration "
        f"error of the test rows {after:.4f}, {before:.4f} without."
    )


def _compared(old: Predecessor) -> str:
    change = f"{100 * old.change:+.2f} %" if old.relative else f"{old.change:+.4f}"
    caveat = "" if old.same_division else "; it may have been trained on some of these rows"
    return (
        f"Against version {old.version} on the same test rows: {_words(old.metric)} {change}, "
        f"{old.verdict}{caveat}."
    )


def _words(metric: str) -> str:
    return metric.replace("_", " ")
