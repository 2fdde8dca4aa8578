"""Harvest the unmarked lesions of an archive: the whole loop, resumable, on this machine or on a Ray cluster.

    harvester harvest --config quickstart
    harvester harvest --config deeplesion --store STORE --run runs/night1 --set rounds=4
    harvester harvest --config deeplesion --store STORE --run runs/night1 --set rounds=6 --plan
    ray job submit --working-dir . -- python jobs/harvest.py --config configs/quickstart.yaml     # on a cluster

A submitted job works in a copy of the working directory that Ray throws away: its relative --run and --store, and the
run folder of one without --run, lie under $HARVESTER_HOME (a folder or URI), else under ~/harvester of the head.
Starting the same command again goes on where it stopped: finished steps are never done twice.
Exit codes: 0 done, 1 the harvest failed (one line says why), 2 a setting is wrong, 130 stopped by Ctrl-C, 143 SIGTERM.
"""

import argparse
import sys
from pathlib import Path

from harvester.cli.console import LOGS, ExitCode, command_parser, tell
from harvester.cli.places import run_folder
from harvester.config.loading import resolve

PLAN_HELP = """What `harvester harvest` would do with the same options, and why: writes nothing, starts no Ray.

    harvester plan --config deeplesion --store STORE --run runs/night1 --set rounds=6
"""


def main(arguments: list[str] | None = None) -> int:
    """Parse, start Ray, harvest, write the report; with --plan, print what would be done."""
    options = parser.parse_args(arguments)
    with ExitCode.of(options) as code:
        settings = resolve(options.config, options.set)
        # Torch and Ray take seconds: help and a wrong setting are answered before.
        from harvester.cli.run_harvest import run_harvest, show_plan

        given = options.run or Path("runs") / settings.name
        if options.plan:
            show_plan(settings, options.store, run_folder(given))
        else:
            run_harvest(settings, options.store, given, lambda text: tell(text, options))
    return code.value


def plan_main(arguments: list[str] | None = None) -> int:
    """Parse, print what would be done."""
    given = sys.argv[1:] if arguments is None else arguments
    _parser("plan", PLAN_HELP).parse_args(given)
    return main([*given, "--plan"])


def _parser(command: str, help_text: str | None) -> argparse.ArgumentParser:
    made = command_parser(command, help_text, "config", "set", *LOGS)
    add = made.add_argument
    store = "a store made by harvester prepare, a folder or its URI; without it, data.kind says"
    add("--store", metavar="PATH|URI", help=store)
    add("--run", metavar="PATH|URI", help="run folder, also s3://bucket/folder (default: runs/<config name>/)")
    return made


parser = _parser("harvest", __doc__)
parser.add_argument("--plan", action="store_true", help="tell what would be done and why, write nothing, start no Ray")
