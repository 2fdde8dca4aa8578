"""Which marks of an archive count, and boxes on a file's slices to Marks in the stored order, one per lesion."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive.tables import MarkRow, ScanFiles
from harvester.datasets.discovery import clipped, salted_hash
from harvester.errors import VolumeError
from harvester.imaging.slice_map import SliceMap
from harvester.records import Mark, Reject, Split, Volume

DRAWN_IN: Final = (Split.VM, Split.VH_TEST)
"""What is completely marked, and rehearses or hides the lesions that the clinic had not marked."""
WITH_MASKS: Final = ("auto", "mask")
"""data.archive.marks with which label masks are marks."""
WITH_OBJECTS: Final = ("auto", "objects")
"""... with which DICOM objects give marks."""
ROUNDING_PX: Final = 0.01
"""A box that ends this far outside the image ends at its edge: x + width is rounded."""


def marked_once(
    scans: Iterable[ScanFiles], settings: ArchiveSettings, salt: str
) -> tuple[list[ScanFiles], list[Reject]]:
    """The scans that have marks of one kind at most; of two, lesions would count twice, and the scan is refused."""
    return _sifted(scans, lambda each: _twice(each, settings), salt)


def refuse_doubtful(
    scans: Iterable[ScanFiles], settings: ArchiveSettings, salt: str
) -> tuple[list[ScanFiles], list[Reject]]:
    """Refuse scans that a table gives to V_M or V_H^test although some of their marks may not have been read."""
    return _sifted(scans, _not_complete, salt)


def _sifted(
    scans: Iterable[ScanFiles], fault: Callable[[ScanFiles], tuple[str, str] | None], salt: str
) -> tuple[list[ScanFiles], list[Reject]]:
    """The scans without a fault, and a row for each of the others: fault tells its reason and words."""
    kept, rejects = [], []
    for each in scans:
        found, hashed = fault(each), salted_hash(each.key, salt)
        if found:
            files = tuple(map(str, (*each.files, *each.masks)))
            rejects.append(Reject(hashed, found[0], f"volume v{hashed}: {found[1]}", files))
        else:
            kept.append(each)
    return kept, rejects


def renumbered(rows: Sequence[MarkRow], skipped: Sequence[int], volume_id: str) -> list[MarkRow]:
    """Marks on the slices that are kept. Raises VolumeError, bad_mark, for one on a slice that is left out."""
    for row in rows:
        if row["z"] in skipped:
            raise VolumeError(
                "bad_mark",
                f"volume {volume_id}: the mark of {row['where']} is on a slice that is left out: its size, spacing or "
                "orientation is not that of the others; correct it, or mark a slice beside it",
            )
    return [{**row, "z": row["z"] - sum(each < row["z"] for each in skipped)} for row in rows]


def _not_complete(scan: ScanFiles) -> tuple[str, str] | None:
    if not scan.doubtful or scan.known.split not in DRAWN_IN:
        return None
    return "not_complete", (
        f"a table gives it to {scan.known.split}, where every lesion is marked, but {scan.doubtful} parts of its DICOM "
        "objects may be lesions and give no mark (rows marks_passed_over); give it to vh, or see to those"
    )


def _twice(scan: ScanFiles, settings: ArchiveSettings) -> tuple[str, str] | None:
    masks = len(scan.masks) if settings.marks in WITH_MASKS else 0
    if masks > 1:
        return "two_masks", f"has {masks} label masks; join them to one"
    kinds = sorted(scan.known.tables) + ["a label mask"] * masks
    if len(kinds) > 1:
        tables = " and in ".join(kinds)
        return "two_sources", f"has marks in {tables}; say which count: data.archive.marks = csv, coco or mask"
    return None


def is_unflagged(split: str, rows: Sequence[MarkRow], settings: ArchiveSettings) -> bool:
    """Whether the clinical ones among a scan's lesions are to be drawn: as the settings say, or nobody said which they
    are. `rows` are those of tables; masks and DICOM objects cannot say it."""
    if split not in DRAWN_IN or settings.clinical_marks == "given":
        return False
    return settings.clinical_marks == "largest" or all(row["clinical"] is None for row in rows)


def stored_marks(volume: Volume, slice_map: SliceMap, rows: Sequence[MarkRow]) -> list[Mark]:
    """A Mark per lesion: rows of one lesion give their largest box; a row that is there twice counts once.

    Raises VolumeError: bad_mark (outside the scan, or less than a voxel), not_axial.
    """
    lesions: dict[object, list[Mark]] = {}
    for number, row in enumerate(rows):
        mark = _mark(volume, slice_map, number, row)
        lesions.setdefault(row["lesion"] or replace(mark, mark_id=""), []).append(mark)
    return [_largest(marks) for marks in lesions.values()]


def _largest(marks: Sequence[Mark]) -> Mark:
    """The lesion's mark: its largest box, the lowest of equals; clinical if any is."""
    found = max(marks, key=lambda mark: ((mark.x2 - mark.x1 + 1) * (mark.y2 - mark.y1 + 1), -mark.z))
    return replace(found, clinical=any(mark.clinical for mark in marks))


def _mark(volume: Volume, slice_map: SliceMap, number: int, row: MarkRow) -> Mark:
    columns, rows, slices = slice_map.shape
    x1, y1, x2, y2 = row["box_xyxy"]
    inside = -ROUNDING_PX <= x1 <= x2 <= columns - 1 + ROUNDING_PX
    inside = inside and -ROUNDING_PX <= y1 <= y2 <= rows - 1 + ROUNDING_PX
    if not (inside and 0 <= row["z"] < slices):
        raise VolumeError(
            "bad_mark",
            f"volume {volume.volume_id}: the mark of {row['where']} lies outside the scan of {slices} slices, "
            f"{rows} rows, {columns} columns, or is less than a voxel (z, y, x from 0, x1 <= x2, y1 <= y2); "
            "correct it",
        )
    placed = slice_map.box(row["z"], clipped((x1, y1, x2, y2), rows, columns))
    return Mark(volume.volume_id, f"{volume.volume_id}-{number}", *placed, row["clinical"] is not False, row["kind"])
