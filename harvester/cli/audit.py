"""Prove a harvest by looking at a random part of it: no completely marked patient is needed, no likeness of archives.

    harvester audit --run runs/night1 draw      # freeze the list, draw its order
    harvester review --run runs/night1          # look at the finds in that order, in the browser
    harvester audit --run runs/night1 status    # what is proven so far, and how many more reviews it is likely to take
    harvester audit --run runs/night1 certify   # the proven list becomes the harvest
    harvester audit --run runs/night1 teach     # what was said as labels of later runs (into the store)

`certify` writes harvest, ledger, summary and report anew: the list of the largest proven rung, without what was
rejected or could not be told, moved boxes where they belong; exports follow. Nothing is trained or scored.

`teach` is for the next run, in a new folder: what was rejected is a hard negative, what was accepted is settled.
`draw --teaching 40` draws forty finds just below the list on which both stages differ most, for
`harvester review --teaching`: they prove nothing, and teach the most.

`draw` takes what the last round found down to where V_M's precision, as counted, is 0.90, in nested lists (rungs), the
strictest first; without V_M's figures, down to a score of 0.5. Finds of V_M that are known are planted among them: from
what a reader says of those follows how far the reader is to be believed. Nothing that a run certified by itself is
touched. A list is drawn once: to look until it suits is what the order, fixed beforehand, forbids. Later audits of an
archive, of whichever run, have smaller shares of the level: the store counts them (docs/decisions/0016-audit.md).
Exit codes: 0 done, 1 the run has nothing to audit (one line says why), 2 an argument is wrong.
"""

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import replace

from harvester.certificate.audit import agreement, claim_of, standings
from harvester.certificate.audit_folder import ADJUDICATED, AuditFolder
from harvester.cli.console import command, command_parser
from harvester.cli.places import run_folder, store_folder
from harvester.config.settings import Settings
from harvester.errors import HarvesterError, StoreError, one_line
from harvester.results.audit import PLANTED, draw, draw_teaching
from harvester.results.audit_outcome import certify, teach
from harvester.review.session import progress
from harvester.run.folder import Run, StepMissingError, settings_of, store_of
from harvester.run.summary import read_summary
from harvester.run.tracking import Tracker, sync
from harvester.storage.location import Location
from harvester.storage.owner import owned
from harvester.store.store import Store
from harvester.text import table

logger = logging.getLogger(__name__)


def audit(options: argparse.Namespace) -> None:
    """Draw, say how it stands, or certify."""
    run = run_folder(options.run)
    settings = settings_of(run)
    if options.what == "status":
        print("\n".join(status_lines(AuditFolder.newest(run))))
        return
    store, seed = store_of(run, settings, store_folder(options.store)), options.seed
    seed = settings.seed if seed is None else seed
    if options.what == "certify":
        print(certify_run(run, store, settings))
    elif options.what == "teach":
        counts = teach(run, store)
        print(", ".join(f"{count} {word}" for word, count in sorted(counts.items())))
        print(f"store: {store.path}; harvest it again into a new run folder")
    elif options.teaching:
        folder = draw_teaching(run, store, settings, options.teaching, seed)
        print(
            f"{folder.path}: {len(folder.plan.deck.order)} finds; next: harvester review --run {options.run} --teaching"
        )
    else:
        drawn = draw(run, store, settings, seed, options.planted)
        print("\n".join([*drawn_lines(drawn), f"next: harvester review --run {options.run}"]))


def certify_run(run: Location, store: Store, settings: Settings) -> str:
    """Make what the newest audit proved the run's harvest; what was made, in a line."""
    folder = AuditFolder.newest(run)
    try:
        said = certify(folder).said
    except StoreError as refused:
        if not folder.decided():
            raise
        report = rewritten(run, store, settings, progress(folder, folder.decided())["told"])
        raise StoreError(f"{one_line(refused)}; the report says how far it came: {report}") from refused
    report = rewritten(run, store, settings)
    try:
        sync(run, os.environ.get("MLFLOW_TRACKING_URI"))
    except HarvesterError as error:
        logger.warning("%s; harvester track --run %s sends it later", one_line(error), run)
    return f"{said}; report: {report}"


