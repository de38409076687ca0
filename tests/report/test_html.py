"""The page as text: a strict policy, nothing that runs, nothing that loads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hostile import PAYLOADS, hostile_study
from synthetic import Synthetic

from batchcliff.report import write_report
from batchcliff.report.html import script_json


class Page(HTMLParser):
    """Tags, attributes and texts of a page, as a browser would split them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.text: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        where = {"script": self.scripts, "style": self.styles}.get(self._inside, self.text)
        where.append(data)


def text_of(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "section", "footer",
    "h1", "h2", "h3", "p", "ul", "li", "dl", "dt", "dd", "div", "span", "bdi", "a", "svg",
    "path", "circle", "figure", "figcaption", "table", "caption", "thead", "tbody", "tr", "th",
    "td", "details", "summary", "script", "noscript",
}  # fmt: skip


def check_safe(text: str) -> Page:
    """The page has only our tags, no handler, no style attribute, no outside address."""
    page = Page(text)
    for tag, attrs in page.tags:
        assert tag in ALLOWED, tag
        assert not any(name.startswith("on") or name == "style" for name in attrs), attrs
        assert "src" not in attrs
        href = attrs.get("href")
        if href is not None:
            assert re.fullmatch(r"[a-z-]+\.(svg|png|csv|md|json)|https://arxiv\.org/.*", href)
    assert len(page.scripts) == 3
    return page


def check_picture(path: Path) -> None:
    """An SVG of plain shapes and texts."""
    for element in ElementTree.parse(path).iter():
        tag = element.tag.rpartition("}")[2]
        assert tag in {"svg", "g", "path", "text", "tspan", "line", "rect", "defs", "clipPath"}
        assert not any(name.startswith("on") or "href" in name for name in element.attrib)


def test_the_policy_names_every_script_and_the_style(report: Path) -> None:
    page = check_safe(text_of(report))
    policy = next(
        attrs["content"]
        for tag, attrs in page.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    data, *scripts = page.scripts
    json.loads(data)
    for text in [*scripts, *page.styles]:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_hostile_strings_in_every_field_stay_text(tmp_path: Path) -> None:
    study, records, planned, notes, quarantined = hostile_study()
    files = write_report(
        study, records, planned, tmp_path, notes=notes, quarantined=quarantined
    )
    page = check_safe(files.page.read_text(encoding="utf-8"))
    shown = " ".join(page.text)
    assert "<script>" in shown  # it is there, as text
    assert "\u202e" not in shown and "\x00" not in shown
    for path in (files.csv, files.markdown, files.summary, *files.figures[::2]):
        path.read_text(encoding="utf-8")
    assert "<script" not in files.markdown.read_text(encoding="utf-8").lower()
    for picture in files.figures:
        if picture.suffix == ".svg":
            check_picture(picture)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_json_in_a_script_cannot_end_it(payload: str) -> None:
    text = script_json({"x": payload, payload: 1})
    assert "<" not in text and ">" not in text and "&" not in text and text.isascii()
    assert json.loads(text)["x"] == payload


def test_the_same_inputs_give_the_same_bytes(
    synthetic: Synthetic, report: Path, tmp_path: Path
) -> None:
    write_report(synthetic.study, synthetic.records(), synthetic.planned(), tmp_path)
    names = sorted(p.name for p in report.iterdir())
    assert names == sorted(p.name for p in tmp_path.iterdir())
    for name in names:
        assert (report / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_the_files_that_are_promised(report: Path) -> None:
    text = text_of(report)
    names = {p.name for p in report.iterdir()}
    figures = ("accuracy", "published", "differences", "training-accuracy", "training-loss",
               "learning-rate", "updates-to-target")  # fmt: skip
    wanted = {f"{name}.{kind}" for name in figures for kind in ("svg", "png")}
    assert names == wanted | {"index.html", "results.csv", "results.md", "summary.json"}
    linked = {attrs["href"] for tag, attrs in Page(text).tags if tag == "a"}
    assert linked == names - {"index.html"}
    for name in figures:
        assert (report / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_tables_and_figures_can_be_read_aloud(report: Path) -> None:
    page = Page(text_of(report))
    headings = [tag for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == "h1" and headings.count("h1") == 1
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    tables = sum(tag == "table" for tag, _ in page.tags)
    assert tables == sum(tag == "caption" for tag, _ in page.tags) >= 6
    pictures = [attrs for _, attrs in page.tags if attrs.get("role") == "img"]
    assert len(pictures) == 23 and all(attrs.get("aria-label") for attrs in pictures)


def test_an_unwritable_folder_is_a_storage_error(single: Synthetic, tmp_path: Path) -> None:
    from batchcliff.errors import StorageError

    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        write_report(single.study, [], single.planned(), tmp_path / "file")
    assert caught.value.exit_code == 74


@pytest.mark.parametrize("kind", ["no records", "all diverged", "half missing", "one trial"])
def test_a_thin_study_still_makes_a_page(kind: str, tmp_path: Path) -> None:
    synthetic = Synthetic(seeds=1)
    planned, records = synthetic.planned(), synthetic.records()
    if kind == "no records":
        records = []
    elif kind == "all diverged":
        records = [synthetic.diverged(spec, 0) for spec in synthetic.specs()]
    elif kind == "half missing":
        records = records[::2]
    else:
        planned, records = planned[:1], records[:1]
    files = write_report(synthetic.study, records, planned, tmp_path)
    text = files.page.read_text(encoding="utf-8")
    check_safe(text)
    assert "nan" not in re.sub(r"<script.*?</script>", "", text, flags=re.S).lower()
    assert files.markdown.read_text(encoding="utf-8").startswith("# article")
