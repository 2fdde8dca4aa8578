"""The drawn house is the one that stands, and the way from the command to the scored box stays short."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import architecture

REPO = Path(__file__).parents[2]


def test_the_picture_shows_the_contracts_layers() -> None:
    layers = architecture.layers_of(REPO)
    assert (REPO / "docs" / "architecture.svg").read_text() == architecture.drawn(layers)
    names = [name for layer in layers for name in layer]
    assert sorted(names) == sorted(architecture.WHAT) and len(set(names)) == len(names)


def test_fifteen_frames_from_the_command_to_the_scored_box(tmp_path: Path) -> None:
    figures, drawn = tmp_path / "hops.json", tmp_path / "hops.svg"
    command = [sys.executable, "benchmarks/hops.py", "--json", str(figures), "--svg", str(drawn)]
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    way = json.loads(figures.read_text())
    assert way["frames"][0] == "jobs/harvest.py: <module>" and way["frames"][-1].endswith("detect.py: span_peaks")
    assert len(way["frames"]) <= 15 and len(way["closures"]) <= 4
    assert drawn.read_text() == (REPO / "docs" / "hops.svg").read_text()
