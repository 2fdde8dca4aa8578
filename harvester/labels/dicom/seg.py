"""Lesions of a segmentation object: segments that code or name a lesion, each split into what hangs together in 3D."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from scipy import ndimage

from harvester.errors import LabelError
from harvester.geometry import Array
from harvester.labels.dicom.lesions import Lesion, ReferredSeries, Region, box_round, code, kind_of, lesion_of, within
from harvester.labels.dicom.rules import MarkRules, Passed

Mask = NDArray[np.bool_]

LESION_CATEGORIES: Final = frozenset({"49755003", "M-01000"})
"""Morphologically abnormal structure (SNOMED CT, and its older id)."""
LESION_TYPES: Final = frozenset(
    {
        "108369006", "M-80003", "363346000", "86049000", "14799000", "27925004", "M-03010", "4147007", "M-03000",
        "52988006", "M-01100", "41647002", "44132006",
    }
)  # fmt: skip
"""Neoplasm (any, malignant, primary, secondary), nodule, mass, lesion, abscess."""
OTHER_CATEGORIES: Final = frozenset(
    {
        "123037004", "T-D000A", "91723000", "91772007", "113343008", "260787004", "A-00004", "91720002", "T-D0080",
        "105590001", "309825002", "R-42018", "246464006",
    }
)  # fmt: skip
"""Anatomical structure, organ, physical object, body substance, spatial concept, function. Tissue is what 3D Slicer
writes where nobody chose: it says nothing."""
TISSUE: Final = frozenset({"85756007", "T-D0050"})
MOST_PARTS: Final = 100_000
"""A segment of more is noise."""
MOST_MASK_BYTES: Final = 1 << 31
"""Of segments on their slices, a byte per pixel: a small frame may lie on a large slice."""
EVERYWHERE: Final = np.ones((3, 3, 3))


def read_seg(item: pydicom.Dataset, frames: Iterable[Array], series: ReferredSeries, rules: MarkRules) -> list[Lesion]:
    """The lesions that a segmentation marks on the series; `frames` are its stored values, (rows, columns) each, one
    of which is held at a time.

    Raises LabelError for frames that do not lie on the series; a broken object raises what pydicom raises.
    """
    wanted, _ = sorted_segments(item, rules)
    masks: dict[int, dict[int, Mask]] = defaultdict(dict)
    room = MOST_MASK_BYTES
    for functional, frame in zip(item.PerFrameFunctionalGroupsSequence, frames, strict=True):
        for number in wanted:
            mask = _mask(item, functional, frame, number)
            if mask is not None and mask.any():
                k, placed = _placed(item, functional, mask, series)
                room -= placed.nbytes if k not in masks[number] else 0
                if room < 0:
                    raise LabelError("a segmentation of more segments and slices than memory is given")
                masks[number][k] = placed | masks[number].get(k, np.zeros_like(placed))
    return [
        lesion_of(part, _kind(wanted[number]), str(wanted[number].get("TrackingUID", "")) if len(parts) == 1 else "")
        for number, planes in sorted(masks.items())
        for parts in [_parts(planes)]
        for part in parts
    ]


def sorted_segments(item: pydicom.Dataset, rules: MarkRules) -> tuple[dict[int, pydicom.Dataset], Counter[Passed]]:
    """The segments that are lesions, by number, and why others are passed over."""
    wanted: dict[int, pydicom.Dataset] = {}
    passed: Counter[Passed] = Counter()
    for each in item.SegmentSequence:
        why = _why_not(each, rules)
        if why is None and each.get("SegmentAlgorithmType") == "AUTOMATIC" and not rules.machine_marks:
            why = Passed.MACHINE
        if why is None:
            wanted[int(each.SegmentNumber)] = each
        else:
            passed[why] += 1
    return wanted, passed


def _why_not(segment: pydicom.Dataset, rules: MarkRules) -> Passed | None:
    """None for a lesion: by code, or by its name where the codes say nothing of it."""
    category = code(segment, "SegmentedPropertyCategoryCodeSequence")
    kind = code(segment, "SegmentedPropertyTypeCodeSequence")
    if category in LESION_CATEGORIES or kind in LESION_TYPES | rules.lesion_codes:
        return None
    told = rules.tell(str(segment.get("SegmentLabel", "")))
    if told:
        return None
    other = category in OTHER_CATEGORIES or told is False or _is_named_structure(segment, kind)
    return Passed.ORGAN if other else Passed.CODE


def _is_named_structure(segment: pydicom.Dataset, kind: str) -> bool:
    """Whether a public code says what the segment is: a muscle, say, whatever its category."""
    found = segment.get("SegmentedPropertyTypeCodeSequence")
    scheme = str(found[0].get("CodingSchemeDesignator", "99")) if found else "99"
    return bool(kind) and kind not in TISSUE and not scheme.startswith("99")


def _kind(segment: pydicom.Dataset) -> str:
    regions = [str(each.get("CodeValue", "")) for each in segment.get("AnatomicRegionSequence") or ()]
    return kind_of([code(segment, "SegmentedPropertyTypeCodeSequence"), *regions])


def _mask(item: pydicom.Dataset, functional: pydicom.Dataset, frame: Array, number: int) -> Mask | None:
    """Where a frame shows a segment; None for a frame of another one."""
    kind = item.get("SegmentationType")
    if kind == "LABELMAP":
        return np.asarray(frame == number)
    if int(_first(item, functional, "SegmentIdentificationSequence").ReferencedSegmentNumber) != number:
        return None
    return np.asarray(
        frame >= 0.5 * int(item.get("MaximumFractionalValue", 255)) if kind == "FRACTIONAL" else frame > 0
    )


def _first(item: pydicom.Dataset, functional: pydicom.Dataset, sequence: str) -> pydicom.Dataset:
    """The first item of a frame's own sequence, or of the one that all frames share."""
    first: pydicom.Dataset = (functional.get(sequence) or item.SharedFunctionalGroupsSequence[0][sequence].value)[0]
    return first


