"""Harvest the unmarked lesions of an archive: the whole loop, resumable, on this machine or on a Ray cluster.

    harvester harvest --config quickstart
    harvester harvest --config deeplesion --store STORE --run runs/night1 --set rounds=4
    harvester harvest --config deeplesion --store STORE --run runs/night1 --set rounds=6 --plan
    ray job submit --working-dir . -- python jobs/harvest.py --config configs/quickstart.yaml     # on a cluster

Starting the same command again goes on where it stopped: finished steps are never done twice.
Exit codes: 0 done, 1 the harvest failed (one line says why), 2 a setting is wrong, 130 stopped by Ctrl-C.
"""

import argparse
import sys
from pathlib import Path

from harvester.cli.console import ExitCode, command_parser
from harvester.config.loading import resolve
from harvester.storage.location import Location

PLAN_HELP = """What `harvester harvest` would do with the same options, and why: writes nothing, starts no Ray.

    harvester plan --config deeplesion --store STORE --run runs/night1 --set rounds=6
"""


def main(arguments: list[str] | None = None) -> int:
    """Parse, start Ray, harvest, write the report; with --plan tell what would be done."""
    options = parse(arguments)
    with ExitCode() as code:
        settings = resolve(options.config, options.set)
        # Torch and Ray take seconds: help and a wrong setting are answered before.
        from harvester.cli.run_harvest import run_harvest, show_plan

        folder = Location.of(options.run or Path("runs") / settings.name)
        if options.plan:
            show_plan(settings, options.store, folder)
        else:
            run_harvest(settings, options.store, folder)
    return code.value


def plan_main(arguments: list[str] | None = None) -> int:
    """What `harvester harvest --plan` does, by its own name."""
    given = sys.argv[1:] if arguments is None else arguments
    _options(command_parser("plan", PLAN_HELP, "config", "set")).parse_args(given)
    return main([*given, "--plan"])


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = _options(command_parser("harvest", __doc__, "config", "set"))
    parser.add_argument(
        "--plan", action="store_true", help="tell what would be done and why, write nothing, start no Ray"
    )
    return parser.parse_args(arguments)


def _options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    add = parser.add_argument
    add(
        "--store",
        metavar="PATH|URI",
        help="a store made by harvester prepare, a folder or its URI; without it, data.kind says",
    )
    add("--run", metavar="PATH|URI", help="run folder, also s3://bucket/folder (default: runs/<config name>/)")
    return parser
