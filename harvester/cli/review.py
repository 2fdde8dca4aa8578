"""Look at finds, one question a screen; or take a reviewed export back into the store.

    harvester review --run runs/night1                                    # the newest audit (harvester audit draw)
    harvester review --store STORE --tubelets boxes.csv --out runs/audit  # anything that was detected in a store
    harvester review --run runs/night1 --reviewed to-review/DL_info.csv   # an export that came back

Without --reviewed a page opens in the browser, at an address of this machine alone: is it a lesion? Every answer is a
line on the disk at once; to stop is Ctrl-C, the same command goes on. Below the picture stands what is proven so far
(docs/decisions/0016-audit.md). Of --tubelets, a table as harvester evaluate takes it, all finds make one list, drawn
into --out; what is proven of it goes to certified.parquet there.

    harvester export --run runs/night1 --to csv --out to-review
    harvester review --run runs/night1 --reviewed to-review/DL_info.csv
    harvester harvest --config configs/night.yaml --store STORE --run runs/night2

--reviewed is a DL_info.csv or annotations.json of harvester export in which `review` says, for any of its lesions,

  accepted  it is one: a lesion of every later run, from round 0 on
  rejected  it is none: a hard negative of every later run
  moved     it is one, but elsewhere: its box was changed in the file (csv: Bounding_boxes, Key_slice_index)

and nothing for the others. Of an exported hard negative, accepted means that it is none, rejected that it is a lesion.
What touches a reviewed label is never harvested or mined again. The verdicts are kept in the store (reviewed.parquet);
a later one on the same lesion replaces the earlier. The store then counts as other data: give the next harvest a new
run folder.
Exit codes: 0 done, 1 the file or the run cannot be used (one line says why), 2 an argument is wrong.
"""

import argparse
import webbrowser
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harvester.certificate.audit_folder import ADJUDICATED, AUDIT, TEACHING, AuditFolder, attempts
from harvester.cli.audit import certify_run
from harvester.cli.console import command, command_parser
from harvester.cli.places import lasting, run_folder, store_folder
from harvester.errors import LabelError, SettingsError, StoreError
from harvester.evaluation.inputs.detections import read_detections
from harvester.export.review_import import read_review
from harvester.labels.reviewed import MACHINE_MADE, Verdict, merged, reviewed_table, with_calibration
from harvester.records import AcceptedTable, checked, values
from harvester.results.audit import as_finds, draw_detections
from harvester.results.audit_outcome import certify_detections
from harvester.review.server import serve
from harvester.review.session import Session, progress
from harvester.run.folder import settings_of, store_of
from harvester.run.summary import read_summary
from harvester.storage.location import Location
from harvester.storage.owner import owned
from harvester.store.store import Store, write_reviewed


def review(options: argparse.Namespace) -> None:
    """Serve the page, or take an export back."""
    if options.reviewed:
        take_back(options)
    else:
        look(options)


def look(options: argparse.Namespace) -> None:
    """Serve an audit to a reader."""
    folder, store = audit_of(options)
    if bool(options.tls_cert) != bool(options.tls_key):
        raise SettingsError("--tls-cert and --tls-key: want both, or neither")
    tls = (options.tls_cert, options.tls_key) if options.tls_cert else None
    with folder.reading(options.reader) as reader:
        only = folder.disputed() if options.reader == ADJUDICATED else None
        session = Session(folder, reader, store, only)
        print(f"{folder.path}: {len(session.screens)} finds, {len(session.verdicts())} read by {options.reader}")
        serve(
            session,
            options.host,
            options.port,
            tls,
            partial(_open, options.browser),
            _certifying(options, folder, store),
        )
    print(progress(folder, folder.verdicts(options.reader))["words"])


def _certifying(options: argparse.Namespace, folder: AuditFolder, store: Store) -> Callable[[], str] | None:
    """What the page's button does; None where nothing is to be proven."""
    if options.teaching:
        return None
    if not options.run:
        return partial(certify_detections, folder)
    run = run_folder(options.run)
    return partial(certify_run, run, store, settings_of(run))


def _open(browser: bool, address: str) -> None:
    print(f"open {address}", flush=True)
    if browser:
        webbrowser.open(address)