def rewritten(run: Location, store: Store, settings: Settings, standing: Sequence[str] = ()) -> Location:
    """The run's tables, summary and report anew, with what its newest audit certified, or how far that is."""
    from harvester.harvest import harvest
    from harvester.report.build import write_report

    before = read_summary(run)
    with owned(run):
        as_it_is = Run(run, settings, store, steps_in=replace(run, read_only=True))
        try:
            history = harvest(as_it_is, Tracker(as_it_is))
        except StepMissingError as missing:
            raise StoreError(
                f"{run}: is not what was audited: round {missing.round} {missing.step} would be made anew (other "
                "settings, or another store); harvest it again, then draw another audit"
            ) from missing
        kept = {"earlier_looks": before.earlier_looks, "seconds": before.seconds}
        history.summary = history.summarize().model_copy(update=kept)
        history.summary.write(run)
        return write_report(replace(history.report_inputs(), standing=standing))


def drawn_lines(folder: AuditFolder) -> list[str]:
    """What was drawn."""
    plan, deck = folder.plan, folder.plan.deck
    lures = len(deck.lures)
    planted = f"{lures} finds that are none and {len(deck.planted) - lures} lesions planted"
    if not deck.planted:
        planted = "no known finds are planted (no patient of V_M can prove any): readers are trusted"
    again = f" (audit {plan.attempt + 1} of this archive)" if plan.attempt else ""
    return [
        f"{folder.path}: {len(deck.order)} finds, frozen as {plan.list_hash}",
        f"rungs of {', '.join(map(str, deck.sizes))}; {planted}; precision {plan.target:g} is to be proven at a level "
        f"of {plan.level:.3g}{again}",
    ]


def status_lines(folder: AuditFolder) -> list[str]:
    """Where the audit is, by what counts and by each reader."""
    plan, decided = folder.plan, folder.decided()
    claim = claim_of(plan.deck, decided, plan.target, plan.level)
    rows = [["rung", "read", "right", "box fits", "proven at", "at least", "more"]]
    for each in standings(plan.deck, decided, claim):
        proven, left = (str(value) if value is not None else "-" for value in (each.proven_at, each.left))
        read = f"{len(each.right)} of {each.size}"
        rows.append(
            [str(each.size), read, str(sum(each.right)), f"{each.exact:.3f}", proven, f"{each.bound:.3f}", left]
        )
    told = [*drawn_lines(folder), *table(rows, "lrrrrrr"), progress(folder, decided)["words"]]
    readers = [name for name in folder.readers() if name != ADJUDICATED]
    told += [f"{name}: {progress(folder, folder.verdicts(name))['words']}" for name in readers if len(readers) > 1]
    for at, one in enumerate(readers):
        for other in readers[at + 1 :]:
            same, kappa = agreement(folder.verdicts(one), folder.verdicts(other), plan.deck.order)
            told.append(f"{one} and {other} agree on {same:.0%} (kappa {kappa:.2f})")
    if disputed := folder.disputed():
        told.append(f"{len(disputed)} finds are disputed: harvester review --run RUN --reader {ADJUDICATED}")
    return told


parser = command_parser("audit", __doc__, "run", "store")
parser.add_argument("what", choices=("draw", "status", "certify", "teach"), help="what to do; see above")
parser.add_argument("--seed", type=int, help="of the order (default: the run's)")
parser.add_argument("--planted", type=int, default=PLANTED, help="known finds among the others (default: %(default)s)")
parser.add_argument(
    "--teaching", type=int, default=0, metavar="N", help="draw so many finds that teach, and prove nothing"
)
main = command(parser, audit)
