"""Write what a finished run harvested as files that other tools open.

    harvester export --run runs/quickstart --to coco --out boxes
    harvester export --run runs/night1 --to csv --merge --hard-negatives --out training-set
    harvester export --run runs/night1 --to nifti --source SCANS --out masks
    harvester export --run runs/night1 --to dicom-sr --source SCANS --max-per-report 10 --out reports

  coco       annotations.json: a box per slice, track_id over the slices of a lesion
  csv        DL_info.csv: DeepLesion's columns, a row per lesion, on its key slice, then its origin
  markups    a .mrk.json per volume for 3D Slicer: an ROI box per lesion, in mm (LPS)
  nifti      a .nii.gz per volume: a label map in the scan's own grid; index.csv says which number is which lesion
  dicom-sr   a TID 1500 measurement report per volume, a box per lesion on its key slice; UNVERIFIED, by a device
  dicom-seg  a segmentation per volume, a segment per lesion; AUTOMATIC, with the algorithm's name, version and models

Every label tells its source, round, score, model hash and run. --merge adds the archive's marks and reviewed labels,
one training set; --hard-negatives adds what the run learnt to leave alone; --likely adds finds that nothing proves
yet, to look at: no promise is made of them.

--source is the folder that the store was prepared from: its scans are found again by the salt beside the store
(STORE.salt). With it, coordinates are those of the files; without it, those of the stored volumes (slices to the
head, those of DeepLesion to the feet; rows to the back, columns to the patient's left, first voxel at 0 mm). DICOM
needs it. Names of patients go from DICOM files into the DICOM objects that refer to them, and nowhere else.

The way back: a reviewer writes accepted, rejected or moved into `review` (coco, csv); see harvester review.
Exit codes: 0 done, 1 the run cannot be exported (one line says why), 2 an argument is wrong.
"""

import argparse
from datetime import datetime
from pathlib import Path

from harvester.cli.console import command, command_parser
from harvester.cli.places import lasting_path, run_folder, store_folder
from harvester.errors import SettingsError
from harvester.export.export import export
from harvester.export.request import DICOM, FORMATS, Request, check, closing_table
from harvester.export.source_scans import SourceScans
from harvester.run.folder import settings_of, store_of
from harvester.storage.salt import salt_beside

MOST_IN_A_REPORT = 20


def run(options: argparse.Namespace) -> None:
    """Check the options against each other, then export."""
    most = options.max_per_report
    request = Request(
        to=options.to,
        out=lasting_path(options.out).absolute(),
        made=datetime.now().astimezone().isoformat(timespec="seconds"),
        merge=options.merge,
        hard_negatives=options.hard_negatives,
        likely=options.likely,
        most=MOST_IN_A_REPORT if most is None and options.to in DICOM else most,
        skip_missing=options.skip_missing,
        force=options.force,
    )
    check(request, bool(options.source))
    folder = run_folder(options.run)
    settings = settings_of(folder)
    store = store_of(folder, settings, store_folder(options.store))
    source = None
    if options.source:
        if not options.source.is_dir():
            raise SettingsError(f"--source {options.source}: no such folder; give the folder of the scans")
        salt = salt_beside(store.path)
        source = SourceScans(options.source.absolute(), settings.data.archive, settings.seed, salt)
    print(closing_table(request, export(folder, store, source, request)))


parser = command_parser("export", __doc__, "run", "store")
add = parser.add_argument
add("--to", required=True, metavar="FORMAT", help=f"one of {', '.join(FORMATS)}")
add("--out", type=Path, required=True, help="folder for the files; must be empty or new")
add("--source", type=Path, help="folder of the scans that the store was prepared from")
add("--merge", action="store_true", help="the archive's marks and reviewed labels too")
add("--hard-negatives", action="store_true", help="hard negatives too")
add("--likely", action="store_true", help="finds that nothing proves yet, too: their source says so")
add(
    "--max-per-report",
    type=int,
    metavar="N",
    help=f"the best scored N of each volume (default: {MOST_IN_A_REPORT} for DICOM, else all)",
)
add("--skip-missing", action="store_true", help="leave out volumes without a scan, instead of failing")
add("--force", action="store_true", help="write into a folder that is not empty, in place of the last export there")
main = command(parser, run)