def _placed(item: pydicom.Dataset, functional: pydicom.Dataset, mask: Mask, series: ReferredSeries) -> tuple[int, Mask]:
    """The slice of the series on which a frame lies, and the mask in that slice's pixels."""
    origin = np.array(list(_first(item, functional, "PlanePositionSequence").ImagePositionPatient), np.float64)
    turned = np.array(list(_first(item, functional, "PlaneOrientationSequence").ImageOrientationPatient), np.float64)
    row_mm, column_mm = (float(mm) for mm in _first(item, functional, "PixelMeasuresSequence").PixelSpacing)
    way = np.concatenate([series.right, series.down])
    if not np.allclose(turned, way, atol=1e-3) or not np.allclose((column_mm, row_mm), series.pixel_mm, rtol=1e-2):
        raise LabelError("a segmentation in another grid than its series; resample it to the series")
    k = series.slice_of(origin)
    j, i = np.rint(series.on_slice(k, origin[None])[0] - 0.5).astype(int)[::-1]
    return k, _moved(mask, int(i), int(j), series.size_px)


def _moved(mask: Mask, i: int, j: int, size_px: tuple[int, int]) -> Mask:
    """The mask with its first pixel at column i and row j of an image of the series."""
    rows, columns = np.nonzero(mask)
    rows, columns = rows + j, columns + i
    inside = (rows >= 0) & (rows < size_px[1]) & (columns >= 0) & (columns < size_px[0])
    if not inside.all():
        raise LabelError("a segment reaches beyond the image")
    placed = np.zeros(size_px[::-1], bool)
    placed[rows, columns] = True
    return placed


def _parts(planes: dict[int, Mask]) -> list[list[Region]]:
    """What hangs together over the slices, edges and corners included."""
    low, high = min(planes), max(planes)
    used = np.any(list(planes.values()), axis=0)
    rows, columns = (np.flatnonzero(used.any(axis)) for axis in (1, 0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    blank = np.zeros_like(used[window])
    stacked = np.stack([planes[k][window] if k in planes else blank for k in range(low, high + 1)])
    labels, count = ndimage.label(stacked, EVERYWHERE)
    if count > MOST_PARTS:
        raise LabelError(f"a segment of {count} parts")
    found: list[list[Region]] = []
    for number, places in enumerate(ndimage.find_objects(labels), start=1):
        part, regions = labels[places] == number, list[Region]()
        for z in np.flatnonzero(part.any((1, 2))):
            y, x = np.nonzero(part[z])
            corner = np.array([columns[0] + places[2].start, rows[0] + places[1].start])
            points = np.stack([x, y], axis=1) + corner
            box = within(box_round(np.concatenate([points, points + 1])), used.shape[::-1])
            regions.append((low + places[0].start + int(z), box, float(len(points))))
        found.append(regions)
    return found
