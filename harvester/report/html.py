"""HTML for the report: text is escaped by construction, because only what `tag` builds counts as HTML."""

import html
from collections.abc import Iterable, Sequence
from typing import Final

VOID: Final = frozenset({"meta", "img"})
"""Elements that never have an end tag; those of SVG always get one."""


class Html(str):
    """A piece of finished HTML. A plain str among the children of a tag is text and gets escaped."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | float) -> Html:
    """An element. `class_` is the attribute class, an underscore inside a name a hyphen."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{shown}>" if name in VOID else f"<{name}{shown}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Html:
    """Children one after the other, text escaped."""
    return Html("".join(child if isinstance(child, Html) else html.escape(child) for child in children))


def section(title: str, *children: str, wide: bool = False) -> Html:
    """A chapter with its heading; `wide` ones leave the column of prose."""
    anchor = "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())
    return tag("section", tag("h2", title), *children, id=anchor, class_="wide" if wide else "prose")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Html:
    """A table whose first column names the rows; the numbers of the others stand right."""
    top = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in head)))
    lines = (tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in cells)) for first, *cells in rows)
    named = [tag("caption", caption)] if caption else []
    return tag("div", tag("table", *named, top, tag("tbody", *lines)), class_="scroll")


def bar(share: float) -> Html:
    """A horizontal bar for a table cell, as wide as a share of 1."""
    return tag("span", class_="bar", style=f"width:{max(share, 0.005) * 16:.2f}rem")


def page(title: str, *children: str, reload_s: int = 0) -> str:
    """The whole document: one file, no script, nothing loaded from elsewhere. It reloads itself after reload_s."""
    again = [tag("meta", http_equiv="refresh", content=reload_s)] if reload_s else []
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        *again,
        tag("title", title),
        tag("style", Html(CSS)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', *children)), lang='en')}\n"


def number(value: float | None, digits: int = 2) -> str:
    """A number for people; an en dash for what is unknown."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share in percent; an en dash for what is unknown."""
    return "–" if value is None else f"{100 * value:.1f} %"


def count(amount: int, noun: str, plural: str = "") -> str:
    """1 lesion, 2 lesions."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


CSS: Final = """
:root{--ink:#1c2430;--soft:#5a6675;--line:#d9dee5;--paper:#fcfcfa;--blue:#2f7fe0;--green:#1f9d4c;
--amber:#c77700;--red:#cf3a3a}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,"Segoe UI",Roboto,"Helvetica Neue",
Arial,"DejaVu Sans",sans-serif}
main{max-width:78rem;margin:0 auto;padding:2.5rem 1.5rem 5rem}
header,.prose{max-width:50rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .6rem;letter-spacing:-.01em}
h2{font-size:1.3rem;margin:3rem 0 .6rem;padding-top:.8rem;border-top:1px solid var(--line)}
p{margin:.5rem 0 .9rem}
.lead{font-size:1.2rem;line-height:1.5}
.soft,figcaption,caption{color:var(--soft);font-size:.86rem;line-height:1.4}
.wide>p,.wide>ul{max-width:50rem}
header .facts{max-width:none}
.facts{display:flex;flex-wrap:wrap;gap:.8rem 2.2rem;margin:1.4rem 0 0;padding:0}
.facts div{margin:0}.facts dt{color:var(--soft);font-size:.82rem}
.facts dd{margin:0;font-size:1.55rem;font-variant-numeric:tabular-nums;line-height:1.25}
.scroll{overflow-x:auto;margin:.8rem 0 1.4rem;max-width:100%}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding-bottom:.4rem}
th,td{padding:.32rem .9rem .32rem 0;text-align:right;border-bottom:1px solid var(--line);vertical-align:top;
font-weight:400}
thead th{max-width:11rem;color:var(--soft);font-size:.82rem;line-height:1.25;vertical-align:bottom}
th:first-child{text-align:left}
td:has(.bar){text-align:left}
.bar{display:inline-block;height:.7rem;background:#9db8d6;border-radius:1px;vertical-align:baseline}
.plots{display:flex;flex-wrap:wrap;gap:1rem 2rem}
.plots img{width:100%;max-width:34rem;height:auto;display:block}.plots figure{margin:0;flex:1 1 22rem;max-width:34rem}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(21rem,1fr));gap:1.3rem 1.1rem;margin:1rem 0}
.gallery figure{margin:0}
.slices{display:flex;gap:3px}.slices svg{flex:1 1 0;min-width:0;height:auto;display:block;background:#000}
.z{fill:#fff;stroke:#000;stroke-width:1.4;paint-order:stroke}
figcaption{margin-top:.3rem}figcaption b{color:var(--ink);font-weight:600}
.right{color:var(--green)}.wrong{color:var(--red)}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.4rem;margin:.4rem 0;padding:0;list-style:none;font-size:.88rem}
.key{display:inline-block;width:.95rem;height:.95rem;border:2px solid;margin-right:.4rem;vertical-align:-.12rem}
pre{font-size:.8rem;line-height:1.4;overflow-x:auto;background:#f2f3f0;padding:1rem}
summary{cursor:pointer;color:var(--blue)}
@media print{main{max-width:none;padding:0}.gallery figure,.plots figure{break-inside:avoid}}
"""
