"""The house in figures, and drawn: boxes (modules and packages right under harvester), arrows between them, layers.

    python benchmarks/architecture.py                                 # this tree
    python benchmarks/architecture.py --root OTHER_CHECKOUT           # another one, to compare with
    python benchmarks/architecture.py --svg docs/architecture.svg     # the picture in docs/architecture.md

Layers are those of the import-linter contract in pyproject.toml; arrows are imports that the code really makes.
"""

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

import grimp

REPO: Final = Path(__file__).parents[1]
WHAT: Final = {
    "jobs": "thin programs for ray job submit",
    "cli": "every command",
    "harvest": "THE LOOP: start reading here",
    "study": "each part and its rivals, measured",
    "pretrain": "starting weights, from scans",
    "retrain": "detectors, with and without the harvest",
    "frontier": "other precision targets",
    "results": "what a run says: summary, truth, ablations",
    "distributed": "the only Ray",
    "report": "one self-contained page",
    "review": "the review page",
    "detectors": "what is retrained on a harvest",
    "proposals": "LPG, and linking",
    "classifier": "LPC",
    "export": "COCO, CSV, NIfTI, DICOM",
    "certificate": "the threshold, and its proof",
    "models": "torch, shared by both",
    "run": "a run's folder, steps by hash",
    "mining": "what is found, what is not",
    "datasets": "archive, DeepLesion, phantom, insertion",
    "store": "volumes for fast reading",
    "weights": "starting weights, and whom they saw",
    "evaluation": "matching, FROC, AP, bootstrap",
    "imaging": "DICOM, NIfTI, PNG, orientation",
    "labels": "ledger, folds, published marks",
    "storage": "disk or object store",
    "geometry": "axes, boxes, frames",
    "config": "settings",
    "foreign_parquet": "tables of anybody",
    "records": "the tables",
    "text": "tables and durations for people",
    "errors": "the error tree",
}
WIDTH, ROW, BOX, GAP = 1080, 62, 46, 12


def main() -> int:
    """Count, print, and draw where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=REPO, help="a checkout (default: this one)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the layers")
    options = parser.parse_args()
    layers = layers_of(options.root)
    boxes, arrows = boxes_and_arrows(options.root)
    print(f"boxes {len(boxes)}, arrows between them {len(arrows)}, layers {len(layers)}")
    if options.svg:
        options.svg.write_text(drawn(layers), encoding="utf-8")
    return 0


def layers_of(root: Path) -> list[list[str]]:
    """The contract's layers, highest first; each the names of the boxes in it, without `harvester.`."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    split = [layer.replace(":", "|").split("|") for layer in layers]
    return [[name.strip().removeprefix("harvester.") for name in names] for names in split]


def boxes_and_arrows(root: Path) -> tuple[set[str], set[tuple[str, str]]]:
    """What lies right under harvester, and which of it imports which."""
    sys.path.insert(0, str(root))
    graph = grimp.build_graph("harvester", cache_dir=None)

    def box(module: str) -> str:
        return module.split(".")[1] if "." in module else ""

    pairs = (
        (box(module), box(other))
        for module in graph.modules
        for other in graph.find_modules_directly_imported_by(module)
    )
    boxes = {box(module) for module in graph.modules} - {""}
    return boxes, {(one, other) for one, other in pairs if one != other and one and other}


def drawn(layers: list[list[str]]) -> str:
    """The layers as an SVG: a row per layer, what it is written in each box."""
    height = ROW * len(layers) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="20" y="28" font-size="16" fill="#333">harvester: imports run downward only</text>',
    ]
    for row, names in enumerate(layers):
        wide = (WIDTH - 40 - GAP * (len(names) - 1)) / len(names)
        for place, name in enumerate(names):
            parts += box_of(name, 20 + place * (wide + GAP), 44 + row * ROW, wide)
    return "\n".join([*parts, "</svg>", ""])


def box_of(name: str, x: float, y: float, wide: float) -> list[str]:
    """A box with its name and its subject."""
    fill, edge = ("#e8f1fd", "#2f7fe0") if name == "harvest" else ("#f6f7f9", "#9aa4b2")
    middle = x + wide / 2
    return [
        f'<rect x="{x:.0f}" y="{y}" width="{wide:.0f}" height="{BOX}" rx="6" fill="{fill}" stroke="{edge}"/>',
        f'<text x="{middle:.0f}" y="{y + 19}" font-size="15" font-weight="bold" text-anchor="middle">{name}</text>',
        f'<text x="{middle:.0f}" y="{y + 36}" font-size="11.5" fill="#555" text-anchor="middle">'
        f"{escape(WHAT.get(name, ''))}</text>",
    ]


if __name__ == "__main__":
    sys.exit(main())
