"""How far a harvest is: steps and rounds done, volumes and rate of the step under way, what was left out, last error.

    python jobs/status.py --run runs/night1
    python jobs/status.py --run runs/night1 --json

Reads the run's folder alone, on a disk or in an object store, without Ray: while it runs or after it stopped.
Exit codes: 0 shown, 1 the folder is no run's (one line says so).
"""

import argparse
import dataclasses
import json
import sys

from harvester.cli.console import job_parser, run_job
from harvester.run.status import format_status, read_status


def main(arguments: list[str] | None = None) -> int:
    """Parse, read, print."""
    options = parse(arguments)
    return run_job(lambda: show(options))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = job_parser(__doc__)
    parser.add_argument("--run", required=True, metavar="PATH|URI", help="folder of the run")
    parser.add_argument("--json", action="store_true", help="everything as JSON, the whole log too")
    return parser.parse_args(arguments)


def show(options: argparse.Namespace) -> None:
    """Print the status."""
    status = read_status(options.run)
    if options.json:
        print(json.dumps(dataclasses.asdict(status)))
    else:
        print("\n".join(format_status(status)))


if __name__ == "__main__":
    sys.exit(main())
