"""The page in a real browser: drawn, silent, and alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from headless import visit
from hostile import hostile_study
from PIL import Image
from synthetic import Synthetic

from batchcliff.report import write_report
from batchcliff.spec import Arm

pytestmark = pytest.mark.browser


def drawn(dom: str) -> int:
    """Charts that Vega has finished."""
    return dom.count('data-state="drawn"')


def check_quiet(page: Path, scratch: Path, charts: int) -> str:
    """No message, no violation, no request, every chart drawn with marks."""
    seen = visit(page, scratch)
    assert seen.console == ()
    assert seen.requests == ()
    assert drawn(seen.dom) == charts
    body = seen.dom[: seen.dom.index('id="chart-data"')]
    svgs = re.findall(r"<svg[^>]*marks.*?</svg>", body, flags=re.S)
    assert len(svgs) == charts
    assert all(svg.count("<path") > 3 for svg in svgs)
    return body


def test_the_browser_would_have_told(tmp_path: Path) -> None:
    """A page that breaks its policy and calls out is seen to do both."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><meta http-equiv='Content-Security-Policy' content=\"default-src "
        "'none'; img-src *; script-src 'unsafe-inline'\"><img src='http://evil.test/x.png'>"
        "<p style='color:red'>x</p><script>eval('1')</script>"
    )
    seen = visit(page, tmp_path)
    assert any("style" in message for message in seen.console)
    assert any("unsafe-eval" in message for message in seen.console)
    assert seen.requests == ("http://evil.test/x.png",)


def test_a_report_draws_everything_in_silence(report: Path, tmp_path: Path) -> None:
    body = check_quiet(report / "index.html", tmp_path, charts=23)
    assert "8,192" in body and "test accuracy" in body


def test_hostile_strings_run_nothing(tmp_path: Path) -> None:
    study, records, planned, notes, aside = hostile_study()
    files = write_report(
        study, records, planned, tmp_path / "report", notes=notes, quarantined=aside
    )
    seen = visit(files.page, tmp_path)
    assert seen.console == () and seen.requests == ()
    assert drawn(seen.dom) == seen.dom.count('class="chart"') > 5


def test_a_study_without_records_is_a_quiet_page(synthetic: Synthetic, tmp_path: Path) -> None:
    files = write_report(synthetic.study, [], synthetic.planned(), tmp_path / "report")
    seen = visit(files.page, tmp_path)
    assert seen.console == () and seen.requests == ()
    assert "no answer to give" in seen.dom


MEASURE = """<script>addEventListener("load", () => setTimeout(() => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  const wide = document.documentElement.scrollWidth - innerWidth;
  const cut = [...document.querySelectorAll("table")].filter((table) => {
    const box = table.parentElement, edge = box.getBoundingClientRect().right;
    const goes_on = table.getBoundingClientRect().right > edge + 1;
    const scrolls = getComputedStyle(box).overflowX === "auto"
      && box.scrollWidth > box.clientWidth;
    return edge > innerWidth + 1 || (goes_on && !scrolls);
  });
  const scrolled = [...document.querySelectorAll(".scroll")].filter(
    (box) => box.scrollWidth > box.clientWidth + 1).length;
  parent.postMessage(`measured wide=${wide} cut=${cut.length} scrolled=${scrolled}`, "*");
}, 500))</script>"""


def measured(page: Path, scratch: Path, width: int, broken: str = "") -> tuple[int, int, int]:
    """(pixels that the page is too wide, tables cut off, tables that scroll) in a frame of
    `width` pixels; without the page's policy, which would stop the measuring."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", page.read_text())
    (scratch / "inside.html").write_text(text.replace("</head>", f"{broken}{MEASURE}</head>"))
    outside = scratch / "outside.html"
    outside.write_text(
        f"<!DOCTYPE html><iframe src='inside.html' width={width} height=2000></iframe>"
        "<pre></pre><script>onmessage = (e) => document.querySelector('pre').append(e.data)"
        "</script>"
    )
    found = re.search(r"measured wide=(-?\d+) cut=(\d+) scrolled=(\d+)",
                      visit(outside, scratch).dom)  # fmt: skip
    assert found is not None
    return int(found[1]), int(found[2]), int(found[3])


def test_no_table_is_cut_at_any_width(tmp_path: Path) -> None:
    """With many arms, on a wide window and on a telephone; and a broken style is caught."""
    arms = tuple(
        Arm(name=f"a technique of a long name {i}", techniques=(("t", (("start", i),)),))
        for i in range(12)
    )
    made = Synthetic(sizes=(1024, 4096), arms=arms, reference_arm=arms[0].name)
    page = write_report(made.study, made.records(), made.planned(), tmp_path / "report").page
    for width in (1100, 400):
        wide, cut, scrolled = measured(page, tmp_path, width)
        assert wide <= 0 and cut == 0
    assert scrolled > 0  # at 400 pixels the ledger has no room: it scrolls in its own box
    broken = "<style>.scroll { overflow-x: hidden !important }</style>"
    assert measured(page, tmp_path, 400, broken)[1] > 0


@pytest.mark.parametrize("width", [1100, 500])
def test_it_looks_like_something(report: Path, tmp_path: Path, width: int) -> None:
    """The picture has ink from top to bottom, and both arms' colours."""
    shot = tmp_path / "shot.png"
    visit(report / "index.html", tmp_path, width=width, height=2400, shot=shot)
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert pixels.shape[:2] == (2400, width)
    ink = (pixels.sum(axis=2) < 600).any(axis=1)
    assert all(ink[start : start + 400].any() for start in range(0, 2400, 400))
    for colour in ((0, 114, 178), (213, 94, 0)):
        near = np.abs(pixels - colour).sum(axis=2) < 12
        assert near.sum() > 500
