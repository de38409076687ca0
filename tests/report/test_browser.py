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
    body = check_quiet(report / "index.html", tmp_path, charts=22)
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
