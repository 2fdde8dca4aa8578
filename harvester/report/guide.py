"""The guide as one page beside each report, for machines without internet: docs/*.md, which ship with harvester.

`make docs` makes a site of the same files (mkdocs.yml).
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from harvester.report.templates import GUIDE, render
from harvester.storage.location import Location

PACKAGE: Final = Path(__file__).parents[1]
PAGES: Final = (
    "quickstart", "data", "outputs", "columns", "proof", "export", "evaluate", "retrain", "study", "paper", "cluster",
    "operations", "settings", "faq", "glossary", "architecture",
)  # fmt: skip
"""In their order; what a link names that is none of them is not in the guide and stays plain text."""


def write_guide(folder: Location) -> None:
    """As folder/guide.html."""
    (folder / GUIDE).write_text(guide())


@cache
def guide() -> str:
    """The whole page."""
    chapters = [(name, *chapter(name)) for name in PAGES]
    return render("guide.html", {"title": "harvester: guide", "chapters": chapters})


def chapter(name: str) -> tuple[str, Markup]:
    """A page's title and its HTML; ids and links are those of the one page."""
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse((docs() / f"{name}.md").read_text(encoding="utf-8"))
    title = tokens[1].content
    kept = list(adapted(tokens, name))
    return title, Markup(parser.renderer.render(kept, parser.options, {}))  # noqa: S704  our own files


def docs() -> Path:
    """Where the pages lie: in an installed package harvester/guide, in a checkout docs."""
    inside = PACKAGE / "guide"
    return inside if inside.is_dir() else PACKAGE.parent / "docs"


def adapted(tokens: Sequence[Token], page: str) -> Iterator[Token]:
    """Tokens with ids at headings, links that stay on the page, and drawings inside; comments are left out."""
    for at, token in enumerate(tokens):
        if token.type == "html_block":
            continue
        if token.type == "heading_open":
            token.attrSet("id", page if token.tag == "h1" else f"{page}-{slug(tokens[at + 1].content)}")
        if token.children is not None:
            token.children = [each for each in token.children if adapt(each, page)]
        yield token


def adapt(token: Token, page: str) -> bool:
    """An inline token, made fit; False for a picture that the page does not carry."""
    if token.type == "link_open":
        target = anchor(str(token.attrGet("href")), page)
        token.attrs = {"href": target} if target else {}
    if token.type == "image":
        file = docs() / str(token.attrGet("src"))
        if file.suffix != ".svg" or not file.is_file():
            return False
        token.attrSet("src", f"data:image/svg+xml;base64,{b64encode(file.read_bytes()).decode()}")
    return True


def anchor(href: str, page: str) -> str:
    """Where a link of a page leads on the one page; empty for what is not on it."""
    if "://" in href:
        return href
    file, _, part = href.partition("#")
    name = file.removesuffix(".md") or page
    if name not in PAGES:
        return ""
    return f"#{name}-{part}" if part else f"#{name}"


def slug(title: str) -> str:
    """As mkdocs names a heading."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip())
