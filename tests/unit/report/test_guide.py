"""The guide beside a report: every link of it and of the report leads somewhere."""

import re
from pathlib import Path

import pytest

from harvester.report.guide import PAGES, anchor, chapter, docs, guide, slug, write_guide
from harvester.storage.location import Location

PAGE = Path(__file__).parents[3] / "harvester" / "report" / "page"


def ids(html: str) -> set[str]:
    return set(re.findall(r' id="([^"]*)"', html))


def test_every_link_on_the_page_leads_to_a_heading() -> None:
    html = guide()
    links = {link for link in re.findall(r'<a href="([^"]*)"', html) if link.startswith("#")}
    assert {f"#{name}" for name in PAGES} <= links
    assert {link[1:] for link in links} <= ids(html)
    assert not re.search(r'<a href="(?!#|https://)', html)


def test_every_section_of_the_report_links_to_a_page_that_is_there() -> None:
    named = re.findall(r'm\.heading\([^)]*, "(\w+)"\)', "".join(file.read_text() for file in PAGE.glob("*.html")))
    assert len(named) > 10
    assert set(named) <= set(PAGES)


def test_nothing_is_loaded_from_elsewhere_and_comments_are_left_out() -> None:
    html = guide()
    sources = re.findall(r'src="([^"]{10})', html)
    assert sources and set(sources) == {"data:image"}
    assert "figures:" not in html and "&lt;!--" not in html and "<script" not in html


def test_all_pages_of_the_guide_are_on_it() -> None:
    left_out = {"index"}
    assert {file.stem for file in docs().glob("*.md")} - left_out == set(PAGES)
    title, html = chapter("proof")
    assert title == "How sure is it?" and '<h1 id="proof">' in html


@pytest.mark.parametrize(
    ("href", "leads_to"),
    [
        ("data.md", "#data"),
        ("data.md#which-scan-is-it", "#data-which-scan-is-it"),
        ("#sizing", "#operations-sizing"),
        ("decisions/0016-audit.md", ""),
        ("https://doi.org/1", "https://doi.org/1"),
    ],
)
def test_links(href: str, leads_to: str) -> None:
    assert anchor(href, "operations") == leads_to


def test_headings_are_named_as_the_site_names_them() -> None:
    assert slug("Which scan is it?") == "which-scan-is-it"
    assert slug("marks.csv and volumes.csv") == "markscsv-and-volumescsv"


def test_it_is_written_beside_the_report(tmp_path: Path) -> None:
    write_guide(Location.of(tmp_path))
    assert (tmp_path / "guide.html").read_text() == guide()
