"""The marks of the SR, SEG and RTSTRUCT objects that refer to a DICOM series, in the stored order."""

from collections.abc import Iterable, Iterator
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
from harvester.labels.dicom.read import WITH_PIXELS, read_lesions
from harvester.records import Mark

ADVICE: Final = "correct it, or take it out of the archive: a lesion that is known must not count as unmarked"


def read_object_marks(series: DicomSeries, files: Iterable[Path], machine_marks: bool) -> list[Mark]:
    """One Mark per lesion, on the slice where it is largest; none where the objects mark none.

    Raises VolumeError bad_mark for an object that cannot be read or marks what is outside the series.
    """
    name = series.volume.volume_id
    with silence_dicom_loggers(), about_volume(name):
        referred = _referred(series)
        found = [lesion for file in files for lesion in _lesions(file, referred, machine_marks)]
    return [
        Mark(name, f"{name}-d{number}", *series.assembled.slices.box(each.key, each.boxes[each.key]), True, each.kind)
        for number, each in enumerate(merged(found))
    ]


def _lesions(file: Path, referred: ReferredSeries, machine_marks: bool) -> list[Lesion]:
    try:
        with_pixels = read_header(file, ["SOPClassUID"]).SOPClassUID in WITH_PIXELS
        item = read_whole(file, MOST_FILE_BYTES if with_pixels else MOST_REPORT_BYTES)
        frames: Iterator[Array] = iter(())
        if with_pixels:
            check_size(item, MOST_SEGMENTATION_BYTES, "a segmentation")
            frames = decoded_frames(item)
        return read_lesions(item, frames, referred, machine_marks)
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
