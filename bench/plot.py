"""`python -m bench.plot RESULT.json`: bars of a kept result, for the README.

One result, since figures of two runs are not to be compared.

Colours are between black and white, on nothing: the picture is readable on a light and a dark page.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.acceptance import OURS
from bench.targets import BARE

PICTURE: Final = Path(__file__).parent.parent / "docs" / "benchmarks.svg"
_LOAD: Final = "64"
_FIGURES: Final = (("per_s", "requests/s"), ("cpu_us", "CPU µs a request"))
_TITLES: Final = {
    "mlp-json": "Small MLP, JSON",
    "cnn28-json": "CNN on 28 × 28, JSON",
    "cnn28-binary": "CNN on 28 × 28, binary",
    "cnn224-binary": "MobileNet on 224 × 224, binary",
    "cnn224-jpeg": "MobileNet on 224 × 224, JPEG",
}
_LARGE: Final = ("cnn224-binary", "cnn224-jpeg")
_INK: Final = "#808890"
_OTHERS: Final = "#98a0a8"
_OWN: Final = "#2f81f7"
_INCHES_A_BAR: Final = 0.24


@dataclass(frozen=True)
class Bar:
    server: str
    value: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plot", description=__doc__)
    parser.add_argument("result", type=Path, help="a file that --save wrote")
    parser.add_argument("--out", type=Path, default=PICTURE, help="default docs/benchmarks.svg")
    options = parser.parse_args()
    draw(json.loads(options.result.read_text()), options.out)
    print(options.out)


def draw(document: dict[str, Any], out: Path) -> None:
    """A row for each case that was measured, a column for each figure."""
    cases = [case for case in _TITLES if bars(document, case, _FIGURES[0][0])]
    heights = [1 + len(bars(document, case, _FIGURES[0][0])) for case in cases]
    # Letters stay letters, and the same results give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9}):
        figure = Figure(figsize=(9, _INCHES_A_BAR * sum(heights) + 0.3), layout="constrained")
        grid = figure.subplots(
            len(cases), len(_FIGURES), squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for row, case in zip(grid, cases, strict=True):
            for axes, (figure_name, words) in zip(row, _FIGURES, strict=True):
                _panel(axes, bars(document, case, figure_name), f"{_TITLES[case]}: {words}")
        figure.suptitle(f"{_LOAD} connections", color=_INK, fontsize=9)
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})


def bars(document: dict[str, Any], case: str, figure: str) -> list[Bar]:
    """Of each server that was measured. A server without a model would hide the others where the
    model is large."""
    return [
        Bar(cell["server"], cell[figure])
        for cell in document["cells"]
        if (cell["case"], cell["load"]) == (case, _LOAD)
        and cell[figure] is not None
        and not (cell["server"] == BARE.name and case in _LARGE)
    ]


def _panel(axes: Axes, shown: Sequence[Bar], title: str) -> None:
    ordered = sorted(shown, key=lambda bar: bar.value)
    colours = [_OWN if bar.server == OURS else _OTHERS for bar in ordered]
    drawn = axes.barh(
        [bar.server for bar in ordered], [bar.value for bar in ordered], color=colours
    )
    axes.bar_label(drawn, labels=[f"{bar.value:,.0f}" for bar in ordered], padding=3, color=_INK)
    axes.set_title(title, color=_INK, loc="left", fontsize=9)
    axes.tick_params(colors=_INK, length=0, labelbottom=False)
    axes.margins(x=0.15)
    for spine in axes.spines.values():
        spine.set_visible(False)


if __name__ == "__main__":
    main()
