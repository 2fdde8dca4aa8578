"""Make a store: decode scans once (or make volumes of known truth), check them, keep them for fast reading.

    harvester prepare --source SCANS --out STORE --dry-run                   # what would be taken, what refused
    harvester prepare --source SCANS --out STORE                             # your own archive
    harvester prepare --format deeplesion --source DEEPLESION --out STORE \\
        --mining-marks Revised-Train744.pkl --harvest-test-marks Revised-Train100.pkl
    harvester prepare --format phantom --config quickstart --out STORE

An archive (--format auto, nifti, dicom) is a folder of any depth with NIfTI files and DICOM CT series, anything else
beside them. What is known of the scans:

  marks.csv    one row per box: file, z, x1, y1, x2, y2; optional: lesion, kind, clinical
  volumes.csv  optional, one row per scan: file; optional: patient, split, complete (1: every lesion is marked)
  COCO         marks.json or annotations.json: images with file_name and slice, bbox [x, y, width, height]
  label masks  a.mask.nii.gz or masks/a.nii.gz beside a.nii.gz; components in 3D are lesions. Medical Decathlon and
               nnU-Net: labelsTr/a.nii.gz of imagesTr/a.nii.gz or a_0000.nii.gz (organs too? data.archive.mask_labels)
  DICOM        SR (TID 1500), SEG and RTSTRUCT objects that refer to a series. Parts that give no mark and may be
               lesions are rows, and their scan is not complete (data.archive.dicom.lesion_names, other_names)

`file` is the path, inside the archive, of the NIfTI file or of the series' folder (or a SeriesInstanceUID); with z left
empty, of one slice's file (or its SOPInstanceUID). Boxes are in the file's own voxels, counted from 0, both ends
inclusive; z is the index of the slice, in DICOM ascending along the slices' normal (feet to head in an ordinary scan).
Tables are as a spreadsheet writes them: commas, semicolons or tabs. marks.csv may carry volumes.csv's columns instead.
One kind of marks a scan; two are refused. patient defaults to the DICOM PatientID or the NIfTI's name. Without a split,
a patient all of whose scans are complete goes to vm (the mining set), or, a share of them (data.archive.vh_test_share),
to vh_test; any other to vh.

clinical (1 or 0) says of a completely marked scan which lesions the clinic had marked: the harvest is proven on the
others. Without that column, and with masks and DICOM objects, the largest are taken for it, as many per volume as vh
has (data.archive.clinical_marks = given: every mark is clinical, but where a table says 0).

What is no CT in Hounsfield units (a label map, MR, HU + 1024) is refused; data.archive.any_values takes it. Which
series are taken, and all else that can be chosen: data.archive in harvester/config/data.py, by --set.

DeepLesion is taken as published: Images_png, DL_info.csv, pickles (or .parquet, .csv) of full annotations.

STORE is a folder, or s3://bucket/folder, gs://bucket/folder (keys come from the environment). A preparation that was
stopped goes on where it was when it is started again; of an archive that has changed only what changed is made anew.

Ids in the store are hashes, salted with the secret in the file STORE.salt: keep it to get the same ids again, and to
yourself. DeepLesion's own ids stay. STORE/rejects.parquet: what was refused, by hashes; --rejects FILE.csv: by files.
STORE/splits.csv: who is in which split. --scans FILE.csv, also with --dry-run later on: which volume is which scan.
Exit codes: 0 done, 1 the store could not be made (one line says why), 2 a setting is wrong.
"""

import argparse
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow.compute as pc

from harvester.cli.console import LOGS, command, command_parser, data_root, tell
from harvester.cli.places import lasting
from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.datasets.deeplesion.files import IMAGES, INFO, is_deeplesion
from harvester.errors import SettingsError
from harvester.records import SPLITS, Reject
from harvester.storage.location import Location
from harvester.storage.owner import owned
from harvester.storage.salt import has_salt
from harvester.store.commit import drawn_note, volumes_with_drawn_marks
from harvester.store.store import Store
from harvester.text import table

if TYPE_CHECKING:
    from harvester.datasets.discovery import Discovery

