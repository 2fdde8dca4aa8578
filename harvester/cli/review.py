"""Take a reviewed export back into the store: accepted, rejected and moved finds become people's labels.

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
from collections import Counter
from pathlib import Path

from harvester.cli.console import command, command_parser
from harvester.cli.places import run_folder, store_folder
from harvester.errors import LabelError, StoreError
from harvester.export.review_import import read_review
from harvester.labels.reviewed import MACHINE_MADE, Verdict, merged, reviewed_table, with_calibration
from harvester.records import AcceptedTable, checked
from harvester.run.folder import settings_of, store_of
from harvester.run.summary import read_summary
from harvester.storage.location import Location
from harvester.storage.owner import owned
from harvester.store.store import write_reviewed


def review(options: argparse.Namespace) -> None:
    """Everything is checked before the store is touched."""
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


parser = command_parser("review", __doc__, "run", "store")
parser.add_argument("--reviewed", type=Path, required=True, metavar="FILE", help="the export as it came back")
main = command(parser, review)
