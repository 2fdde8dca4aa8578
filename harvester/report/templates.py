"""The pages' templates (report/page/), filled by jinja2, which escapes all text that is put into them."""

from functools import cache
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harvester.text import count, duration, number, percent

GUIDE: Final = "guide.html"
"""The guide, beside each report: see guide.py."""
COLOURS: Final = {
    "harvested": "#3d94ff",
    "not proven": "#c77dff",
    "clinical mark": "#2fd06a",
    "hidden truth": "#ffb02e",
    "hard negative": "#ff5a5a",
}
"""Of boxes in pictures, and of their legends."""


@cache
def environment() -> Environment:
    """What templates see besides their context: filters, colours, the style sheet."""
    made = Environment(
        loader=PackageLoader("harvester.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "percent": percent, "count": count, "duration": duration}
    style = (files("harvester.report") / "page" / "report.css").read_text(encoding="utf-8")
    made.globals |= {"colours": COLOURS, "guide": GUIDE, "style": Markup(style)}  # noqa: S704  our own file
    return made


def render(template: str, context: dict[str, Any]) -> str:
    """A whole page: one file, no script, nothing loaded from elsewhere."""
    return environment().get_template(template).render({"reload_s": 0} | context) + "\n"


def piece(macro: str, *arguments: Any) -> Markup:
    """What a macro of page/macros.html makes of its arguments: to be put into a page as it is."""
    made: Markup = getattr(environment().get_template("macros.html").module, macro)(*arguments)
    return made
