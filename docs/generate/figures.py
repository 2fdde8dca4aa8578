"""The figures that README and the guide quote: docs/figures.json and docs/study.json, and the texts beside them.

    python docs/generate/figures.py quickstart runs/quickstart                    # adds this machine's quickstart
    python docs/generate/figures.py add generator --command "python benchmarks/lpg.py" small_bfloat16=57
    python docs/generate/figures.py show                                          # every figure as texts quote it

A paragraph or table that quotes figures is followed by a comment that names them, `figures: quickstart.harvested`; a
test (tests/loop/test_texts.py) compares the two. Of what differs from machine to machine the texts tell the range.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harvester import __version__
from harvester.run.study import StudyResult
from harvester.run.summary import read_summary
from harvester.storage.location import Location

DOCS = Path(__file__).parents[1]
FILE = DOCS / "figures.json"
QUOTED = re.compile(r"<!-- figures: ([\w. -]+?) -->")


def main() -> None:
    """One of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    parts.add_parser("quickstart").add_argument("run", type=Path)
    add = parts.add_parser("add")
    add.add_argument("name")
    add.add_argument("--command", required=True)
    add.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="when it was measured (default: today)")
    add.add_argument("figures", nargs="+", metavar="name=value", help="as texts quote it")
    parts.add_parser("show")
    options = parser.parse_args()
    if options.what == "quickstart":
        record("quickstart", "make harvest", of_quickstart(options.run), time.strftime("%Y-%m-%d"))
    elif options.what == "add":
        pairs = (pair.partition("=") for pair in options.figures)
        record(options.name, options.command, {name: value for name, _, value in pairs}, options.date)
    else:
        print("\n".join(f"{name:32}{text}" for name, text in texts().items()))


def of_quickstart(run: Path) -> dict[str, float]:
    """What a finished quickstart came to."""
    done = read_summary(Location.of(run))
    if done.final.precision is None or done.final.recall_unmarked is None:
        sys.exit(f"{run}: its truth is not known")
    return {
        "harvested": done.final.harvested,
        "precision": round(done.final.precision, 4),
        "recall": round(done.final.recall_unmarked, 4),
        "minutes": round(done.seconds / 60, 2),
    }


def record(name: str, command: str, figures: Mapping[str, float | str], date: str) -> None:
    """Add a measurement, with its date and version; one that says the same as another is not added twice."""
    known = read()
    entry = known.setdefault(name, {"command": command, "measured": []})
    entry["command"] = command
    made = {"date": date, "harvester": __version__, **figures}
    entry["measured"] = [each for each in entry["measured"] if figures != _figures(each)] + [made]
    FILE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def read() -> dict[str, Any]:
    """figures.json; empty where there is none."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}


def texts() -> dict[str, str]:
    """Each figure's name, and how texts quote it."""
    return dict([*_of_file(read()), *_of_study(StudyResult.read(Location.of(DOCS)))])


def missing_in(text: str) -> list[str]:
    """What a text should quote and does not: figures whose words are not in the block before their comment."""
    known, wrong = texts(), []
    for found in QUOTED.finditer(text):
        block = text[: found.start()].rstrip().rsplit("\n\n", 1)[-1]
        for name in found[1].split():
            said = known.get(name)
            if said is None:
                wrong.append(f"{name}: no such figure")
            elif said not in " ".join(block.split()):
                wrong.append(f"{name}: want {said!r} in {block[:60]!r}")
    return wrong


def _of_file(known: dict[str, Any]) -> Iterator[tuple[str, str]]:
    quick = [_figures(each) for each in known["quickstart"]["measured"]]
    yield "quickstart.harvested", _span([each["harvested"] for each in quick])
    yield "quickstart.precision", _span([100 * each["precision"] for each in quick]) + " %"
    yield "quickstart.recall", _span([100 * each["recall"] for each in quick]) + " %"
    yield "quickstart.minutes", _span([each["minutes"] for each in quick]) + " minutes"
    for name, entry in known.items():
        if name != "quickstart":
            for figure, value in _figures(entry["measured"][-1]).items():
                yield f"{name}.{figure}", str(value)


def _of_study(done: StudyResult | None) -> Iterator[tuple[str, str]]:
    if done is None:
        return
    pairs = done.headline.certified_pairs
    kept = round(pairs * (done.headline.certified_share or 0))
    yield "study.certified", f"{kept} of {pairs}"
    for arm in done.arms:
        yield f"study.{arm.archive}.{arm.arm}", f"{100 * arm.recall_at_90:.0f} %"
        yield f"study.{arm.archive}.{arm.arm}.certified", f"{arm.certified} of {arm.seeds}"
        yield f"study.{arm.archive}.{arm.arm}.looks", f"{arm.reviewed:.0f}"
    for each in done.detectors:
        for own in each.detectors:
            for one in own.sets:
                yield f"study.{each.archive}.{own.detector}.{one.labels}", f"{one.ap.value:.2f}"


def _figures(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("date", "harvester")}


def _span(values: list[float]) -> str:
    """From the least to the most, rounded; one number where they are the same."""
    low, high = round(min(values)), round(max(values))
    return f"{low}" if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main()
