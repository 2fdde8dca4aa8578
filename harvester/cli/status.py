"""How far a harvest is: steps and rounds done, volumes and rate of the step under way, what was left out, last error.

    harvester status --run runs/night1
    harvester status --run runs/night1 --json
    harvester status                     # the last line of each run in runs/ here, and where jobs leave theirs

Reads the run's folder alone, on a disk or in an object store, without Ray: while it runs or after it stopped.
Exit codes: 0 shown, 1 the folder is no run's (one line says so).
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator

from harvester.cli.console import command, command_parser
from harvester.cli.places import home, run_folder
from harvester.errors import StoreError, one_line
from harvester.run.status import format_status, read_status
from harvester.storage.location import Location


def show(options: argparse.Namespace) -> None:
    """Print the status."""
    if not options.run:
        print("\n".join(_every_run()) or "no runs; name one with --run")
        return
    folder = run_folder(options.run)
    status = read_status(folder)
    if options.json:
        files = {"summary": status.summary, "record": status.record}
        models = {name: model and model.model_dump(mode="json") for name, model in files.items()}
        print(json.dumps(dataclasses.asdict(status) | models | {"finished": status.finished}))
    else:
        print("\n".join([f"run: {folder}", *format_status(status)]))


def _every_run() -> Iterator[str]:
    for parent in dict.fromkeys([Location.of("runs"), home(), home() / "runs"]):
        for folder in (parent / name for name in parent.folders()):
            if (folder / "settings.yaml").is_file():
                yield f"{folder}  {_last_line(folder)}"


def _last_line(folder: Location) -> str:
    try:
        return [*format_status(read_status(folder))][-1]
    except StoreError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  one odd folder hides no other run
        return f"cannot be read ({type(error).__name__}: {one_line(error)})"


parser = command_parser("status", __doc__)
parser.add_argument("--run", metavar="PATH|URI", help="the run's folder; without it, all runs are listed")
parser.add_argument("--json", action="store_true", help="everything as JSON, the whole log too")
main = command(parser, show)
