"""The marks of the SR, SEG and RTSTRUCT objects that refer to a DICOM series, in the stored order.

`look_at` tells, before anything is stored, which series an object marks and what of it gives no lesion there.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pydicom

from harvester.errors import LabelError, VolumeError, about_volume
from harvester.geometry import Array
from harvester.imaging.dicom.file import (
    BROKEN,
    MOST_FILE_BYTES,
    MOST_REPORT_BYTES,
    read_header,
    read_whole,
    silence_dicom_loggers,
)
from harvester.imaging.dicom.pixels import MOST_SEGMENTATION_BYTES, check_size, decoded_frames
from harvester.imaging.dicom.reader import DicomSeries
from harvester.labels.dicom.lesions import Lesion, ReferredSeries, merged
from harvester.labels.dicom.read import WITH_PIXELS, passed_over, read_lesions
from harvester.labels.dicom.rules import MarkRules, Passed
from harvester.records import Mark

ADVICE: Final = "correct it, or take it out of the archive: a lesion that is known must not count as unmarked"


@dataclass(frozen=True)
class ObjectLook:
    """An object without its pixels. sops: of the images that it names."""

    item: pydicom.Dataset
    sops: frozenset[str]

    def passed_over(
        self, sops: Collection[str], frame: str, rules: MarkRules, others: Collection[str] = ()
    ) -> Counter[Passed]:
        """What of it gives no lesion on the series of these slices; nothing for what reading it will tell is broken.

        others: frames of reference of further series that it marks.
        """
        try:
            return passed_over(self.item, sops, frame, rules, others)
        except BROKEN:
            return Counter()


def look_at(file: Path) -> ObjectLook | None:
    """None for an object that is broken: reading its marks will tell. Call within `silence_dicom_loggers`."""
    try:
        item = read_header(file) if _has_pixels(file) else read_whole(file, MOST_REPORT_BYTES)
        named = (str(each.value) for each in item.iterall() if each.keyword == "ReferencedSOPInstanceUID")
        return ObjectLook(item, frozenset(named))
    except (VolumeError, *BROKEN):
        return None


def _has_pixels(file: Path) -> bool:
    return read_header(file, ["SOPClassUID"]).SOPClassUID in WITH_PIXELS


def read_object_marks(series: DicomSeries, files: Iterable[Path], rules: MarkRules) -> list[Mark]:
    """One Mark per lesion, on the slice where it is largest; none where the objects mark none.

    Raises VolumeError bad_mark for an object that cannot be read or marks what is outside the series.
    """
    name = series.volume.volume_id
    with silence_dicom_loggers(), about_volume(name):
        referred = _referred(series)
        found = [lesion for file in files for lesion in _lesions(file, referred, rules)]
    return [
        Mark(name, f"{name}-d{number}", *series.assembled.slices.box(each.key, each.boxes[each.key]), True, each.kind)
        for number, each in enumerate(merged(found))
    ]


def _lesions(file: Path, referred: ReferredSeries, rules: MarkRules) -> list[Lesion]:
    try:
        with_pixels = _has_pixels(file)
        item = read_whole(file, MOST_FILE_BYTES if with_pixels else MOST_REPORT_BYTES)
        frames: Iterator[Array] = iter(())
        if with_pixels:
            check_size(item, MOST_SEGMENTATION_BYTES, "a segmentation")
            frames = decoded_frames(item)
        return read_lesions(item, frames, referred, rules)
    except LabelError as error:
        raise VolumeError("bad_mark", f"{error}, in a DICOM object that marks it; {ADVICE}") from None
    except VolumeError as error:
        raise VolumeError("bad_mark", f"{error}; it is an object with marks: {ADVICE}") from None
    except BROKEN as error:
        raise VolumeError(
            "bad_mark", f"a DICOM object that marks it is broken ({type(error).__name__}); {ADVICE}"
        ) from None


def _referred(series: DicomSeries) -> ReferredSeries:
    stack, order = series.stack, series.assembled.order
    headers: list[pydicom.Dataset] = [series.headers[index] for index in order]
    return ReferredSeries(
        sops={str(item.get("SOPInstanceUID", "")): k for k, item in enumerate(headers)},
        frame=str(headers[0].get("FrameOfReferenceUID", "")),
        origins_mm=stack.positions_mm[list(order)],
        right=stack.right,
        down=stack.down,
        pixel_mm=stack.pixel_mm,
        size_px=stack.size_px,
    )
