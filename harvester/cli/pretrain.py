"""Make starting weights of both stages from scans: lesions are inserted into them, phantoms beside.

    harvester pretrain --config pretrain --run runs/weights      # $HARVESTER_DATA names the folder of the scans
    harvester harvest --store STORE --set starting_weights=runs/weights/weights

Which scans: those of role vm in configs/backgrounds.yaml, or in a list of your own in its form, with what must be left
alone in each (--set data.insertion.backgrounds=FILE, data.insertion.source=FOLDER).
RUN/weights holds the weights and their card: what they were made from, whom they have seen, and how good they are on
patients that they have not. A V_M patient that they have seen proves nothing: so there are weights for each fold of
patients (settings folds and seed), and a harvest with as many folds starts each from those that have not seen its own.
Starting the same command again goes on where it stopped.
Exit codes: 0 done, 1 it failed (one line says why), 2 a setting is wrong, 130 stopped by Ctrl-C, 143 SIGTERM.
"""

from argparse import Namespace
from pathlib import Path

from harvester.cli.console import LOGS, command, command_parser, tell
from harvester.cli.places import lasting
from harvester.config.loading import resolve


def run(options: Namespace) -> None:
    """Volumes, then both stages, then the card."""
    settings = resolve(options.config, options.set)
    # Torch and Ray take seconds: help and a wrong setting are answered before.
    from harvester.cli.run_pretrain import run_pretrain

    run_pretrain(settings, lasting(options.run or Path("runs") / settings.name), lambda text: tell(text, options))


parser = command_parser("pretrain", __doc__, "config", "set", *LOGS)
parser.add_argument("--run", metavar="PATH|URI", help="run folder (default: runs/<config name>/)")
main = command(parser, run)
