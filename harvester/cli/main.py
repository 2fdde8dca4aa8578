"""Finds the unmarked lesions of a partly marked CT archive, at a precision that it can prove.

    harvester harvest --config quickstart              a check of the whole engine, on phantoms of known truth
    harvester prepare --source SCANS --out STORE       your own scans, made ready once
    harvester harvest --store STORE --run runs/mine    to a report of them
    harvester COMMAND --help                           what a command takes, with examples

commands:
"""

import argparse
import pkgutil
import sys
from typing import Final

from harvester import __version__
from harvester.cli.console import Parser

COMMANDS: Final = {
    "prepare": ("prepare:main", "make a store: of scans, or of volumes of known truth"),
    "harvest": ("harvest:main", "the whole loop, from a store to a report; goes on where it stopped"),
    "pretrain": ("pretrain:main", "make starting weights from scans, for harvests of other archives"),
    "plan": ("harvest:plan_main", "what harvest would do, and why, without doing it"),
    "status": ("status:main", "how far a run is, from any terminal"),
    "tune": ("tune:main", "what a finished run would harvest at other precision targets"),
    "retrain": ("retrain:main", "train detectors with and without the harvest: what it is worth"),
    "study": ("study:main", "each part of the method and its rivals, on archives of known truth"),
    "evaluate": ("evaluate:main", "score detections against marks"),
    "export": ("export:main", "write a harvest as COCO, CSV, 3D Slicer markups, NIfTI, DICOM SR or SEG"),
    "audit": ("audit:main", "prove a harvest by looking at a random part of it"),
    "review": ("review:main", "look at finds in the browser; or take a reviewed export back into the store"),
    "track": ("track:main", "send a run to MLflow"),
    "doctor": ("doctor:main", "what this machine has, what is missing, and what to do"),
}
"""Command: where it is (imported only when it is asked for: torch and Ray take seconds), and what it does."""


def main(arguments: list[str] | None = None) -> int:
    """The exit code of the command that the first argument names; 2 where there is none."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    if not given:
        parser.print_help(sys.stderr)
        return 2
    where, _ = COMMANDS[parser.parse_args(given[:1]).command]
    return int(pkgutil.resolve_name(f"harvester.cli.{where}")(given[1:]))


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:10}{what}" for name, (_, what) in COMMANDS.items())
    parser = Parser(
        prog="harvester",
        usage="harvester COMMAND [options]",
        description=f"{__doc__}{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"harvester {__version__}")
    return parser
