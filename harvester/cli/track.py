"""Send a run to MLflow: parameters, metrics and artifacts of all its rounds, as far as they are not there already.

    harvester track --run runs/night1
    harvester track --run s3://BUCKET/runs/night1 --uri http://mlflow.example.org:5000

A harvest does so by itself after each round. By hand: for a run made without MLflow, or while its server was away. What
arrived is not sent twice.
Exit codes: 0 done, 1 the server or the run cannot be used (one line says why), 2 an argument is wrong.
"""

import argparse
import os

from harvester.cli.console import command, command_parser
from harvester.cli.places import run_folder


def track(options: argparse.Namespace) -> None:
    """Send what is not there yet."""
    from harvester.run.tracking import require_plain, sync

    uri = options.uri or os.environ.get("MLFLOW_TRACKING_URI")
    require_plain(uri)
    sent = sync(run_folder(options.run), uri)
    print(f"sent to MLflow: {sent}")


parser = command_parser("track", __doc__, "run")
parser.add_argument("--uri", help="MLflow's tracking URI (default: $MLFLOW_TRACKING_URI, or RUN/mlflow.db)")
main = command(parser, track)