def audit_of(options: argparse.Namespace) -> tuple[AuditFolder, Store]:
    """The run's newest audit, or that of a table of detections, which is drawn the first time."""
    if options.run:
        run = run_folder(options.run)
        settings = settings_of(run)
        audit = AuditFolder.newest(run, TEACHING if options.teaching else AUDIT)
        return audit, store_of(run, settings, store_folder(options.store))
    if not (options.store and options.tubelets and options.out):
        raise SettingsError("want --run, or --store with --tubelets and --out")
    store, out = Store.open(store_folder(options.store) or Location.of(options.store)), lasting(options.out)
    if made := attempts(out):
        return AuditFolder.open(made[-1]), store
    patients = dict(zip(values(store.manifest["volume_id"]), values(store.manifest["patient_id"]), strict=True))
    detections = read_detections(options.tubelets, sorted(patients))
    found = as_finds(detections.table, detections.scores, patients)
    if not len(found):
        raise LabelError(f"{options.tubelets.name}: holds no tubelet: there is nothing to look at")
    return draw_detections(out, store, found, (options.target, 1 - options.confidence), options.seed), store


def take_back(options: argparse.Namespace) -> None:
    """Everything is checked before the store is touched."""
    if not options.run:
        raise SettingsError("--reviewed wants --run: the run that was exported")
    run = run_folder(options.run)
    store = store_of(run, settings_of(run), store_folder(options.store))
    summary = read_summary(run)
    run_id, harvested = summary.run_id, summary.final.harvested
    verdicts = read_review(options.reviewed)
    check_run(verdicts, run_id)
    with owned(store.path):  # two reviews at once would keep one's verdicts alone
        table = merged(store.reviewed(), reviewed_table(verdicts, store.manifest))
        write_reviewed(store.path, with_calibration(table, _hits(run), harvested, run_id))
    counts = Counter(verdict.verdict for verdict in verdicts)
    print(", ".join(f"{count} {word}" for word, count in sorted(counts.items())) or "nothing was reviewed")
    print(f"store: {store.path}; harvest it again into a new run folder")


def check_run(verdicts: list[Verdict], run_id: str) -> None:
    """Raise LabelError for finds of another run: what is known of V_M belongs to one."""
    for verdict in verdicts:
        if verdict.label["source"] in MACHINE_MADE and verdict.label["run_id"] != run_id:
            raise LabelError(f"{verdict.where}: was found by another run than --run; give the run that was exported")


def _hits(run: Location) -> AcceptedTable:
    """The run's calibration hits; those of versions before 0.2 lie in rehearsed.parquet."""
    for name in ("calibration.parquet", "rehearsed.parquet"):
        if (run / name).is_file():
            return checked(AcceptedTable, (run / name).read_table(), run / name)
    raise StoreError(
        f"{run}: no calibration.parquet; give the folder of a finished run (one made by an older version: harvest it "
        "again, its finished steps are not done twice)"
    )


parser = command_parser("review", __doc__, "store")
add = parser.add_argument
add("--run", metavar="PATH|URI", help="the run's folder")
add("--reviewed", type=Path, metavar="FILE", help="the export as it came back")
add("--teaching", action="store_true", help="the finds that were drawn to teach (harvester audit draw --teaching)")
add("--tubelets", type=Path, metavar="FILE", help="detections to look at, of the volumes of --store")
add("--out", metavar="PATH", help="folder of their audit")
add("--target", type=float, default=0.9, help="the precision to be proven of them (default: %(default)s)")
add("--confidence", type=float, default=0.95, help="with this confidence (default: %(default)s)")
add("--seed", type=int, default=0, help="of their order")
add("--reader", default="reader", help=f"who looks; {ADJUDICATED}: what readers differ on (default: %(default)s)")
add("--host", default="127.0.0.1", help="where the page is; another one wants a certificate (default: %(default)s)")
add("--port", type=int, default=0, help="0: a free one")
add("--tls-cert", type=Path, metavar="FILE", help="certificate of --host")
add("--tls-key", type=Path, metavar="FILE", help="its key")
add("--no-browser", dest="browser", action="store_false", help="print the address and open nothing")
main = command(parser, review)