logger = logging.getLogger(__name__)

KINDS: Final = dict.fromkeys(("auto", "nifti", "dicom"), "archive") | {
    "deeplesion": "deeplesion",
    "phantom": "phantom",
    "insert": "insertion",
}
"""Names of --format, and the data.kind that each stands for."""
MARKS: Final = {
    "mining_marks": "full annotation of the mining set V_M",
    "harvest_test_marks": "full annotation of V_H^test, hidden from the harvest and for scoring it",
    "detector_test_marks": "full annotation of V_D^test, for detectors trained on the harvest",
}
"""Files of marks, as options and as settings of data.deeplesion: published pickles, .parquet or .csv."""


def run(options: argparse.Namespace) -> None:
    """Make the store and tell what it holds; or, dry, what it would be made from."""
    source = source_of(options.source)
    if not options.format and options.source and is_deeplesion(options.source):
        logger.info("%s and %s are there: taken as DeepLesion (--format auto takes other archives)", IMAGES, INFO)
        options.format = "deeplesion"
    settings = settings_of(options)
    for name in ("rejects", "scans"):
        _refuse_in_store(name, getattr(options, name), options.store)
    store = lasting(options.store)
    (look if options.dry_run else make)(options, settings, source, store)


def look(options: argparse.Namespace, settings: Settings, source: Path | None, store: Location) -> None:
    """What a store would be made from. Ids are those of the store where there is one."""
    from harvester.certificate.preconditions import Archive, obstacles, told
    from harvester.datasets.dry_run import dry_run_table, known_tables
    from harvester.distributed.preparation import list_cases

    if options.scans and settings.data.kind == "archive" and not has_salt(store):
        raise SettingsError(
            f"--scans {options.scans}: {store} is not made yet, nor its ids; prepare it, then ask again"
        )
    found = list_cases(settings, source, store if has_salt(store) else None)
    _write_lists(options, source, found, (), {})
    print("\n".join([dry_run_table(found), *told(obstacles(Archive.of(*known_tables(found)), settings))]))


def make(options: argparse.Namespace, settings: Settings, source: Path | None, store: Location) -> None:
    """The store."""
    # Ray takes seconds: help and a wrong setting are answered before.
    from harvester.certificate.preconditions import obstacles_of, told
    from harvester.datasets.inventory import Inventory
    from harvester.distributed.cluster import start_ray
    from harvester.distributed.preparation import ManyRefusedError, prepare_telling
    from harvester.distributed.shared_folders import require_shared

    seen: list[Inventory] = []
    with owned(store):
        start_ray()
        require_shared([store], [Location.of(source)] if source else [])
        try:
            made = prepare_telling(settings, source, store, seen.append)
        except ManyRefusedError as error:  # whoever is to mend the files must know them
            _write_lists(options, source, seen[0].discovery, error.rejects, seen[0].source_hashes)
            raise
        if seen:
            rejects = [Reject(**row) for row in made.rejects().to_pylist()]
            _write_lists(options, source, seen[0].discovery, rejects, seen[0].source_hashes)
        found = obstacles_of(made, settings)
        way = " --set operating_point.certificate=audit" if any(each.audited for each in found) else ""
        following = f"next: harvester harvest --store {options.store} --run runs/mine{way}"
        tell("\n".join([closing_table(made), *told(found), following]), options)


def _refuse_in_store(name: str, given: Path | None, store: str) -> None:
    """Raise SettingsError for a list of the archive's files that is to lie in the store, which names no file."""
    if given and Path(store).absolute() in given.absolute().parents:
        raise SettingsError(f"--{name} {given}: it names files of the archive; want a place outside the store")


