"""How far a harvest is: steps and rounds done, volumes and rate of the step under way, what was left out, last error.

    harvester status --run runs/night1
    harvester status --run runs/night1 --json

Reads the run's folder alone, on a disk or in an object store, without Ray: while it runs or after it stopped.
Exit codes: 0 shown, 1 the folder is no run's (one line says so).
"""

import argparse
import dataclasses
import json

from harvester.cli.console import command, command_parser
from harvester.run.status import format_status, read_status


def show(options: argparse.Namespace) -> None:
    """Print the status."""
    status = read_status(options.run)
    if options.json:
        summary = status.summary and status.summary.model_dump(mode="json")
        print(json.dumps(dataclasses.asdict(status) | {"summary": summary}))
    else:
        print("\n".join(format_status(status)))


parser = command_parser("status", __doc__, "run")
parser.add_argument("--json", action="store_true", help="everything as JSON, the whole log too")
main = command(parser, show)
