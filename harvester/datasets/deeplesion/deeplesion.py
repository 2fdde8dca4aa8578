"""DeepLesion as it is published, to volumes: Images_png/PPPPPP_SS_SS/NNN.png, DL_info.csv, pickles of annotations.

A volume is a sub-volume of a series, slices START to END of Slice_range; z counts from START, in the order of the
files' numbers (head to feet), not turned, so that published marks hold as they are. Ids stay as published: they are
the publishers' pseudonyms, and all their files of marks use them (docs/decisions/0008).

Marks of V_M, V_H^test and V_D^test are the full annotation's; `clinical` are those that the archive shows too.
Marks of V_H are the archive's. A box may reach over the edge of its slice by what its ends were padded with.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harvester.config.data import DeepLesionSettings
from harvester.config.settings import Settings
from harvester.datasets.deeplesion.files import IMAGES, Fault, slice_names, unknown, unusable
from harvester.datasets.deeplesion.marks import MarkRow, annotated_marks, clinical_marks
from harvester.datasets.deeplesion.splits import LEFT_OUT, Assigned, assign
from harvester.datasets.discovery import (
    LOOKS,
    Dataset,
    Discovery,
    LoadedVolume,
    clipped,
    contents_of,
    root_of,
    salted_hash,
)
from harvester.errors import SettingsError, VolumeError
from harvester.imaging.png import read_png_slices
from harvester.labels.deeplesion.dl_info import PAD_PX, InfoRow, read_dl_info
from harvester.labels.deeplesion.mark_tables import read_marks
from harvester.labels.deeplesion.published_marks import PublishedMarks
from harvester.labels.deeplesion.volume_ids import split_id
from harvester.records import SPLITS, Mark, Reject, Volume

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeepLesionCase:
    """One sub-volume to be stored: slices `start` to `end` of the series in `folder`, both included.

    contents    of the slices, at the look (contents_of)
    """

    volume_id: str
    patient_id: str
    split: str
    folder: str
    start: int
    end: int
    spacing_zyx_mm: Sequence[float]
    size_px: Sequence[int]
    bytes: int
    marks: list[MarkRow]
    contents: str = ""

    @property
    def first_file(self) -> str:
        """Of slice 0, under the source folder."""
        return f"{IMAGES}/{slice_names(self.folder, self.start, self.start)[0]}"


def dataset(settings: Settings, source: Path | None) -> Dataset:
    """The sub-volumes as published, as `discover` finds and `read` reads them."""
    root = root_of(source)
    return Dataset(
        partial(discover, root, settings.data.deeplesion),
        lambda case: LoadedVolume(*read(DeepLesionCase(**case), root)),
    )


def discover(root: Path, settings: DeepLesionSettings, salt: str) -> Discovery:
    """Every sub-volume of the table as a DeepLesionCase or a Reject, sorted by id; no pixel is read, nothing is drawn.

    Raises LabelError for a broken table or pickle, SettingsError where the images are not there.
    """
    if not (root / IMAGES).is_dir():
        raise SettingsError(f"--source: holds no folder {IMAGES}; give the folder that has it and DL_info.csv")
    lines, bad = read_dl_info(_located(root, settings.info))
    rows: dict[str, list[InfoRow]] = {}
    for each in lines:
        rows.setdefault(each.volume_id, []).append(each)
    named = (settings.mining_marks, settings.harvest_test_marks, settings.detector_test_marks)
    files = zip(("vm", "vh_test", "vd_test"), named, strict=True)
    annotated = {split: read_marks(_located(root, name)) for split, name in files if name}
    assigned = assign(
        {volume: of[0].split for volume, of in rows.items()},
        {volume: of[0].patient_id for volume, of in rows.items()},
        {split: published.volume_ids for split, published in annotated.items()},
    )
    marks = _marks(root, settings, rows, annotated, assigned.splits)
    faults: dict[str, Fault] = {f"line {line}": ("bad_row", message) for line, message in bad.items()}
    faults |= {each: (why, f"volume {each}: {LEFT_OUT[why]}") for each, why in assigned.left_out.items()}
    faults |= unknown(rows, annotated) | unusable(root, rows, marks, assigned.splits)
    taken = [volume for volume in sorted(assigned.splits) if volume not in faults]
    with ThreadPoolExecutor(LOOKS) as pool:
        cases = list(pool.map(lambda each: _case(root, rows[each][0], assigned.splits[each], marks[each]), taken))
    _log_counts(cases, assigned)
    return Discovery(cases, [Reject(salted_hash(name, salt), *faults[name]) for name in sorted(faults)])


def read(case: DeepLesionCase, root: Path) -> tuple[Volume, list[Mark]]:
    """The sub-volume of a case and its marks. Raises VolumeError (see imaging.png; also bad_mark, bad_spacing)."""
    names = slice_names(case.folder, case.start, case.end)
    (z, y, x), (columns, rows) = case.spacing_zyx_mm, case.size_px
    volume = read_png_slices(root / IMAGES, names, case.volume_id, case.patient_id, (z, y, x), (columns, rows))
    return volume, [_mark(volume, number, row) for number, row in enumerate(case.marks)]


def _located(root: Path, name: str) -> Path:
    """A file named by a setting: in the archive if it is there, else where the path leads from here."""
    return root / name if (root / name).is_file() else Path(name)


def _marks(
    root: Path,
    settings: DeepLesionSettings,
    rows: Mapping[str, Sequence[InfoRow]],
    annotated: Mapping[str, PublishedMarks],
    splits: Mapping[str, str],
) -> dict[str, list[MarkRow]]:
    """The marks of every volume of the table, as its split shows them."""
    given = [read_marks(_located(root, name)) for name in settings.marks]
    clinical = clinical_marks(rows, given, settings)
    full = {split: annotated_marks(each, clinical, settings.match_iou) for split, each in annotated.items()}
    return {volume: full.get(splits.get(volume, ""), clinical)[volume] for volume in rows}


def _case(root: Path, line: InfoRow, split: str, marks: list[MarkRow]) -> DeepLesionCase:
    parts = split_id(line.volume_id)
    assert parts  # noqa: S101  # the table's reader made the id
    return DeepLesionCase(
        volume_id=line.volume_id,
        patient_id=line.patient_id,
        split=split,
        folder=parts.folder,
        start=parts.start,
        end=parts.end,
        spacing_zyx_mm=line.spacing_zyx_mm,
        size_px=line.size_px,
        bytes=2 * (parts.end - parts.start + 1) * line.size_px[0] * line.size_px[1],
        marks=marks,
        contents=contents_of(root / IMAGES / name for name in slice_names(parts.folder, parts.start, parts.end)),
    )


def _log_counts(cases: Sequence[DeepLesionCase], assigned: Assigned) -> None:
    """Counts alone: what was taken, and what rule 2 of splits.py moved."""
    for split in SPLITS:
        marks = [mark for case in cases if case.split == split for mark in case.marks]
        volumes = sum(case.split == split for case in cases)
        clinical = sum(mark["clinical"] for mark in marks)
        logger.info("deeplesion: %s: %d volumes, %d marks, %d clinical", split, volumes, len(marks), clinical)
    if assigned.demoted:
        moved = len(assigned.demoted)
        logger.info("deeplesion: %d volumes of vm taken as vh: their patients are in vh_test", moved)


def _mark(volume: Volume, number: int, row: MarkRow) -> Mark:
    """A mark of the stored volume, cut at the edges of the slice. Raises VolumeError where it lies outside."""
    depth, height, width = volume.hu_zyx.shape
    x1, y1, x2, y2 = row["box_xyxy"]
    touches = x1 <= width - 1 and y1 <= height - 1 and x2 >= 0 and y2 >= 0
    beyond = max(-x1, -y1, x2 - (width - 1), y2 - (height - 1))
    if not (0 <= row["z"] < depth and touches and beyond <= PAD_PX):
        raise VolumeError(
            "bad_mark",
            f"volume {volume.volume_id}: mark {number} lies outside the volume of {depth} slices, {height} rows, "
            f"{width} columns; correct the table or the file of marks",
        )
    box = clipped((x1, y1, x2, y2), height, width)
    return Mark(volume.volume_id, f"{volume.volume_id}-{number}", row["z"], *box, row["clinical"], row["kind"])
