"""Make a store: decode scans once (or make volumes of known truth), check them, keep them for fast reading.

    python jobs/prepare.py --source SCANS --store STORE                    # your own archive
    python jobs/prepare.py --config configs/quickstart.yaml --store STORE  # what a config makes

An archive is a folder of NIfTI files (.nii, .nii.gz) and DICOM CT series, in folders of any depth, with two tables:

  marks.csv    one row a box: file, z, x1, y1, x2, y2; optional: clinical (1 or 0, default 1), kind
  volumes.csv  optional, one row a scan: file; optional: patient, split, complete (1: every lesion is in marks.csv)

`file` is the path, inside the archive, of the NIfTI file or of the series' folder (or a SeriesInstanceUID). Boxes are
in the file's own voxels, counted from 0, both ends inclusive; z is the index of the slice, in DICOM ascending along the
slices' normal (feet to head in an ordinary scan). marks.csv may carry volumes.csv's columns instead. patient defaults
to the DICOM PatientID or the NIfTI's name. Without a split, a patient all of whose scans are complete goes to vm (the
mining set), any other to vh.

STORE is a folder, or s3://bucket/folder, gs://bucket/folder (keys come from the environment). A preparation that was
stopped goes on where it was when it is started again; of an archive that has changed only what changed is made anew.

Ids in the store are hashes, salted with the secret in the file STORE.salt: keep it to get the same ids again, and to
yourself.
Exit codes: 0 done, 1 the store could not be made (one line says why), 2 a setting is wrong.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc

from harvester.cli import job_parser, run_job
from harvester.config import Settings, resolve
from harvester.distributed.preparation import prepare
from harvester.distributed.start import start_ray
from harvester.errors import SettingsError
from harvester.records import SPLITS
from harvester.volumes.store import Store


def main(arguments: list[str] | None = None) -> int:
    """Parse, start Ray, prepare, tell what the store holds."""
    options = parse(arguments)
    return run_job(lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """Make the store and tell what it holds."""
    settings, source = settings_of(options), source_of(options.source)
    start_ray()
    print(closing_table(prepare(settings, source, options.store)))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = job_parser(__doc__)
    add = parser.add_argument
    add(
        "--store",
        "--out",
        required=True,
        help="where the store is to be made: a folder, or s3://bucket/folder or gs://bucket/folder",
    )
    add("--source", type=Path, help="folder of the scans (default: $HARVESTER_DATA)")
    add(
        "--format",
        choices=("auto", "nifti", "dicom"),
        help="which scans of the source to take (default: all)",
    )
    add("--config", type=Path, help="YAML file of settings; without it, the defaults")
    add("--set", action="append", default=[], metavar="a.b=c", help="override one setting; may be repeated")
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings; a --source makes a config that names no maker of volumes from files read that archive."""
    overrides = list(options.set)
    if options.format:
        overrides.append(f"data.archive.format={options.format}")
    settings = resolve(options.config, overrides)
    if options.source and settings.data.kind in ("store", "phantom"):
        settings = resolve(options.config, [*overrides, "data.kind=archive"])
    return settings


def source_of(given: Path | None) -> Path | None:
    """The folder of the scans, absolute; None where nothing names one. Raises SettingsError for no folder."""
    named = given or (Path(os.environ["HARVESTER_DATA"]) if os.environ.get("HARVESTER_DATA") else None)
    if given and not given.is_dir():
        raise SettingsError(f"--source {given}: no such folder; give the folder of the scans")
    return named.absolute() if named else None


def closing_table(store: Store) -> str:
    """What was taken and what was refused, for the terminal."""
    lines = [f"{'split':<9}{'volumes':>9}{'patients':>10}{'marks':>8}{'clinical':>10}{'truth':>8}"]
    marks, truth = store.marks(), store.truth()
    for split in SPLITS:
        mine = store.manifest.filter(pc.equal(store.manifest["split"], split))
        if len(mine):
            known, hidden = (t.filter(pc.is_in(t["volume_id"], mine["volume_id"])) for t in (marks, truth))
            patients, clinical = len(pc.unique(mine["patient_id"])), pc.sum(known["clinical"]).as_py() or 0
            lines.append(
                f"{split:<9}{len(mine):>9}{patients:>10}{len(known):>8}{clinical:>10}{len(hidden):>8}"
            )
    reasons = Counter(store.rejects()["reason"].to_pylist())
    lines += [f"refused: {count} {reason}" for reason, count in sorted(reasons.items())] or ["refused: none"]
    return "\n".join([*lines, f"store: {store.path}"])


if __name__ == "__main__":
    sys.exit(main())
