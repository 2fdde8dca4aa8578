"""Study the method on archives of known truth: each part, its rivals, and detectors trained on the harvests.

    harvester study --config study                      # all of it: hours on two cores
    harvester study --config study --only phantoms --seeds 1 --arms generator_alone audit     # a piece: half an hour
    HARVESTER_DATA=... harvester study --config study --out runs/study --write docs

A study's config names archives (a config of harvester harvest and what differs), seeds, and arms: the full loop with
other settings, or what others do (harvester/study/arms.py). Every arm is run on every archive with every seed, arms
share what they have in common, and detectors are trained on the full loop's harvests (harvester retrain). Started
again, with more seeds or other arms, it goes on where it stopped.

Written to --out (default: runs/<config name>): study.json, study.md, study.png, and each arm's run folder, which MLflow
has as a run. --write DIR puts the three files there, too, and keeps what stands there of archives that this piece has
nothing of: a study may be made in pieces, on several machines.
Exit codes: 0 done, 1 it failed (one line says why), 2 a setting is wrong, 130 stopped by Ctrl-C, 143 SIGTERM.
"""

import logging
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from harvester.cli.console import LOGS, command, command_parser, data_root, tell
from harvester.cli.places import lasting
from harvester.errors import SettingsError
from harvester.run.study import StudyResult
from harvester.storage.location import Location
from harvester.storage.owner import owned
from harvester.study.settings import FULL, StudySettings, read_study

logger = logging.getLogger(__name__)


def run(options: Namespace) -> None:
    """The study or the piece of it, then what it says."""
    whole = read_study(options.config)
    settings = piece(whole, options.only, options.seeds, options.arms)
    out = lasting(options.out or Path("runs") / whole.name)
    # Torch and Ray take seconds: help and a wrong setting are answered before.
    from harvester.distributed.capacity import require_capacity
    from harvester.distributed.cluster import start_ray
    from harvester.report.study import as_markdown
    from harvester.run.log import logged_to
    from harvester.study.compare import merged
    from harvester.study.study import Study

    with owned(out), logged_to(out):
        start_ray()
        for archive in settings.archives:
            require_capacity(settings.settings(archive, settings.seeds[0]).compute)
        done = Study(settings, out, data_root(), typed(options)).run()
        publish(done, out)
        if options.write:
            where = lasting(options.write)
            before = StudyResult.read(where)
            publish(merged(before, done) if before else done, where)
    written = f"figures: {out / 'study.json'}, table: {out / 'study.md'}, picture: {out / 'study.png'}"
    tell(f"{as_markdown(done)}\n{written}", options)


def typed(options: Namespace) -> str:
    """The command that gives the same figures: where they are put is nobody's business."""
    chosen = {"config": [options.config], "only": options.only, "seeds": options.seeds, "arms": options.arms}
    parts = [f"--{name} {' '.join(map(str, values))}" for name, values in chosen.items() if values]
    return " ".join(["harvester study", *parts])


def piece(
    whole: StudySettings, archives: Sequence[str], seeds: Sequence[int], named: Sequence[str] = ()
) -> StudySettings:
    """Some archives, seeds and arms of a study; none named: all. Raises SettingsError for others than it has."""
    asked = (
        (archives, list(whole.archives), "--only"),
        (seeds, whole.seeds, "--seeds"),
        (named, [FULL, *whole.arms], "--arms"),
    )
    for given, known, option in asked:
        if strange := [str(each) for each in given if each not in known]:
            raise SettingsError(f"{option} {' '.join(strange)}: the study has {', '.join(map(str, known))}")
    kept = {name: each for name, each in whole.archives.items() if not archives or name in archives}
    arms = {
        name: arm.model_copy(update={"archives": tuple(each for each in arm.archives if each in kept)})
        for name, arm in whole.arms.items()
        if (not arm.archives or set(arm.archives) & kept.keys()) and (not named or name in named)
    }
    retrained = tuple(name for name in whole.retrain if name in kept)
    changed = {"archives": kept, "arms": arms, "retrain": retrained, "seeds": tuple(seeds) or whole.seeds}
    return whole.model_copy(update=changed)


def publish(done: StudyResult, folder: Location) -> None:
    """The figures, the table and the picture."""
    from harvester.report.study import as_markdown, study_picture

    done.write(folder)
    (folder / "study.md").write_text(as_markdown(done))
    (folder / "study.png").write_bytes(study_picture(done))


parser = command_parser("study", __doc__, *LOGS)
parser.add_argument("--config", type=Path, required=True, metavar="FILE|NAME", help="YAML of a study, or: study")
parser.add_argument("--out", metavar="PATH|URI", help="folder of the study (default: runs/<config name>)")
parser.add_argument("--only", nargs="+", default=[], metavar="ARCHIVE", help="these archives alone")
parser.add_argument("--seeds", nargs="+", type=int, default=[], metavar="N", help="these of its seeds alone")
parser.add_argument("--arms", nargs="+", default=[], metavar="ARM", help="these alone, beside the full loop")
parser.add_argument("--write", metavar="DIR", help="put study.json, study.md and study.png there, too")
main = command(parser, run)
