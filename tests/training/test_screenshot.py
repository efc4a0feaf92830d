"""The report as a browser shows it: nothing runs out of the page, plots are there, both schemes."""

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.papers.report import Findings, report_html
from training.pipeline import Outcome

pytestmark = [pytest.mark.training, pytest.mark.slow]

VARIABLE = "MODELPORT_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDE, NARROW = 1280, 400
HEIGHT = 2400
SCHEMES = {"light": 1, "dark": 0}
TIMEOUT_S = 60

#: Looks at a page in a frame, and leaves what it saw as JSON in its own title.
LOOK = """
<script>
function look(frame) {
  const page = frame.contentDocument, root = page.documentElement, width = root.clientWidth;
  const scrolls = e => e && (["auto", "scroll"].includes(frame.contentWindow
    .getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  const named = e => e.tagName + "." + e.className + ": " + e.textContent.trim().slice(0, 40);
  const all = selector => [...page.querySelectorAll(selector)];
  const out = all("body *").filter(e => !scrolls(e) && e.getBoundingClientRect().right > width + 1);
  const touching = all("svg").flatMap(svg => {
    const ticks = [...svg.querySelectorAll('g[id^="xtick_"] text')];
    const boxes = ticks.map(e => [e.getBoundingClientRect(), e.textContent]);
    return boxes.flatMap(([a, one], i) => boxes.slice(i + 1)
      .filter(([b, _]) => a.left < b.right && b.left < a.right && a.top < b.bottom
        && b.top < a.bottom).map(([_, other]) => one + " on " + other));
  });
  const drawn = all("svg, img").map(e => e.getBoundingClientRect());
  document.title = JSON.stringify({
    width, scroll_width: root.scrollWidth, out: out.map(named), touching,
    headings: all("h2").map(e => e.textContent), plots: all(".plot > svg").length,
    pictures: all("img").length, undrawn: drawn.filter(r => r.width < 20 || r.height < 20).length,
    back: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
  });
}
</script>
"""


@dataclass(frozen=True)
class Browser:
    """A Chromium without a window."""

    program: str
    profile: Path

    def run(self, page: Path, *options: str, scheme: str, size: tuple[int, int]) -> str:
        width, height = size
        done = subprocess.run(
            [
                self.program,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--no-first-run",
                f"--user-data-dir={self.profile}",
                f"--window-size={width},{height}",
                f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
                *options,
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        return done.stdout

    def look(self, page: str, folder: Path, width: int, scheme: str = "light") -> dict[str, Any]:
        """What `LOOK` says of a page in a frame of this width, in pixels."""
        inside = html.escape(page, quote=True)
        frame = f'<iframe onload="look(this)" style="width:{width}px;height:900px;border:0"'
        wrapper = folder / "wrapper.html"
        wrapper.write_text(f'<!doctype html>{LOOK}{frame} srcdoc="{inside}"></iframe>')
        said = self.run(wrapper, "--dump-dom", scheme=scheme, size=(1600, 1000))
        title = re.search(r"<title>(.*?)</title>", said, re.DOTALL)
        assert title is not None, said[:500]
        found: dict[str, Any] = json.loads(html.unescape(title[1]))
        return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    named = os.environ.get(VARIABLE)
    program = named or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is there, and {VARIABLE} is not set")
    return Browser(program, tmp_path_factory.mktemp("profile"))


def page_of(outcome: Outcome) -> str:
    return outcome.bundle.read("report.html").decode()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_report_is_a_picture_of_many_parts(
    browser: Browser, outcome: Outcome, scheme: str, tmp_path: Path
):
    shot = tmp_path / "report.png"

    browser.run(
        outcome.bundle.path / "report.html",
        f"--screenshot={shot}",
        scheme=scheme,
        size=(WIDE, HEIGHT),
    )

    with Image.open(shot) as file:
        picture = file.convert("RGB")
    assert picture.size == (WIDE, HEIGHT)
    colors = picture.getcolors(WIDE * HEIGHT)
    assert len(colors) > 300
    card, page = sorted((count for count, _ in colors), reverse=True)[:2]
    assert page > 0.1 * WIDE * HEIGHT  # cards on a page
    assert card + page > 0.7 * WIDE * HEIGHT
    pixels = np.asarray(picture).astype(np.float32)
    bands = pixels.reshape(12, HEIGHT // 12, WIDE, 3)
    assert (bands.std(axis=(1, 2, 3)) > 5).sum() >= 9  # hardly a stretch of it is empty
    assert (pixels.mean() > 200) == (scheme == "light")
    assert (pixels.mean() < 80) == (scheme == "dark")


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_nothing_runs_out_of_the_page(
    browser: Browser, outcome: Outcome, width: int, tmp_path: Path
):
    seen = browser.look(page_of(outcome), tmp_path, width)

    assert seen["width"] == width
    assert seen["out"] == []
    assert seen["scroll_width"] <= width
    assert seen["touching"] == []


def test_headings_and_plots_are_there_in_both_schemes(
    browser: Browser, outcome: Outcome, tmp_path: Path
):
    light, dark = (browser.look(page_of(outcome), tmp_path, WIDE, scheme) for scheme in SCHEMES)

    usual = {"Data", "Candidates", "Test rows", "How sure these figures are", "Calibration"}
    assert usual | {"Hardest test rows", "Signature", "Provenance"} <= set(light["headings"])
    slices = "Where it is weakest" in light["headings"]
    # Speed, learning curves, intervals and reliability; slices where there are fields for them.
    assert light["plots"] == 4 + slices == page_of(outcome).count("<svg")
    assert light["undrawn"] == 0
    assert light["pictures"] == page_of(outcome).count("<img")
    assert light["back"] != dark["back"]
    assert {**light, "back": ""} == {**dark, "back": ""}


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_long_names_do_not_widen_the_page(
    browser: Browser, penguins: Outcome, width: int, tmp_path: Path
):
    long = "x" * 400
    fields = tuple(
        field.model_copy(update={"name": long + field.name})
        for field in penguins.manifest.signature.fields
    )
    signature = penguins.manifest.signature.model_copy(update={"fields": fields})
    manifest = penguins.manifest.model_copy(
        update={"description": long, "name": "n" * 64, "signature": signature}
    )
    dataset = replace(penguins.dataset, notes=(f"warning: {long}",), source=long)
    findings = Findings(
        penguins.config,
        dataset,
        penguins.split,
        penguins.selection,
        penguins.evaluations["test"],
        penguins.proof,
    )

    seen = browser.look(report_html(manifest, findings), tmp_path, width)

    assert seen["out"] == []
    assert seen["scroll_width"] <= width