def _write_lists(
    options: argparse.Namespace,
    source: Path | None,
    found: "Discovery",
    later: Sequence[Reject],
    source_hashes: Mapping[str, str],
) -> None:
    """What --rejects and --scans ask for. later: what was refused when it was read, or all that was."""
    from harvester.datasets.lists import rejects_csv, scans_csv, taken

    root = source or Path()
    rejects = list(dict.fromkeys([*found.rejects, *later]))
    if options.rejects:
        options.rejects.write_text(rejects_csv(root, found, rejects, source_hashes))
    if options.scans:
        options.scans.write_text(scans_csv(root, taken(found, rejects, source_hashes)))


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings; a --source makes a config that names no maker of volumes from files read that archive, and so does
    $HARVESTER_DATA where nothing is named at all."""
    overrides = [*options.set, *_of_format(options.format), *_of_marks(options)]
    settings = resolve(options.config, overrides)
    unnamed = settings.data.kind == "store" or (options.source and settings.data.kind == "phantom")
    if not options.format and unnamed and (options.source or data_root()):
        settings = resolve(options.config, [*overrides, "data.kind=archive"])
    return settings


def _of_format(name: str | None) -> list[str]:
    """--format as overrides."""
    if name is None:
        return []
    kind = KINDS[name]
    return [f"data.kind={kind}", *([f"data.archive.format={name}"] if kind == "archive" else [])]


def _of_marks(options: argparse.Namespace) -> list[str]:
    """The files of DeepLesion's marks as overrides. Raises SettingsError where another format is asked for."""
    files = {name: getattr(options, name) for name in MARKS if getattr(options, name)}
    given = {name: json.dumps(str(file.absolute())) for name, file in files.items()}
    if options.marks:
        given["marks"] = json.dumps([str(file.absolute()) for file in options.marks])
    if given and options.format != "deeplesion":
        raise SettingsError(
            f"--{next(iter(given)).replace('_', '-')}: is for --format deeplesion; other archives carry their marks "
            "with them (marks.csv, COCO, label masks, DICOM objects)"
        )
    return [f"data.deeplesion.{name}={value}" for name, value in given.items()]


def source_of(given: Path | None) -> Path | None:
    """The folder of the scans, absolute; None where nothing names one. Raises SettingsError for no folder."""
    if given and not given.is_dir():
        raise SettingsError(f"--source {given}: no such folder; give the folder of the scans")
    return given.absolute() if given else data_root()


def closing_table(store: Store) -> str:
    """What was taken and what was refused, for the terminal."""
    rows = [["split", "volumes", "patients", "marks", "clinical", "truth"]]
    marks, truth = store.marks(), store.truth()
    for split in SPLITS:
        mine = store.manifest.filter(pc.field("split") == split)
        if len(mine):
            known, hidden = (t.filter(pc.is_in(t["volume_id"], mine["volume_id"])) for t in (marks, truth))
            patients, clinical = len(pc.unique(mine["patient_id"])), pc.sum(known["clinical"]).as_py() or 0
            counts = (len(mine), patients, len(known), clinical, len(hidden))
            rows.append([split, *map(str, counts)])
    lines = table(rows)
    reasons = Counter(store.rejects()["reason"].to_pylist())
    lines += [f"refused: {count} {reason}" for reason, count in sorted(reasons.items())] or ["refused: none"]
    if drawn := volumes_with_drawn_marks(store.path):
        lines.append(drawn_note(drawn))
    return "\n".join([*lines, f"store: {store.path}"])


parser = command_parser("prepare", __doc__, "config", "set", *LOGS)
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
    choices=KINDS,
    help="what the source holds; auto: NIfTI and DICOM (default: as the settings say, auto for a --source)",
)
for name, what in MARKS.items():
    add(f"--{name.replace('_', '-')}", type=Path, metavar="FILE", help=f"DeepLesion: {what}")
add("--marks", type=Path, nargs="+", metavar="FILE", help="DeepLesion: clinical marks instead of DL_info.csv's")
add(
    "--rejects",
    type=Path,
    metavar="FILE.csv",
    help="write down which files were refused, and why: it names them, so it stays with the archive",
)
add(
    "--scans",
    type=Path,
    metavar="FILE.csv",
    help="write down which volume is which scan: its file, of a series a file and the SeriesInstanceUID. It undoes the "
    "pseudonyms, so it stays with the archive; with --dry-run, of a store that is there",
)
add("--dry-run", action="store_true", help="tell what would be taken and what refused; write nothing")
main = command(parser, run)
